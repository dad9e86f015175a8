"""The log of a run: its rows, its best and its last epoch, its newest figures, and what measuring cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from satbench.core.errors import BadInput
from satbench.results.training_log import Ending, Epoch, Times
from satbench.training.state import Position


def trained(position: Position, lr: float, images: int, counted: bool) -> Epoch:
    """The row of an epoch whose updates on `images` images have been taken, before it is measured.

    Passes are left out unless `counted`.
    """
    return Epoch(
        epoch=position.epoch,
        lr=lr,
        train_loss=position.loss_sum / position.step,
        train_accuracy=None if position.correct is None else position.correct / images,
        forward=position.forward / position.images if counted else None,
        backward=position.backward / position.images if counted else None,
    )


def timed(position: Position, images: int, measuring: float) -> Times:
    """The times of the epoch; measuring it on the validation split took `measuring` seconds."""
    return Times(
        epoch=position.epoch,
        seconds=round(position.seconds, 3),
        images_per_second=round(images / position.seconds, 1),
        measuring_seconds=round(measuring, 3),
    )


def last_epoch(history: Sequence[Epoch]) -> int:
    """The epoch whose weights are kept as the last ones."""
    return len(history) - (2 if history[-1].ended == Ending.ROLLBACK else 1)


@dataclass(frozen=True)
class Best:
    """What makes an epoch the best: the highest figures, the first one first; from epoch `first` on."""

    figures: tuple[str, ...]
    first: int = 0


def best_epoch(history: Sequence[Epoch], best: Best) -> int:
    """The best of the measured epochs; the last one where none was measured yet."""
    last = last_epoch(history)
    there = {row.epoch: row.val.figures for row in history[best.first : last + 1] if row.val is not None}
    for epoch, figures in there.items():
        if missing := [name for name in best.figures if name not in figures]:
            raise BadInput(f"epoch {epoch + 1} of the log lacks the figure {missing[0]!r}; train into a new folder")
    return max(there, key=lambda epoch: (*(there[epoch][name] for name in best.figures), -epoch), default=last)


def newest(history: Sequence[Epoch], times: Sequence[Times]) -> str:
    """What the newest measurement gave, and which share of the time measuring has taken; empty before the first."""
    for row in reversed(history):
        if row.val is not None:
            return (
                f"epoch {row.epoch + 1}: val {', '.join(f'{name} {x:.3g}' for name, x in row.val.figures.items())}"
                f"{f', alarm: {row.alarm}' if row.alarm else ''}, "
                f"measured in {measuring_share(times):.0%} of the time"
            )
    return ""


def measuring_share(times: Sequence[Times]) -> float:
    """The share of a run's time in which it was measured on the validation split."""
    measuring = sum(row.measuring_seconds for row in times)
    return measuring / (measuring + sum(row.seconds for row in times))
