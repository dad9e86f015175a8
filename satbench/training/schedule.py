"""The learning rate as a share of its peak, at any point of a run."""

import math
from collections.abc import Callable, Sequence

from satbench.errors import BadInput
from satbench.lookup import pick


def one_cycle(progress: float, epochs: int = 1) -> float:
    """A triangle: up from 0 over the first 30% of the run, then down to 0."""
    return triangle(progress, epochs, peak=0.3)


def triangle(progress: float, epochs: int = 1, peak: float = 0.5) -> float:
    """Up from 0 to 1 over the share `peak` of the run, then down to 0.

    The peak is half of the run in Wong et al. 2020 (arXiv 2001.03994), 0.4 in Andriushchenko & Flammarion 2020 (arXiv
    2007.02617). Raises `BadInput` for a peak outside [0, 1).
    """
    if not _is_number(peak) or not 0 <= peak < 1:
        raise BadInput(f"peak {peak!r} of schedule 'triangle'; give a share of the run, from 0 to below 1")
    return progress / peak if progress < peak else (1 - progress) / (1 - peak)


def cosine(progress: float, epochs: int = 1) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def piecewise(
    progress: float, epochs: int = 1, milestones: Sequence[float] | None = None, factor: float = 0.1
) -> float:
    """1, times `factor` from each of `milestones` on, in epochs; one that lies beyond the end is never reached.

    Without milestones they are half and three quarters of the run (Rice et al. 2020, arXiv 2002.11569). Raises
    `BadInput` for milestones that are no positive numbers and a factor outside [0, 1].
    """
    if milestones is None:
        milestones = (0.5 * epochs, 0.75 * epochs)
    if not isinstance(milestones, list | tuple) or not all(_is_number(one) and one > 0 for one in milestones):
        raise BadInput(f"milestones {milestones!r} of schedule 'piecewise'; give a list of epochs, such as [75, 90]")
    if list(milestones) != sorted(set(milestones)):
        raise BadInput(f"milestones {milestones!r} of schedule 'piecewise'; give each once, the earliest first")
    if not _is_number(factor) or not 0 <= factor <= 1:
        raise BadInput(f"factor {factor!r} of schedule 'piecewise'; give a number from 0 to 1")
    return float(factor ** sum(progress >= milestone / epochs for milestone in milestones))


def constant(progress: float, epochs: int = 1) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[..., float]] = {
    "one-cycle": one_cycle,
    "triangle": triangle,
    "cosine": cosine,
    "piecewise": piecewise,
    "constant": constant,
}


def lr_factor(schedule: str, params: dict[str, object], progress: float, epochs: int) -> float:
    """The share of the peak at `progress` in [0, 1) of a run of `epochs`; raises `BadInput` for what is unknown."""
    factor: float = pick(SCHEDULES, schedule, "schedule", progress, epochs, **params)
    return factor


def warmup(epoch: float, length: float) -> float:
    """A line from 0 to 1 over the first `length` epochs, then 1; 1 throughout where `length` is 0."""
    return min(1.0, epoch / length) if length > 0 else 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
