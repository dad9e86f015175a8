"""Figures of one run as data frames: rates are fractions of 1, intervals are Wilson's at 95% over the images."""

from collections.abc import Mapping, Sequence

import pandas as pd

from satbench.core.eps import format_eps, parse_eps
from satbench.core.errors import BadInput
from satbench.results.metrics import WORST, clean_table, robust_table, wilson

CLEAN = "clean"
RATE = ("n", "correct", "accuracy", "low", "high")


def summary(records: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Clean accuracy, then a row per threat and attack, and one for the worst case over several attacks.

    labels: how readers know each attack id. Columns: attack, norm, eps, and those of `RATE`. The worst case counts the
    images that met every attack.
    """
    rows = [{"attack": CLEAN, "norm": "", "eps": 0.0, **_rate(clean_table(records))}]
    for norm, eps in threats(records):
        chosen = records[(records["norm"] == norm) & (records["eps"] == eps)]
        attacks = sorted(chosen["attack"].unique())
        for attack in attacks:
            outcomes = robust_table(chosen[chosen["attack"] == attack], norm, eps)[attack]
            rows.append({"attack": labels.get(attack, attack), "norm": norm, "eps": eps, **_rate(outcomes)})
        if len(attacks) > 1:
            rows.append({"attack": WORST, "norm": norm, "eps": eps, **_rate(robust_table(chosen, norm, eps)[WORST])})
    return pd.DataFrame(rows)


def worst_case(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against all attacks of a threat together, a row a threat: norm, eps, and the columns of `RATE`."""
    rows = [
        {"norm": norm, "eps": eps, **_rate(robust_table(records, norm, eps)[WORST])} for norm, eps in threats(records)
    ]
    return pd.DataFrame(rows, columns=["norm", "eps", *RATE])


def by_class(records: pd.DataFrame, norm: str | None = None, eps: float | str | None = None) -> pd.DataFrame:
    """Clean accuracy and the worst case over attacks of every class, at one threat.

    norm, eps: which threat, the radius as a number or as text such as 8/255; may be left out where the run has a single
    one. A row a class: label, n, clean, and the columns of `RATE` but n for the worst case. Raises `BadInput` where the
    threat is open or was not measured.
    """
    norm, eps = _one_threat(records, norm, None if eps is None else parse_eps(eps, norm or "L2"))
    outcomes = robust_table(records, norm, eps)[WORST]
    clean = clean_table(records).loc[outcomes.index]
    labels = records.drop_duplicates("sample_id").set_index("sample_id")["label"].loc[outcomes.index]
    rows = [
        {"label": int(label), "clean": float(clean.loc[met.index].mean()), **_rate(met)}
        for label, met in outcomes.groupby(labels)
    ]
    return pd.DataFrame(rows)[["label", "n", "clean", *RATE[1:]]]


def curve(records: pd.DataFrame, attacks: Sequence[str] | None = None) -> pd.DataFrame:
    """Accuracy over eps, from the clean accuracy at eps 0 on: norm, eps, and the columns of `RATE`.

    attacks: the ids whose worst case is meant; all by default.
    """
    chosen = records if attacks is None else records[records["attack"].isin(attacks)]
    rows = []
    for norm in sorted(chosen["norm"].unique()):
        of_norm = chosen[chosen["norm"] == norm]
        rows.append({"norm": norm, "eps": 0.0, **_rate(clean_table(of_norm))})
        rows += worst_case(of_norm).to_dict("records")
    return pd.DataFrame(rows, columns=["norm", "eps", *RATE])


def threats(records: pd.DataFrame) -> list[tuple[str, float]]:
    """The threats (norm, eps) that were measured, in order."""
    return sorted({(str(norm), float(eps)) for norm, eps in zip(records["norm"], records["eps"], strict=True)})


def _one_threat(records: pd.DataFrame, norm: str | None, eps: float | None) -> tuple[str, float]:
    known = threats(records)
    fitting = [one for one in known if norm in (None, one[0]) and eps in (None, one[1])]
    if len(fitting) != 1:
        given = " ".join(str(value) for value in (norm, eps) if value is not None) or "nothing"
        said = ", ".join(f"{norm} {format_eps(eps)}" for norm, eps in known)
        raise BadInput(f"by_class is of one threat, and {given} was given; give norm= and eps= of one of: {said}")
    return fitting[0]


def _rate(outcomes: "pd.Series[bool]") -> dict[str, float]:
    correct, n = int(outcomes.sum()), len(outcomes)
    low, high = wilson(correct, n) if n else (float("nan"),) * 2
    return {"n": n, "correct": correct, "accuracy": correct / n if n else float("nan"), "low": low, "high": high}
