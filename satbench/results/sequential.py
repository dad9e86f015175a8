"""Has a figure moved? Tests of paired outcomes that stay valid when images come in batches until the answer is clear.

An image contributes a step: its new outcome minus its old one, -1, 0 or 1. Of independent images with steps of mean
`mean` or more, a bettor who stakes a fixed share of the capital against large steps makes a supermartingale, so by
Ville's inequality the capital exceeds 1/p at any time with probability at most p. Averaging over several shares keeps
that. It is the diversified betting of Waudby-Smith & Ramdas 2024 (JRSS B 86:1, arXiv 2010.09686, appendix B), with
replacement: the images stand for others like them, and an outcome that rounding flips is chance, not a change.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from satbench.results.metrics import Paired, mcnemar_p, score

Steps = npt.NDArray[np.int8]
Counts = npt.NDArray[np.int64]
SHARES = np.array([1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 15 / 16, 31 / 32])  # of the largest stake
WEIGHTS = np.arange(1, 10) / 45  # most on large stakes, which are best where few images flip by chance
LEVEL = 0.05  # false alarms over all figures of a suite
MISS = 0.10  # chance to clear a figure in spite of a drop of the stated size
EARLY = 0.7  # share of `LEVEL` that is spent before the last image
CLEARED = 0.6  # share of `MISS` likewise
FIRST = 64  # images of the first look
GROWTH = 1.15  # of the images from look to look
GROWTH_BY_UNITS = 2  # where the last, partial unit of images is measured again at every look


def looks(whole: int, unit: int = 0) -> Iterator[int]:
    """Growing numbers of images, up to all of them; in fewer steps where attacks draw for a `unit` of images."""
    n = max(FIRST, unit)
    while n < whole:
        yield n
        n = math.ceil(n * (GROWTH_BY_UNITS if unit else GROWTH))
    yield whole


def log_capital(down: Counts, up: Counts, n: Counts, mean: float) -> npt.NDArray[np.float64]:
    """Log of the capital against "the mean of the steps is at least `mean`", of any one shape.

    down, up: how many of the first `n` steps are -1 and 1. Raises `ValueError` unless -1 < mean < 1.
    """
    if not -1 < mean < 1:
        raise ValueError(f"a mean of {mean} is not between -1 and 1")
    stakes = SHARES / (1 - mean)
    gains = [np.log1p(stakes * (1 + mean)), np.log1p(-stakes * (1 - mean)), np.log1p(stakes * mean)]
    counts = [down, up, n - down - up]
    logs = sum(count[..., None] * gain for count, gain in zip(counts, gains, strict=True))
    return np.asarray(np.logaddexp.reduce(logs + np.log(WEIGHTS), axis=-1))


def p_at_least(steps: Steps, mean: float) -> float:
    """The p-value of "the mean is at least `mean`", valid whenever and why ever the images end."""
    if not len(steps):
        return 1.0
    down, up = (np.cumsum(steps == one, dtype=np.int64) for one in (-1, 1))
    largest = float(log_capital(down, up, np.arange(1, len(steps) + 1), mean).max())
    return math.exp(-max(0.0, largest))


def p_moved(steps: Steps, tolerance: float, is_whole: bool) -> float:
    """The two-sided p-value of "the figure moved by no more than `tolerance`".

    Before the last image it is that of the sequence. With the last one, `is_whole`, the fixed test has its say too;
    the level is divided between both.
    """
    early = 2 * min(p_at_least(steps, -tolerance), p_at_least(-steps, -tolerance)) / EARLY
    late = p_fixed(paired(steps), tolerance) / (1 - EARLY) if is_whole else 1.0
    return min(1.0, early, late)


def p_fixed(pair: Paired, tolerance: float) -> float:
    """The same for a fixed number of images: exact McNemar, or with a tolerance Tango's score test at its bounds."""
    if not tolerance:
        return mcnemar_p(pair.only_a, pair.only_b)
    beyond = abs(pair.difference) - tolerance
    if beyond <= 0:
        return 1.0
    z = abs(score(pair, math.copysign(tolerance, pair.difference)))
    return min(1.0, math.erfc(z / math.sqrt(2)))


def excludes(steps: Steps, size: float) -> bool:
    """Whether a drop and a rise of `size` are both excluded, each with a chance to err of at most `CLEARED * MISS`."""
    return size < 1 and max(p_at_least(-steps, size), p_at_least(steps, size)) <= CLEARED * MISS


@dataclass(frozen=True)
class Interval:
    """Where the mean step lies, at any time with the confidence `1 - level`."""

    low: float
    high: float


def confidence(steps: Steps, level: float = LEVEL) -> Interval:
    """The confidence sequence after these steps: every mean that neither side rejects at `level` / 2."""
    down, up = (np.array(int((steps == one).sum())) for one in (-1, 1))
    n = np.array(len(steps))

    def highest(down: Counts, up: Counts) -> float:
        low, high = -1.0, 1.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            is_rejected = float(log_capital(down, up, n, middle)) >= math.log(2 / level)
            low, high = (low, middle) if is_rejected else (middle, high)
        return high

    return Interval(-highest(up, down), highest(down, up))


def paired(steps: Steps) -> Paired:
    """The steps as McNemar's test counts them; `a` is the new outcome."""
    up, down = int((steps == 1).sum()), int((steps == -1).sum())
    return Paired(len(steps), up, down, mcnemar_p(up, down))


def p_published(right: int, n: int, rate: float, of: int, tolerance: float) -> float:
    """The two-sided p-value of "`right` of `n` images and a `rate` of others differ by no more than `tolerance`".

    of: on how many images the rate was measured. The score test of two independent rates with continuity correction;
    where the images are partly the same it is conservative.
    """
    apart = abs(right / n - rate) - tolerance - (1 / n + 1 / of) / 2
    pooled = (right + rate * of) / (n + of)
    variance = pooled * (1 - pooled) * (1 / n + 1 / of)
    if apart <= 0 or variance <= 0:
        return 1.0
    return math.erfc(apart / math.sqrt(2 * variance))
