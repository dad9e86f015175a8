"""Figures computed from records: counts, intervals, paired comparisons. Rates are fractions of 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from satbench.core.errors import BadInput

Z95 = 1.959963984540054  # 97.5% quantile of the standard normal distribution
Z80 = 0.8416212335729143  # 80% quantile
WORST = "worst case"  # the pseudo-attack: robust against every attack of the threat
UNION: Final = "union"  # the pseudo-norm: robust at every threat of a union
ENOUGH = 10  # images, to say that a network does no better than chance


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The 95% Wilson score interval of a rate (Wilson 1927), inside [0, 1].

    `successes` may be fractional: the mean count of several seeds on the same n images, or a sum of n shares in
    [0, 1]. The interval is then conservative, because a variable in [0, 1] with mean p has at most the variance
    p (1 - p) of a yes or no (Bhatia & Davis 2000, American Mathematical Monthly 107:353). Raises `ValueError` unless
    0 <= successes <= n and n > 0.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is not a rate")
    rate, z2 = successes / n, Z95 * Z95
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    return max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate))


@dataclass(frozen=True)
class Paired:
    """Two models on the same `n` samples: samples that only one of them gets right, and the exact McNemar p-value."""

    n: int
    only_a: int
    only_b: int
    p_value: float

    @property
    def difference(self) -> float:
        """Rate of `a` minus rate of `b`."""
        return (self.only_a - self.only_b) / self.n

    @property
    def discordance(self) -> float:
        """Share of samples that only one of the two gets right."""
        return (self.only_a + self.only_b) / self.n


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Exact two-sided McNemar test of paired outcomes (McNemar 1947); both sequences in the same sample order."""
    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired outcomes need equal, positive lengths, not {len(a)} and {len(b)}")
    only_a = sum(bool(p) and not bool(q) for p, q in zip(a, b, strict=True))
    only_b = sum(bool(q) and not bool(p) for p, q in zip(a, b, strict=True))
    return Paired(len(a), only_a, only_b, mcnemar_p(only_a, only_b))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """The p-value of `mcnemar` from its two counts."""
    from scipy.stats import binomtest

    decided = only_a + only_b
    return float(binomtest(only_a, decided, 0.5).pvalue) if decided else 1.0


def paired_interval(paired: Paired) -> tuple[float, float]:
    """The 95% score interval of the difference of two paired rates (Tango 1998, Statistics in Medicine 17:891).

    It inverts McNemar's test without correction and has a width even where no sample is discordant.
    """
    n, gap = paired.n, paired.only_a - paired.only_b

    def outside(difference: float) -> bool:
        return (gap - n * difference) ** 2 > Z95 * Z95 * _score_variance(paired, difference)

    def bound(far: float) -> float:
        near = paired.difference
        while abs(far - near) > 1e-12:
            middle = (far + near) / 2
            far, near = (middle, near) if outside(middle) else (far, middle)
        return near

    return bound(-1.0), bound(1.0)


def score(paired: Paired, difference: float) -> float:
    """Tango's statistic of "the two rates differ by `difference`", nearly standard normal where that holds."""
    away = paired.only_a - paired.only_b - paired.n * difference
    variance = _score_variance(paired, difference)
    if variance <= 0:
        return math.copysign(math.inf, away) if away else 0.0
    return away / math.sqrt(variance)


def _score_variance(paired: Paired, difference: float) -> float:
    """Of the count of A alone minus that of B alone, where the rates differ by `difference`."""
    n, gap = paired.n, paired.only_a - paired.only_b
    linear = (2 * n - gap) * difference - paired.only_a - paired.only_b
    constant = -paired.only_b * difference * (1 - difference)
    only_b = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)  # its rate
    return n * (2 * only_b + difference * (1 - difference))


def samples_needed(difference: float, discordance: float) -> int:
    """On how many samples the exact McNemar test at 5% would notice a difference of two paired rates in 4 of 5 cases.

    `discordance` is the share of samples that only one model gets right. Connor 1987 (Biometrics 43:207), with the
    continuity correction that makes up for the exact test's caution. Raises `ValueError` unless
    0 < |difference| <= discordance <= 1.
    """
    apart = abs(difference)
    if not 0 < apart <= discordance <= 1:
        raise ValueError(f"a difference of {difference} cannot come from a discordance of {discordance}")
    spread = Z95 * math.sqrt(discordance) + Z80 * math.sqrt(discordance - apart * apart)
    return math.ceil(((spread + math.sqrt(spread * spread + 4 * apart)) / (2 * apart)) ** 2)


def robust_table(records: pd.DataFrame, norm: str, eps: float) -> pd.DataFrame:
    """Which samples stand against which attack of one threat: bool, a row a sample, a column an attack.

    Only samples that met every attack are in it; the last column, `WORST`, is the join: robust means that every attack
    failed on this sample. Raises `BadInput` when a sample has two different records for one attack.
    """
    chosen = records[(records["norm"] == norm) & (records["eps"] == eps)]
    doubled = chosen.duplicated(["sample_id", "attack"])
    if doubled.any():
        first = chosen[doubled].iloc[0]
        raise BadInput(
            f"sample {first['sample_id']} has several records of {first['attack']} at {norm} {eps:g}; "
            "give each run once, or runs that differ in their attacks"
        )
    robust = ~broken_table(chosen).dropna().astype(bool)
    robust[WORST] = robust.all(axis=1)
    robust.columns.name = None
    return robust


def broken_table(records: pd.DataFrame) -> pd.DataFrame:
    """Which attack of one threat broke which sample: a row a sample, a column an attack, NaN where it was not attacked.

    `records` are those of the threat, one for each sample and attack.
    """
    return records.pivot(index="sample_id", columns="attack", values="broken")


def weighted_accuracy(records: pd.DataFrame) -> float:
    """The mean over samples of the smallest share of passes that classify an example as its label.

    For a random network this is the probability of a correct answer to the worst example found, averaged over samples.
    The expected smallest of several measured shares is at most the smallest probability (Jensen's inequality).
    """
    smallest = records["correct_share"].astype(float).groupby(records["sample_id"]).min()
    return math.fsum(smallest) / len(smallest)


def is_at_chance(correct: int, n: int, classes: int) -> bool:
    """Whether the 95% interval of an accuracy, `correct` of `n`, reaches 1 / classes; False below 10 images."""
    return n >= ENOUGH and wilson(correct, n)[0] <= 1 / classes


def clean_table(records: pd.DataFrame) -> "pd.Series[bool]":
    """Which samples are classified correctly without any attack, bool, indexed by sample id."""
    once = records.drop_duplicates("sample_id").set_index("sample_id")
    return once["clean_prediction"] == once["label"]
