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

    As in `mean_of_seeds`, of the logarithm of the mean, which is why it is never below 0; Student's t holds after the
    cubic transformation that removes the skewness of the studentised logarithm (Hall 1992, Journal of the Royal
    Statistical Society B 54:221). The interval of `mean_of_seeds` is too narrow for such figures. With the skewness g
    and the coefficient of variation v of the values, the first terms of that skewness are (g / 3 - v / 2) T^2 and
    g / 6, over the square root of n.
    """
    plain = mean_interval(values)
    if plain.n < 2:
        return replace(plain, low=0.0)
    if plain.low == plain.high:
        return plain
    away = np.asarray(values, dtype=np.float64) - plain.value
    shift = float((away**3).mean() / (away**2).mean() ** 1.5) / (6 * math.sqrt(plain.n))
    quantile = t_quantile(plain.n - 1)
    error = (plain.high - plain.value) / quantile / plain.value  # of the logarithm
    bend = 2 * shift - error / 2

    def bound(transformed: float) -> float:
        """Where the transformed statistic has this value: the inverse of the cubic polynomial."""
        studentised = transformed - shift
        if abs(bend) > 1e-6:
            studentised = (math.cbrt(1 + 3 * bend * studentised) - 1) / bend
        return plain.value * math.exp(-studentised * error)

    return Estimate(plain.value, bound(quantile), bound(-quantile), plain.n)


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
