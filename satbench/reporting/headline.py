"""Which threats come first on a page: those that the models were trained for."""

import math
import re
from collections.abc import Iterable, Sequence

from satbench.eps import NORMS, parse_eps
from satbench.errors import BadInput
from satbench.reporting.summary import Row

Threats = set[tuple[str, float]]
_TRAINED = re.compile(rf"({'|'.join(NORMS)})\W+(?:eps\W*)?(\d[\d.e/+-]*)", re.IGNORECASE)


def trained_threat(trained_for: str | None) -> tuple[str, float] | None:
    """Norm and eps of a text such as `Linf 8/255`; None when it names no threat."""
    found = _TRAINED.search(trained_for or "")
    if found is None:
        return None
    norm = {known.lower(): known for known in NORMS}[found[1].lower()]
    try:
        return norm, parse_eps(found[2], norm)
    except BadInput:
        return None


def headline_threats(measured: Threats, trained_for: Iterable[str | None]) -> Threats:
    """The measured threats that some model was trained for; all measured ones when there is no such."""
    wanted = [threat for threat in map(trained_threat, trained_for) if threat]
    chosen = {
        (norm, eps)
        for norm, eps in measured
        if any(norm == other and math.isclose(eps, radius, rel_tol=1e-9) for other, radius in wanted)
    }
    return chosen or measured


def headline_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows at the headline threats of their own data set and split."""
    chosen = {}
    for place in {(row.dataset, row.split) for row in rows}:
        here = [row for row in rows if (row.dataset, row.split) == place]
        chosen[place] = headline_threats({(row.norm, row.eps) for row in here}, (row.trained_for for row in here))
    return [row for row in rows if (row.norm, row.eps) in chosen[row.dataset, row.split]]
