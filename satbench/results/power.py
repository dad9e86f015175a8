"""Which drop a number of images shows to the gate, how many images a drop needs, and how many the gate will take."""

import math

import numpy as np

from satbench.core.errors import BadInput
from satbench.results.sequential import CLEARED, EARLY, LEVEL, MISS, log_capital, looks

POWER = 1 - MISS
CHURN = 0.005  # assumed share of images that flip by rounding, as many up as down
MOST_IMAGES = 10_000_000
RUNS = 1000  # simulated by `expected_images`


def power(n: int, drop: float, churn: float, level: float, tolerance: float = 0.0) -> float:
    """The chance that the fixed two-sided test on `n` images rejects at `level`.

    A share `churn` of the images flips by chance, half of it up and half of it down; a further share, `drop` beyond the
    `tolerance`, flips down. Without a tolerance it is exact for McNemar's test, summed over the number of flipped
    images; with one it is the normal approximation for the score test. Raises `ValueError` for more flips than images.
    """
    from scipy.stats import binom, norm

    down, up = tolerance + drop + churn / 2, churn / 2
    if down + up > 1:
        raise ValueError(f"a drop of {tolerance + drop} and a churn of {churn} are more than all images")
    if not drop:
        return 0.0
    if tolerance:
        accepted = math.sqrt(tolerance + churn - tolerance**2)
        actual = math.sqrt(down + up - (down - up) ** 2)
        away = drop * math.sqrt(n) - norm.isf(level / 2) * accepted
        return float(norm.cdf(away / actual)) if actual else float(away > 0)
    fewest, most = binom.ppf([1e-12, 1 - 1e-12], n, down + up)
    flipped = np.arange(max(0, fewest), most + 1)
    chance = binom.pmf(flipped, n, down + up)
    enough = binom.isf(level / 2, flipped, 0.5)  # more than so many to one side reject
    share = down / (down + up)
    rejects = binom.sf(enough, flipped, share) + binom.cdf(flipped - enough - 1, flipped, share)
    return float(chance @ rejects)


def images_needed(drop: float, churn: float, level: float, tolerance: float = 0.0, wanted: float = POWER) -> int:
    """The images with which `power` reaches `wanted`; raises `BadInput` for more than ten million."""
    high = 8
    while power(high, drop, churn, level, tolerance) < wanted:
        high *= 2
        if high > MOST_IMAGES:
            raise BadInput(f"a drop of {100 * drop:g} points needs over {MOST_IMAGES:,} images; give a larger one")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, drop, churn, level, tolerance) >= wanted else (middle, high)
    return high


def gate_images(drop: float, churn: float, figures: int, tolerance: float = 0.0) -> int:
    """The images with which the gate misses a drop in at most `MISS` of cases.

    Some of `MISS` is spent on clearing early, and some of the level on alarms before the last image; what is left is
    that of the fixed test on all images, at the smallest of the levels that Holm gives `figures` figures.
    """
    return images_needed(drop, churn, (1 - EARLY) * LEVEL / figures, tolerance, 1 - (1 - CLEARED) * MISS)


def visible_drop(n: int, churn: float, figures: int, tolerance: float = 0.0) -> float | None:
    """The smallest drop beyond the tolerance, to a tenth of a point, for which `n` images are enough; None for none."""
    level, wanted = (1 - EARLY) * LEVEL / figures, 1 - (1 - CLEARED) * MISS
    low, high = 0, math.floor(1000 * (1 - churn - tolerance))
    if high < 1 or power(n, high / 1000, churn, level, tolerance) < wanted:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(n, middle / 1000, churn, level, tolerance) >= wanted else (middle, high)
    return high / 1000


def expected_images(
    n: int, size: float, churn: float, figures: int, true_drop: float, tolerance: float = 0.0, unit: int = 0
) -> float:
    """The mean number of images until the gate settles one of `figures` figures, at most `n`; 1,000 simulated runs.

    size: the drop beyond the tolerance that is to be excluded. The figures before it are taken as not moved.
    """
    at = np.array(list(looks(n, unit)))
    rng = np.random.default_rng(0)
    chances = [true_drop + churn / 2, churn / 2, 1 - true_drop - churn]
    new = rng.multinomial(np.diff(at, prepend=0), chances, size=(RUNS, len(at)))
    down, up = (new[..., i].cumsum(axis=1) for i in (0, 1))
    moved = np.maximum(log_capital(down, up, at, -tolerance), log_capital(up, down, at, -tolerance))
    settled = moved >= math.log(2 * figures / (EARLY * LEVEL))
    if tolerance + size < 1:
        excluded = [
            np.maximum.accumulate(log_capital(*sides, at, tolerance + size), axis=1)
            for sides in ((up, down), (down, up))
        ]
        settled |= np.minimum(*excluded) >= -math.log(CLEARED * MISS)
    settled[:, -1] = True
    return float(at[settled.argmax(axis=1)].mean())
