"""The learning rate as a share of its peak, at any point of a run."""

import math
from collections.abc import Callable


def one_cycle(progress: float) -> float:
    """A triangle: up from 0 over the first 30% of the run, then down to 0."""
    return progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def piecewise(progress: float) -> float:
    """1, a tenth from half of the run, a hundredth from three quarters (Rice et al. 2020, arXiv 2002.11569)."""
    return 1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "cosine": cosine,
    "piecewise": piecewise,
    "constant": constant,
}
