"""Figures computed from records: counts, intervals, paired comparisons. Rates are fractions of 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from satbench.errors import BadInput

Z95 = 1.959963984540054  # 97.5% quantile of the standard normal distribution
WORST = "worst case"  # the pseudo-attack: robust against every attack of the threat


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95% Wilson score interval of a rate (Wilson 1927), inside [0, 1].

    `successes` may be fractional: the mean count of several seeds on the same n images. Raises `ValueError` unless
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


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Exact two-sided McNemar test of paired outcomes (McNemar 1947); both sequences in the same sample order."""
    from scipy.stats import binomtest

    if len(a) != len(b) or not len(a):
        raise ValueError(f"paired outcomes need equal, positive lengths, not {len(a)} and {len(b)}")
    only_a = sum(bool(p) and not bool(q) for p, q in zip(a, b, strict=True))
    only_b = sum(bool(q) and not bool(p) for p, q in zip(a, b, strict=True))
    decided = only_a + only_b
    p_value = float(binomtest(only_a, decided, 0.5).pvalue) if decided else 1.0
    return Paired(len(a), only_a, only_b, p_value)


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
    robust = ~chosen.pivot(index="sample_id", columns="attack", values="broken").dropna().astype(bool)
    robust[WORST] = robust.all(axis=1)
    robust.columns.name = None
    return robust


def clean_table(records: pd.DataFrame) -> "pd.Series[bool]":
    """Which samples are classified correctly without any attack, bool, indexed by sample id."""
    once = records.drop_duplicates("sample_id").set_index("sample_id")
    return once["clean_prediction"] == once["label"]
