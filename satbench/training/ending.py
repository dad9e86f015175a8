"""When a run is measured, and when and why it ends: functions of its config and its log."""

from collections.abc import Sequence
from typing import Any

from satbench.methods import Method
from satbench.training.config import TrainConfig
from satbench.training.log import ROLLED_BACK, best_epoch


def is_measured(config: TrainConfig, epoch: int) -> bool:
    """Whether an epoch, counted from 0, is measured on the validation split, where there is one."""
    return epoch + 1 == config.epochs or (epoch + 1) % config.measure.every == 0


def is_rolled_back(config: TrainConfig, history: Sequence[dict[str, Any]]) -> bool:
    """Whether the last epoch's weights are given up; those of the first one are kept, for there are no others."""
    return bool(history[-1]["alarm"]) and config.stop.collapse == "rollback" and len(history) > 1


def reason_to_end(config: TrainConfig, method: Method, history: Sequence[dict[str, Any]]) -> str:
    """Why the run ends with the last epoch of its log, in words; "" when it goes on or has come to its last."""
    stop = config.stop
    if is_rolled_back(config, history):
        return ROLLED_BACK
    if history[-1]["alarm"] and stop.collapse != "note":
        return "catastrophic overfitting"
    waited = len(history) - 1 - best_epoch(history, method)
    if stop.patience is not None and waited >= stop.patience and len(history) < config.epochs:
        return f"no better epoch in {stop.patience}"
    return ""


def is_over(config: TrainConfig, history: Sequence[dict[str, Any]]) -> bool:
    """Whether the run with this log has come to its end, early or not."""
    return bool(history) and (len(history) == config.epochs or bool(history[-1]["ended"]))
