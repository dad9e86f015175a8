"""The one accuracy table, and its Markdown, CSV, LaTeX and JSON forms."""

import re
from collections.abc import Sequence
from fractions import Fraction

import pandas as pd

from satbench.eps import format_eps
from satbench.reporting.names import display_name, short_names, strength, threat_name
from satbench.reporting.rounding import down, outward, up
from satbench.reporting.summary import Row, images_name
from satbench.results.metrics import WORST, wilson
from satbench.results.store import to_json as json_text

INTERVAL_NOTE = (
    "Intervals in brackets are 95% Wilson intervals on the mean over seeds, with n = the number of distinct images "
    "(not images x seeds; where seeds differ, the smallest). That is conservative for the choice of images and says "
    "nothing about the choice of seeds: for that, the range gives the lowest and the highest seed."
)
ROUNDING_NOTE = "Accuracies are rounded down, interval bounds outward. Clean accuracy is on the same n images."
NOTES = (INTERVAL_NOTE, ROUNDING_NOTE)

MISSING = "-"

COLUMNS = (
    "model",  # recipe, or label without its seed
    "activation",
    "method",
    "trained_for",
    "dataset",
    "split",
    "loader",
    "norm",
    "eps",  # as people write it
    "eps_value",
    "attack",
    "attacks",  # the reprs joined by it
    "seeds",
    "n",
    "clean",
    "clean_lo",
    "clean_hi",
    "robust",
    "robust_lo",
    "robust_hi",
    "robust_min",  # of the lowest seed
    "robust_max",
    "violations",
)
_LOWER = ("clean", "clean_lo", "robust", "robust_lo", "robust_min")
_UPPER = ("clean_hi", "robust_hi", "robust_max")
_SEED = re.compile(r"[\s,_/-]*\(?seed[\s=_-]*\d+\)?$", re.IGNORECASE)


def model_name(row: Row) -> str:
    """The recipe, or the label without its seed: what the seeds of one model have in common."""
    return row.recipe or unseeded(row.label)


def trained_name(row: Row) -> str:
    """The threat that the model was trained for, or ""."""
    return threat_name(row.trained_for.norm, row.trained_for.eps) if row.trained_for else ""


def unseeded(label: str) -> str:
    """A label without a seed at its end: `cnn silu seed 3` is `cnn silu`."""
    return _SEED.sub("", label) or label


