"""The learning rate as a share of its peak, at any point of a run."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from satbench.core.errors import BadInput
from satbench.core.lookup import pick
from satbench.core.parameters import Number, Share, ShareBelow1, check
from satbench.training.config import TrainConfig

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_CHANGES = 5  # of the learning rate that are all named
Milestones = Annotated[
    Sequence[Annotated[Number, Field(gt=0, lt=1)]],
    Field(description="shares of the run between 0 and 1, such as [0.5, 0.75], or 0.5+0.75 on the command line"),
]


def one_cycle(progress: float) -> float:
    """A triangle: up from 0 over the first 30% of the run, then down to 0."""
    return triangle(progress, peak=0.3)


def triangle(progress: float, peak: float = 0.5) -> float:
    """Up from 0 to 1 over the share `peak` of the run, then down to 0.

    The peak is half of the run in Wong et al. 2020 (arXiv 2001.03994), 0.4 in Andriushchenko & Flammarion 2020 (arXiv
    2007.02617). Raises `BadInput` for a peak outside [0, 1).
    """
    check("peak of schedule 'triangle'", peak, ShareBelow1)
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def piecewise(progress: float, milestones: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> float:
    """1, times `factor` from each of `milestones` on, which are shares of the run.

    The defaults are epochs 100 and 150 of the 200 of Rice et al. 2020 (arXiv 2002.11569). Raises `BadInput` for
    milestones outside (0, 1) and a factor outside [0, 1].
    """
    check("milestones of schedule 'piecewise'", milestones, Milestones)
    if list(milestones) != sorted(set(milestones)):
        raise BadInput(f"milestones of schedule 'piecewise' is {milestones!r}; give each once, the earliest first")
    check("factor of schedule 'piecewise'", factor, Share)
    return float(factor ** sum(progress >= milestone for milestone in milestones))


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[..., float]] = {
    "one-cycle": one_cycle,
    "triangle": triangle,
    "cosine": cosine,
    "piecewise": piecewise,
    "constant": constant,
}


def lr_factor(schedule: str, params: dict[str, object], progress: float) -> float:
    """The share of the peak at `progress` in [0, 1) of a run; raises `BadInput` for what is unknown."""
    factor: float = pick(SCHEDULES, schedule, "schedule", progress, **params)
    return factor


def learning_rate(config: TrainConfig, progress: float, epoch: float) -> float:
    """The learning rate at `progress` in [0, 1) of a run and at its fractional `epoch`, warm-up included."""
    settings = config.optimizer
    factor = lr_factor(config.schedule.name, config.schedule.params, progress)
    return settings.lr * factor * warmup(epoch, settings.warmup_epochs)


def drawing(rate: Callable[[float], float], epochs: int, columns: int = 60) -> list[str]:
    """The learning rate over a run in blocks, from 0 to its peak, and in numbers; `rate` gives that of an epoch.

    The numbers are those in the middle of each epoch that differs from the one before, where these are few; else of
    five epochs from the first to the last.
    """
    rates = [rate((i + 0.5) / columns * epochs) for i in range(columns)]
    peak = max(rates)
    blocks = "".join(BLOCKS[round(rate / peak * (len(BLOCKS) - 1))] for rate in rates)
    by_epoch = [rate(i + 0.5) for i in range(epochs)]
    chosen = [i for i, rate in enumerate(by_epoch) if i == 0 or rate != by_epoch[i - 1]]
    if len(chosen) > MOST_CHANGES:
        chosen = sorted({round(share * (epochs - 1)) for share in (0, 0.25, 0.5, 0.75, 1)})
    return [blocks, ", ".join(f"{by_epoch[i]:.3g} in epoch {i + 1}" for i in chosen) + " (in the middle of each)"]


def warmup(epoch: float, length: float) -> float:
    """A line from 0 to 1 over the first `length` epochs, then 1; 1 throughout where `length` is 0."""
    return min(1.0, epoch / length) if length > 0 else 1.0
