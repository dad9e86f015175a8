"""The log of a run: a row an epoch, its best and its last epoch, its newest figures, and what measuring cost."""

from collections.abc import Sequence
from typing import Any

from satbench.methods import Method
from satbench.training.state import Position

ROLLED_BACK = "catastrophic overfitting; the last weights are those of the epoch before"


def trained(position: Position, lr: float, images: int, counted: bool) -> dict[str, Any]:
    """The row of an epoch whose updates on `images` images have been taken, before it is measured.

    Passes are of an image and update, as the first process counted them; left out unless `counted`.
    """
    row: dict[str, Any] = {"epoch": position.epoch, "lr": lr, "train_loss": position.loss_sum / position.step}
    if position.correct is not None:
        row["train_accuracy"] = position.correct / images
    if counted:
        row |= {"forward": position.forward / position.images, "backward": position.backward / position.images}
    return row | {"alarm": "", "ended": ""}


def timed(position: Position, images: int, measuring: float) -> dict[str, Any]:
    """The times of the epoch, of which `measuring` seconds were for the validation split."""
    return {
        "epoch": position.epoch,
        "seconds": round(position.seconds, 3),
        "images_per_second": round(images / position.seconds, 1),
        "measuring_seconds": round(measuring, 3),
    }


def measured(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs that were measured on the validation split."""
    return [row for row in history if "val_n" in row]


def last_epoch(history: Sequence[dict[str, Any]]) -> int:
    """The epoch whose weights are kept as the last ones."""
    return len(history) - (2 if history[-1]["ended"] == ROLLED_BACK else 1)


def best_epoch(history: Sequence[dict[str, Any]], method: Method) -> int:
    """The best of the measured epochs; the last one before any was measured."""
    kept = measured(history[: last_epoch(history) + 1])
    if not kept:
        return last_epoch(history)
    return int(max(kept, key=lambda row: (*(row[name] for name in method.chosen_by), -row["epoch"]))["epoch"])


def newest(history: Sequence[dict[str, Any]], times: Sequence[dict[str, Any]]) -> str:
    """What the newest measurement gave, and which share of the time measuring has taken; empty before the first."""
    if not measured(history):
        return ""
    row = measured(history)[-1]
    alarm = f", alarm: {row['alarm']}" if row["alarm"] else ""
    return (
        f"epoch {row['epoch'] + 1}: val clean {row['val_clean']:.1%}, robust {row['val_robust']:.1%}{alarm}, "
        f"measured in {measuring_share(times):.0%} of the time"
    )


def measuring_share(times: Sequence[dict[str, Any]]) -> float:
    """The share of a run's time in which it was measured on the validation split."""
    measuring = sum(row["measuring_seconds"] for row in times)
    return float(measuring / (measuring + sum(row["seconds"] for row in times)))