def group_rows(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of one line of the table together: equal in everything but the seed; each group ordered by seed."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in sorted(rows, key=_reading_order):
        place = (row.dataset, row.split, row.loader, model_name(row), row.method, trained_name(row))
        groups.setdefault((*place, row.norm, row.eps, row.attack, row.attacks, row.activation), []).append(row)
    return list(groups.values())


def _reading_order(row: Row) -> tuple[object, ...]:
    data = (row.dataset, row.split, row.loader or "")
    place = (*data, model_name(row), row.method or "", trained_name(row), row.norm, row.eps)
    seed = -1 if row.seed is None else row.seed
    how = (strength(row.attacks), row.attack == WORST, row.attack, row.attacks)
    return (*place, *how, row.activation or "", seed, row.model_digest)


def accuracy_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The frame behind every form of the table: a line per model, threat and attack, its seeds joined.

    Accuracies are fractions at full precision: means over seeds, with 95% Wilson intervals on n distinct images.
    `robust_min` and `robust_max` are the lowest and the highest seed. What is unknown is "".
    """
    shorts = short_names(attack for row in rows for attack in row.attacks)
    lines = [_line(group, shorts) for group in group_rows(rows)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(group: list[Row], shorts: dict[str, str]) -> dict[str, object]:
    first = group[0]
    n = min(row.n for row in group)
    robust = [Fraction(row.robust, row.n) for row in group]
    clean_mean, clean_lo, clean_hi = _mean([Fraction(row.clean_correct, row.n) for row in group], n)
    robust_mean, robust_lo, robust_hi = _mean(robust, n)
    return {
        "model": model_name(first),
        "activation": first.activation or "",
        "method": first.method or "",
        "trained_for": trained_name(first),
        "dataset": first.dataset,
        "split": first.split,
        "loader": first.loader or "",
        "norm": first.norm,
        "eps": format_eps(first.eps),
        "eps_value": first.eps,
        "attack": display_name(first.attack, first.attacks, shorts),
        "attacks": first.attacks,
        "seeds": len(group),
        "n": n,
        "clean": clean_mean,
        "clean_lo": clean_lo,
        "clean_hi": clean_hi,
        "robust": robust_mean,
        "robust_lo": robust_lo,
        "robust_hi": robust_hi,
        "robust_min": float(min(robust)),
        "robust_max": float(max(robust)),
        "violations": sum(row.violations for row in group),
    }


def _mean(rates: Sequence[Fraction], n: int) -> tuple[float, float, float]:
    mean = sum(rates, Fraction()) / len(rates)
    return float(mean), *wilson(float(mean * n), n)


def records_of(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The frame's lines as plain JSON values; "" becomes None."""
    return [
        {
            key: list(value) if isinstance(value, tuple) else None if value == "" else value
            for key, value in line.items()
        }
        for line in frame.to_dict("records")
    ]


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text for people: an accuracy shares a cell with its interval; trained_for shows if it varies."""
    text = pd.DataFrame(index=frame.index)
    for column in ("model", "activation", "method"):
        text[column] = frame[column].replace("", MISSING)
    if frame["trained_for"].nunique() > 1:
        text["trained for"] = frame["trained_for"].replace("", MISSING)
    places = zip(frame["dataset"], frame["split"], frame["loader"], strict=True)
    text["data"] = [images_name(*place) for place in places]
    text["threat"] = frame["norm"] + " " + frame["eps"]
    text["attack"] = frame["attack"]
    for column in ("seeds", "n"):
        text[column] = frame[column].astype(str)
    for column in ("clean", "robust"):
        bounds = zip(frame[column], frame[f"{column}_lo"], frame[f"{column}_hi"], strict=True)
        text[f"{column} %"] = [f"{down(mean)} {outward(low, high)}" for mean, low, high in bounds]
    spread = zip(frame["seeds"], frame["robust_min"], frame["robust_max"], strict=True)
    text["robust range over seeds %"] = [
        f"{down(low)} to {up(high)}" if seeds > 1 else MISSING for seeds, low, high in spread
    ]
    text["violations"] = frame["violations"].astype(str)
    return text


def to_markdown(frame: pd.DataFrame) -> str:
    """The readable table in Markdown, with its notes below."""
    return markdown_table(readable(frame)) + "\n" + "\n".join(f"{note}\n" for note in NOTES)


def markdown_table(text: pd.DataFrame) -> str:
    """Any frame of texts as a Markdown table."""
    lines = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
    return "".join("| " + " | ".join(_markdown(cell) for cell in line) + " |\n" for line in lines)


def _markdown(cell: str) -> str:
    return re.sub(r"([\\|<*])", r"\\\1", cell).replace("\n", " ")


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV: percent with one decimal, rounded down or outward; several reprs are joined by " + "."""
    percent = {column: [down(value) for value in frame[column]] for column in _LOWER}
    percent |= {column: [up(value) for value in frame[column]] for column in _UPPER}
    named = {column: f"{column}_percent" for column in (*_LOWER, *_UPPER)}
    attacks = [" + ".join(attacks) for attacks in frame["attacks"]]
    text: str = frame.assign(**percent, attacks=attacks).rename(columns=named).to_csv(index=False, lineterminator="\n")
    return text


def to_json(frame: pd.DataFrame) -> str:
    """The frame as JSON: fractions at full precision, with the notes on how to read them."""
    return json_text({"notes": list(NOTES), "rows": records_of(frame)})


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after the end of a line, a bare one opens an argument
    "]": "{]}",
}


def to_latex(frame: pd.DataFrame) -> str:
    """The readable table as a LaTeX `tabular`; the document loads booktabs."""
    text = readable(frame)
    numbers = {"seeds", "n", "violations"}
    head = " & ".join(map(_latex, text.columns))
    body = [" & ".join(map(_latex, line)) for line in text.to_numpy().tolist()]
    rows = [r"\toprule", rf"{head} \\", r"\midrule", *(rf"{line} \\" for line in body), r"\bottomrule"]
    columns = "".join("r" if column in numbers else "l" for column in text.columns)
    notes = [f"% {note}" for note in NOTES]
    return "\n".join([*notes, rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
