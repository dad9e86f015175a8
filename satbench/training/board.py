"""The log of a run for TensorBoard, the extra of that name."""

from functools import partial
from pathlib import Path
from typing import Any

from satbench.errors import BadInput


class Board:
    """Event files below `folder` that hold the numbers of a log as scalars, an epoch a step.

    The first row makes the file, and a resumed run begins another one with the whole log, which then stands for the
    file before. Raises `BadInput` without the extra, before anything is written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise BadInput("--tensorboard needs the extra: pip install 'satbench[tensorboard]'") from None
        self._open = partial(SummaryWriter, str(folder), purge_step=0)
        self._writer: Any = None

    def add(self, history: list[dict[str, Any]]) -> None:
        """Write the last row of a log; the first time all of them."""
        rows = history[-1:]
        if self._writer is None:
            self._writer, rows = self._open(), history
        for row in rows:
            for name, value in row.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
