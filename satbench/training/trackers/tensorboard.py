"""TensorBoard, the extra of that name."""

from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput
from satbench.training.config import TrainConfig
from satbench.training.trackers.base import figures


class TensorBoard:
    """Event files in OUT/tensorboard, one of each process: scalars over epochs, and `step/...` over updates.

    Raises `BadInput` without the extra.
    """

    faults: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise BadInput("tracker tensorboard needs its extra: pip install 'satbench[tensorboard]'") from None
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def on_train_begin(self, config: TrainConfig, out: Path) -> None:
        self._writer = self._make(str(out / "tensorboard"))

    def on_step_end(self, row: dict[str, Any]) -> None:
        self._add(figures(row, "step/"), row["update"])

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        self._add(figures(row), row["epoch"])
        self._writer.flush()

    def on_train_end(self, finished: bool) -> None:
        self._writer.close()

    def _add(self, scalars: dict[str, float], at: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, at)
