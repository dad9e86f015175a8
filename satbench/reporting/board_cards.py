"""Cards: what a page of a leaderboard knows of each model, as JSON for its script."""

from collections.abc import Mapping, Sequence
from typing import Any

from satbench.reporting.details import Detail
from satbench.reporting.lines import group_rows, network_names
from satbench.reporting.rounding import down, outward
from satbench.reporting.summary import Row
from satbench.reporting.table_forms import MISSING, interval, trust_words
from satbench.reporting.tables import Line, accuracy_table
from satbench.results.metrics import UNION, wilson

Key = tuple[str, str, str, str, str, str, str]  # dataset, split, loader, then `Line.identity`
Details = Mapping[tuple[str, str, str, str], Detail]  # by network, dataset, split and loader


def key_of(line: Line) -> Key:
    """The card on which a line stands."""
    return (line.dataset, line.split, line.loader, *line.identity)


def by_network(details: Sequence[Detail]) -> Details:
    """The details, to be looked up."""
    return {(one.network, one.dataset, one.split, one.loader): one for one in details}


def cards(rows: Sequence[Row], details: Details) -> dict[Key, dict[str, Any]]:
    """A card for each model on each set of images: its measured lines, networks, curves and details.

    Empty parts are left out. Accuracies are percent; texts are rounded as in tables.
    """
    names = network_names(row.network for row in rows)
    lines: dict[Key, list[Line]] = {}
    networks: dict[Key, dict[str, Row]] = {}
    for line, (_, group) in zip(accuracy_table(rows), group_rows(rows), strict=True):
        lines.setdefault(key_of(line), []).append(line)
        networks.setdefault(key_of(line), {}).update({row.model_digest: row for row in group})
    return {
        key: _without_empty(
            {
                "name": found[0].name,
                "slug": "~".join(found[0].identity),
                "activation": found[0].activation,
                "method": found[0].method,
                "trained": found[0].trained_for,
                "extra": found[0].extra_data,
                "lines": [_measured(line) for line in found],
                "curve": _curve(found),
                "reasons": list(dict.fromkeys(reason for line in found for reason in line.reasons)),
                "networks": [_network(names[row.network], row) for row in networks[key].values()],
                "details": [
                    _without_empty(_detail(names[row.network], details[place]))
                    for row in networks[key].values()
                    if (place := (row.model_digest, key[0], key[1], key[2])) in details
                ],
            }
        )
        for key, found in lines.items()
    }


def _without_empty(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if value}


def _measured(line: Line) -> dict[str, Any]:
    passes = line.forward is not None and line.backward is not None
    return {
        "threat": line.threat,
        "attack": line.attack,
        "n": line.n,
        "robust": interval(line.robust, line.robust_lo, line.robust_hi),
        "clean": interval(line.clean, line.clean_lo, line.clean_hi),
        "passes": f"{line.forward:.1f} + {line.backward:.1f}" if passes else "",
        "trust": trust_words(line),
    }


def _curve(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Robust accuracy over eps, from the clean point at 0, for each norm under the attack met at the most radii."""
    points: list[dict[str, Any]] = []
    for norm in sorted({line.norm for line in lines} - {UNION}):
        here = [line for line in lines if line.norm == norm]
        radii = {attack: len({line.eps_value for line in here if line.attack == attack}) for attack in _attacks(here)}
        attack = max(radii, key=lambda one: radii[one])
        shown = sorted((line for line in here if line.attack == attack), key=lambda line: line.eps_value)
        if len(shown) > 1:
            widest = max(shown, key=lambda line: line.n)
            series = f"{norm}, {attack}"
            points.append(_point(series, 0.0, widest.clean, widest.clean_lo, widest.clean_hi))
            points += [_point(series, one.eps_value, one.robust, one.robust_lo, one.robust_hi) for one in shown]
    return points


def _attacks(lines: Sequence[Line]) -> list[str]:
    """The attacks of these lines, the last, strongest one first."""
    return list(dict.fromkeys(line.attack for line in reversed(lines)))


def _point(series: str, x: float, y: float, low: float, high: float) -> dict[str, Any]:
    percent = {name: round(100 * value, 2) for name, value in (("y", y), ("low", low), ("high", high))}
    return {"series": series, "x": x, **percent}


def _network(name: str, row: Row) -> dict[str, str]:
    versions = ", ".join(f"{package} {version}" for package, version in sorted(row.versions.items()))
    return {
        "network": name,
        "training seed": MISSING if row.seed is None else str(row.seed),
        "evaluation seeds": ", ".join(map(str, row.eval_seeds)),
        "weights": row.model_digest,
        "images": ", ".join(row.data_digests),
        "training config": row.config or MISSING,
        "revision": row.revision or MISSING,
        "versions": versions,
    }


def _detail(name: str, detail: Detail) -> dict[str, Any]:
    return {
        "network": name,
        "classes": [
            {
                "class": one.name,
                "n": one.n,
                "clean": f"{down(one.clean / one.n)} {outward(*wilson(one.clean, one.n))}",
                "robust": f"{down(one.robust / one.n)} {outward(*wilson(one.robust, one.n))}",
            }
            for one in detail.classes
        ],
        "under": detail.classes_under,
        "evidence": list(detail.evidence),
        "training": [
            {"series": curve.figure, "x": epoch, "y": value}
            for curve in detail.training
            for epoch, value in zip(curve.epochs, curve.values, strict=True)
        ],
        "examples": [one.model_dump() for one in detail.examples],
        "provenance": [list(one) for one in detail.provenance],
        "commands": list(detail.commands),
        "downloads": [list(one) for one in detail.downloads],
    }
