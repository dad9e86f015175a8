"""When a run is measured, and when and why it ends: functions of its config and its log."""

from collections.abc import Sequence

from satbench.results.training_log import Ending, Epoch
from satbench.training.config import TrainConfig
from satbench.training.log import Best, best_epoch


def is_measured(config: TrainConfig, epoch: int) -> bool:
    """Whether an epoch, counted from 0, is measured on the validation split, where there is one."""
    return epoch + 1 == config.epochs or (epoch + 1) % config.measure.every == 0


def ending(config: TrainConfig, best: Best, history: Sequence[Epoch]) -> Ending:
    """Why the run ends with the last epoch of its log; NONE when it continues or its last epoch is done.

    The weights of the first epoch are never rolled back, because there are none before.
    """
    stop = config.stop
    if history[-1].alarm and stop.collapse != "note":
        return Ending.ROLLBACK if stop.collapse == "rollback" and len(history) > 1 else Ending.COLLAPSE
    waited = len(history) - 1 - best_epoch(history, best)
    if stop.patience is not None and waited >= stop.patience and len(history) < config.epochs:
        return Ending.PATIENCE
    return Ending.NONE


def in_words(ended: Ending, config: TrainConfig) -> str:
    """Why a run of `config` ended early; "" where it did not."""
    return {
        Ending.NONE: "",
        Ending.PATIENCE: f"no better epoch in {config.stop.patience}",
        Ending.COLLAPSE: "catastrophic overfitting",
        Ending.ROLLBACK: "catastrophic overfitting; the last weights are those of the epoch before",
    }[ended]


def is_over(config: TrainConfig, history: Sequence[Epoch]) -> bool:
    """Whether the run with this log is over, early or not."""
    return bool(history) and (len(history) == config.epochs or history[-1].ended != Ending.NONE)
