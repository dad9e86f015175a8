"""Which threats come first on a page: those that the models were trained for."""

import math
from collections.abc import Iterable, Sequence

from satbench.core.eps import Threat
from satbench.reporting.summary import Row
from satbench.results.metrics import UNION

Threats = set[tuple[str, float]]


def headline_threats(measured: Threats, trained_for: Iterable[Threat | None]) -> Threats:
    """The measured threats that some model was trained for; all measured ones when there is no such."""
    wanted = [threat for threat in trained_for if threat]
    chosen = {
        (norm, eps)
        for norm, eps in measured
        if any(norm == threat.norm and math.isclose(eps, threat.eps, rel_tol=1e-9) for threat in wanted)
    }
    return chosen or measured


def headline_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows at the headline threats of their own data set and split, and those of every union of threats."""
    chosen = {}
    for place in {(row.dataset, row.split) for row in rows}:
        here = [row for row in rows if (row.dataset, row.split) == place and row.norm != UNION]
        chosen[place] = headline_threats({(row.norm, row.eps) for row in here}, (row.trained_for for row in here))
    return [row for row in rows if row.norm == UNION or (row.norm, row.eps) in chosen[row.dataset, row.split]]
