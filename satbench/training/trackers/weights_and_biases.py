"""Weights & Biases, the extra `wandb`."""

import os
import secrets
from pathlib import Path
from typing import Any

from satbench.core.bounded import read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.training.config import TrainConfig
from satbench.training.trackers.base import figures

ID = "wandb-run-id.txt"


class WeightsAndBiases:
    """One run in the project that WANDB_PROJECT names, or else `satbench`.

    Figures are shown over epochs, `step/...` over updates. WANDB_MODE=offline keeps everything in OUT/wandb. The run's
    id is in OUT/wandb-run-id.txt, by which a resumed run continues it. Raises `BadInput` without the extra.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise BadInput("tracker wandb needs its extra: pip install 'satbench[wandb]'") from None
        self._wandb: Any = wandb
        self._defined: set[str] = set()  # whose x axis W&B knows
        self.faults: tuple[type[Exception], ...] = (wandb.Error,)

    def on_train_begin(self, config: TrainConfig, out: Path) -> None:
        file = out / ID
        if not file.is_file():
            write_text(file, f"{secrets.token_hex(8)}\n")
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "satbench"),
            name=out.absolute().name,
            id=read_bounded(file).decode().strip(),
            resume="allow",
            dir=str(out),
            config=config.model_dump(mode="json"),
        )
        self._run.config.update(config.model_dump(mode="json"), allow_val_change=True)

    def on_step_end(self, row: dict[str, Any]) -> None:
        self._log(figures(row, "step/"), over="step/update")

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        self._log(figures(row), over="epoch")

    def on_train_end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)

    def _log(self, scalars: dict[str, float], over: str) -> None:
        for name in scalars.keys() - self._defined:
            self._run.define_metric(name, step_metric=over)
        self._defined |= scalars.keys()
        self._run.log(scalars)
