"""What a tracker is: whoever wants a run's figures while it runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from satbench.training.config import TrainConfig


class Tracker(Protocol):
    """Callbacks of a training, called by its first process alone, each after what it tells of was saved.

    So no row ever comes with other values than before, also when a killed run takes updates again.
    """

    def on_train_begin(self, config: TrainConfig, out: Path) -> None:
        """The run in the folder `out` starts or continues."""

    def on_step_end(self, row: dict[str, Any]) -> None:
        """A row of steps.jsonl, see `training.steps`; only where `log_steps` was given."""

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl with that of times.jsonl."""

    def on_train_end(self, finished: bool) -> None:
        """The run has come to its end, or else was stopped; a killed one cannot say so."""


def figures(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row, their names behind `prefix`."""
    return {f"{prefix}{name}": value for name, value in row.items() if isinstance(value, int | float)}
