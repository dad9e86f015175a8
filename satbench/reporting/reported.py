"""What the sources of methods report, beside what a study shows."""

from collections.abc import Sequence

import pandas as pd

from satbench.reporting.comparison import Comparison
from satbench.reporting.method_table import MethodTable
from satbench.reporting.rounding import inward, outward
from satbench.reporting.table_forms import MISSING
from satbench.specs.study import Reported

REPORTED_NOTE = (
    "Directions alone are compared. The sources trained larger networks on other images, with recipes of their own and "
    'mostly for equal epochs. "Shows" and "does not show" are about this study; a difference that is inside the noise '
    "decides nothing about the source."
)


def reported_lines(reported: Sequence[Reported], table: MethodTable) -> pd.DataFrame:
    """A line for what is reported of each row: its differences to the reference method, and whether that shows."""
    names = {row.recipe: row.name for row in table.rows}
    lines = []
    for one in reported:
        found = table.robust if one.accuracy == "robust" else table.clean
        for row in table.rows:
            here = {other.of[1]: other for other in found if other.is_change and other.of[0] == row.recipe}
            if row.method == one.method and here:
                reference = names.get(next(iter(here.values())).against[0], "the recipe")
                line = {
                    "method": row.name,
                    "source": one.source,
                    "reported": f"{one.accuracy} accuracy {one.expected} than that of {reference}",
                }
                lines.append(line | {name: _shown(here.get(name), one.expected) for name in table.activations})
    return pd.DataFrame(lines)


def _shown(found: Comparison | None, expected: str) -> str:
    if found is None:
        return MISSING
    if expected == "not lower":
        said = "does not show, lower" if found.verdict == "lower" else "not contradicted"
    else:
        said = "shows" if found.verdict == expected else f"does not show, {found.verdict}"
    return f"{inward(found.difference)} {outward(found.low, found.high)}: {said}"
