"""Differences of activations and changed recipes to their reference: which come first, and a table of all."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from satbench.reporting.comparison import DESCRIBED, PRIMARY, Comparison
from satbench.reporting.names import capital
from satbench.reporting.rounding import down, inward, outward
from satbench.reporting.table_forms import MISSING

BOOTSTRAP_NOTE = (
    "Bootstrap: the 95% percentile interval when seeds and images are both drawn with replacement, 10,000 times. It is "
    "a check and decides nothing."
)


def main_question(found: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of one robust accuracy: the primary ones of a plan, else those of one attack at the first threat.

    That attack is the strongest of those with most comparisons, of activations, and of changed recipes only where no
    activations were compared. `found` as `comparisons(..., every=True)` gives them: the threat trained for first,
    attacks from weak to strong. Empty where no robust accuracy was compared.
    """
    if primary := [one for one in found if one.role == PRIMARY]:
        return primary
    first = next((one for one in found if one.threat), None)
    if first is None:
        return []
    place = (first.where, first.threat, first.is_change)
    here = [one for one in found if (one.where, one.threat, one.is_change) == place]
    counts = Counter(one.quantity for one in here)
    order = list(counts)
    chosen = max(counts, key=lambda quantity: (counts[quantity], order.index(quantity)))
    return [one for one in here if one.quantity == chosen]


def by_quantity(found: Sequence[Comparison]) -> dict[str, list[str]]:
    """Comparisons in words, under their quantity; where these are of several places, also under that."""
    are_several = len({one.where for one in found}) > 1
    said: dict[str, list[str]] = {}
    for one in found:
        heading = capital(one.quantity) + (f", {one.where}" if are_several else "")
        said.setdefault(heading, []).append(one.words())
    return said


def difference_cell(one: Comparison) -> str:
    """The difference in points with its interval, adjusted p-value and verdict, as a cell of a table.

    Without p-value and verdict where it was not planned.
    """
    points = f"{inward(one.difference)} {outward(one.low, one.high)}"
    return points if one.role == DESCRIBED else f"{points}, p = {one.p_value:.2g}: {one.verdict}"


def span(counts: Sequence[int]) -> str:
    """`5`, or `5 to 10` where they differ."""
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def difference_table(found: Sequence[Comparison]) -> pd.DataFrame:
    """A line a comparison, as readers see it: accuracies and intervals in percent, p-values adjusted."""
    lines = [
        {
            "trained and measured": one.where,
            "quantity": one.quantity,
            "activation": one.activation,
            "against": one.reference,
            "seeds": str(len(one.seeds)),
            "n": str(one.n),
            "accuracy %": down(fmean(one.values)),
            "of reference %": down(fmean(one.reference_values)),
            "difference": f"{inward(one.difference)} {outward(one.low, one.high)}",
            "bootstrap": outward(*one.bootstrap) if one.bootstrap else "-",
            "p": MISSING if one.role == DESCRIBED else f"{one.p_value:.2g}",
            "verdict": MISSING if one.role == DESCRIBED else one.verdict,
            **({"planned as": one.role} if one.role else {}),
        }
        for one in found
    ]
    frame = pd.DataFrame(lines)
    return frame.drop(columns="trained and measured") if len({one.where for one in found}) == 1 else frame
