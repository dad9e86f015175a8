"""Accuracies of networks and differences of two groups, over the choice of images and of training seeds together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit  # scipy.stats takes a second to import

from satbench.results.metrics import Z95, mcnemar, paired_interval, wilson

DRAWS = 10_000
CHUNK = 500  # draws at a time, which bounds the memory

Outcomes = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Crossed:
    """The mean difference of paired outcomes over `seeds` x `n` images.

    low, high: its 95% interval. p_value: two-sided, of no difference. freedom: degrees of freedom of the t
    distribution behind both. seed_sd: standard deviation over seeds of the difference of two networks of equal seed on
    these images.
    """

    seeds: int
    n: int
    difference: float
    low: float
    high: float
    p_value: float
    freedom: float
    seed_sd: float


@dataclass(frozen=True)
class Rate:
    """A mean over `seeds` x `n` outcomes, and its 95% interval."""

    seeds: int
    n: int
    mean: float
    low: float
    high: float


def crossed_rate(outcomes: Outcomes) -> Rate:
    """The share of right outcomes (seeds, n) of networks that differ in their seed, over seeds and images.

    Wilson's interval with an effective number of images: that of independent ones which give the variance of
    `crossed_difference`, times (1.96 / t)^2 for its degrees of freedom (Korn & Graubard 1998, Survey Methodology
    24:193, whose interval is Clopper and Pearson's), and at most n. So seeds that differ make it wider than that of n
    images, and none makes it narrower. Raises `ValueError` for no outcomes.
    """
    if outcomes.ndim != 2 or not outcomes.size:
        raise ValueError(f"outcomes of shape {outcomes.shape}; expected (seeds, n), at least 1 of each")
    seeds, n = outcomes.shape
    mean, effective = float(outcomes.mean()), float(n)
    if min(seeds, n) > 1:
        variance, freedom = _variance(outcomes.astype(np.float64))
        if variance and 0 < mean < 1:
            effective = min(effective, mean * (1 - mean) / variance * (Z95 / t_quantile(freedom)) ** 2)
    return Rate(seeds, n, mean, *wilson(mean * effective, effective))


def crossed_difference(ours: Outcomes, theirs: Outcomes) -> Crossed:
    """Compare outcomes (seeds, n) of networks that are paired by seed and by image, both of which vary.

    The model has random effects of seed and image: difference = mean + seed + image + rest. The variance of the mean is
    that of the means of the seeds over their number plus that of the means of the images over theirs, which counts the
    rest twice: the interval is a little too wide where the rest is large. The degrees of freedom are those of
    Satterthwaite (1946, Biometrics Bulletin 2:110); where few seeds that differ much decide, the interval is a little
    too narrow. `benchmarks/coverage.py` measures both. Where neither the means of the seeds nor those of the
    images differ, the variance is 0 and bounds nothing; interval and p-value are then those of the images of the first
    seed: Tango's score interval and the exact McNemar test, with infinite freedom. Raises `ValueError` unless both have
    one shape with at least 2 seeds and 2 images.
    """
    gaps = _gaps(ours, theirs)
    seeds, n = gaps.shape
    mean = float(gaps.mean())
    variance, freedom = _variance(gaps)
    if not variance:
        pair = mcnemar(ours[0].tolist(), theirs[0].tolist())
        return Crossed(seeds, n, mean, *paired_interval(pair), pair.p_value, math.inf, 0.0)
    error, seed_sd = math.sqrt(variance), float(gaps.mean(axis=1).std(ddof=1))
    half = t_quantile(freedom) * error
    p_value = float(2 * stdtr(freedom, -abs(mean) / error))
    return Crossed(seeds, n, mean, max(-1.0, mean - half), min(1.0, mean + half), p_value, freedom, seed_sd)


def two_level_bootstrap(ours: Outcomes, theirs: Outcomes, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the mean difference when seeds and images are both drawn with replacement.

    Outcomes as in `crossed_difference`; 10,000 draws. With few seeds it is too narrow where seeds decide and too wide
    where they do not (Owen 2007, Annals of Applied Statistics 1:386), which is why it is a check and no more.
    """
    gaps = _gaps(ours, theirs)
    seeds, n = gaps.shape
    generator = np.random.default_rng(seed)
    first = n * np.arange(CHUNK)[:, None]  # where the counts of each draw begin
    sums = []
    for _ in range(0, DRAWS, CHUNK):
        seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), CHUNK)
        images = generator.integers(n, size=(CHUNK, n)) + first
        image_counts = np.bincount(images.ravel(), minlength=CHUNK * n).reshape(CHUNK, n)
        sums.append((image_counts.astype(np.float64) @ gaps.T * seed_counts).sum(axis=1))  # whole numbers, exact
    low, high = np.quantile(np.concatenate(sums) / n / seeds, [0.025, 0.975])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the order given (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Rejecting where an adjusted one is below 0.05 keeps the chance of any false rejection below 0.05.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def _variance(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The variance of the mean of values (seeds, n), and its degrees of freedom, as in `crossed_difference`."""
    parts = [
        (float(values.mean(axis=1 - axis).var(ddof=1)) / count, count - 1) for axis, count in enumerate(values.shape)
    ]
    variance = math.fsum(part for part, _ in parts)
    freedom = variance**2 / math.fsum(part**2 / freedom for part, freedom in parts) if variance else math.inf
    return variance, freedom


def t_quantile(freedom: float) -> float:
    """The 97.5% quantile of the t distribution, for a two-sided 95% interval."""
    return float(stdtrit(freedom, 0.975))


def _gaps(ours: Outcomes, theirs: Outcomes) -> npt.NDArray[np.float64]:
    if ours.shape != theirs.shape or ours.ndim != 2 or min(ours.shape) < 2:
        raise ValueError(
            f"outcomes of shape {ours.shape} and {theirs.shape}; expected one shape (seeds, n), at least 2 of each"
        )
    return ours.astype(np.float64) - theirs
