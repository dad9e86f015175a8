"""What `satbench probe` measures on one network, image by image, and means of it with intervals; without torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from satbench.results.crossed import t_quantile
from satbench.results.schema import ModelInfo


@dataclass(frozen=True, eq=False)
class Probed:
    """The measurements on one network.

    images: a row an image, with `sample_id`, `label`, `prediction` and the quantities: `confidence` (largest
        probability), `loss` (cross-entropy, nats), `input_fisher`, `weight_fisher`, `jacobian` (|J|_F^2),
        `jacobian_error` (its standard error over random vectors), `relative_jacobian` (|J|_F^2 / |z|^2), and of the
        inverted images `residual` and `error` (mean squared, of pixels), NaN elsewhere.
    layers: `weight_fisher` by layer, a row an image, a column a layer.
    transfer: a row a test image of a target data set: `target`, `sample_id`, `correct`.
    reconstructions: the first inverted images, uint8 (k, H, W, C).
    width: of the representation.
    """

    model: ModelInfo
    images: pd.DataFrame
    layers: pd.DataFrame
    transfer: pd.DataFrame
    reconstructions: np.ndarray
    width: int


@dataclass(frozen=True)
class Estimate:
    """A mean, difference or ratio with its 95% interval; `n` is how many values it comes from."""

    value: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean, NaN of no values, with Student's t interval, infinite for fewer than two."""
    found = np.asarray(values, dtype=np.float64)
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    half = t_quantile(n - 1) * float(found.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def mean_of_seeds(values: Sequence[float]) -> Estimate:
    """The mean of a non-negative figure of independently trained networks, with an interval that is never below 0.

    Student's t interval of the logarithm of the mean, by the delta method. Around the mean itself it would often go
    below 0 for a few networks. From 0 to infinity for fewer than two.
    """
    plain = mean_interval(values)
    if plain.n < 2:
        return replace(plain, low=0.0)
    return _around(plain.value, (plain.high - plain.value) / plain.value, plain.n) if plain.value else plain


def mean_of_skewed(values: Sequence[float]) -> Estimate:
    """The mean of a non-negative figure over images, few of which may hold most of its sum, with its interval.

    Student's t interval after the cubic transformation that removes the skewness of the mean (Hall 1992, Journal of the
    Royal Statistical Society B 54:221). `mean_interval` and `mean_of_seeds` are too narrow for such figures. The
    interval is cut at 0, which changes no coverage, because no mean of such a figure is below. From 0 to infinity for
    fewer than two values.
    """
    plain = mean_interval(values)
    found = np.asarray(values, dtype=np.float64)
    if plain.n < 2:
        return replace(plain, low=0.0)
    if plain.low == plain.high:
        return plain
    away = found - plain.value
    skewness = float((away**3).mean() / (away**2).mean() ** 1.5) / math.sqrt(plain.n)
    half = (plain.high - plain.low) / 2
    error = half / t_quantile(plain.n - 1)

    def bound(quantile: float) -> float:
        """Where the transformed mean has this quantile: the inverse of the cubic polynomial."""
        if abs(skewness) < 1e-6:
            return plain.value - quantile * error
        return plain.value - 3 / skewness * (math.cbrt(1 + skewness * (quantile - skewness / 6)) - 1) * error

    return Estimate(plain.value, max(0.0, bound(half / error)), bound(-half / error), plain.n)


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of positive `a` over the mean of positive `b`, both on the same images.

    Its interval is symmetric in the logarithm, by the delta method and Student's t.
    """
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n = len(one)
    spread = float((one / one.mean() - other / other.mean()).std(ddof=1)) / math.sqrt(n)
    return _around(float(one.mean() / other.mean()), t_quantile(n - 1) * spread, n)


def ratio_of_seeds(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of positive `a` over the mean of positive `b`, figures of independently trained networks.

    Two of each at least. The interval is symmetric in the logarithm, by the delta method, with the degrees of freedom
    of Welch 1947 (Biometrika 34:28).
    """
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return _around(float(one.mean() / other.mean()), _welch(one / one.mean(), other / other.mean()), len(a) + len(b))


def difference_of_seeds(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The mean of `a` minus that of `b`, figures of independently trained networks, with Welch's interval."""
    one, other = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    gap, half = float(one.mean() - other.mean()), _welch(one, other)
    return Estimate(gap, gap - half, gap + half, len(a) + len(b))


def _around(ratio: float, half: float, n: int) -> Estimate:
    """A ratio with its logarithm's half width."""
    return Estimate(ratio, ratio * math.exp(-half), ratio * math.exp(half), n)


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Half the width of Welch's interval of the difference of two means."""
    parts = [float(one.var(ddof=1)) / len(one) for one in (a, b)]
    variance = sum(parts)
    if not variance:
        return 0.0
    freedom = variance**2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, (a, b), strict=True))
    return t_quantile(freedom) * math.sqrt(variance)
