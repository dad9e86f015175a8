"""What a tracker is: an object that receives a run's figures while it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from satbench.training.config import TrainConfig


class Tracker(Protocol):
    """Callbacks of a training, called by its first process alone, each after the figures it is given were saved.

    So no row is ever given again with other values, also when a killed run takes updates again.
    """

    def on_train_begin(self, config: TrainConfig, out: Path) -> None:
        """The run in the folder `out` starts or continues."""

    def on_step_end(self, row: dict[str, Any]) -> None:
        """A row of steps.jsonl, see `training.steps`; only where `log_steps` was given."""

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl with that of times.jsonl."""

    def on_train_end(self, finished: bool) -> None:
        """The run is finished, or else was stopped; not called when the process is killed."""


def figures(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row, their names behind `prefix`."""
    return {f"{prefix}{name}": value for name, value in row.items() if isinstance(value, int | float)}
