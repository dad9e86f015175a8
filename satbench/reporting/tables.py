"""The one accuracy table, and its Markdown, CSV, LaTeX and JSON forms."""

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

import pandas as pd

from satbench.eps import format_eps
from satbench.reporting.names import display_name, parse_repr, short_names, strength, threat_name
from satbench.reporting.rounding import down, outward, up
from satbench.reporting.summary import Row, images_name, least_trusted
from satbench.results.metrics import WORST, wilson
from satbench.results.store import to_json as json_text

INTERVAL_NOTE = (
    "Intervals in brackets are 95% Wilson intervals on the mean over seeds, with n = the number of distinct images "
    "(not images x seeds; where seeds differ, the smallest). That is conservative for the choice of images and says "
    "nothing about the choice of seeds: for that, the range gives the lowest and the highest seed."
)
ROUNDING_NOTE = "Accuracies are rounded down, interval bounds outward. Clean accuracy is on the same n images."
TRUST_NOTE = (
    "Trust is the verdict of the battery of checks that a run went through, the worst over the runs of a line: pass, "
    "suspicious (with the attack to try next), fail; not checked where one of the runs went through none."
)
PASSES_NOTE = (
    "Passes an image: forward + backward passes that the attacks took, counted, as a mean over all n images. An image "
    "that is misclassified as it is, or that a smaller eps has broken already, takes none."
)
RAPID_NOTE = (
    "Rapid spends at most 1,205 passes on an image, an eighth of AutoAttack's with ten classes in Linf and L2; the "
    "robust accuracy it leaves is an upper bound on AutoAttack's, but for the luck of the draw."
)
TRANSFER_NOTE = (
    "An attack from another model never saw the gradients of this one; the robust accuracy it leaves is a loose upper "
    "bound."
)
NOTES = (INTERVAL_NOTE, ROUNDING_NOTE, TRUST_NOTE)  # on every table

MISSING = "-"
NOT_CHECKED = "not checked"

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
    "clean_min",  # of the lowest seed
    "clean_max",
    "robust",
    "robust_lo",
    "robust_hi",
    "robust_min",
    "robust_max",
    "forward",  # passes an image
    "backward",
    "violations",
    "trust",
    "reasons",  # sentences behind a verdict that is no pass
    "next_attacks",
)
_LOWER = ("clean", "clean_lo", "clean_min", "robust", "robust_lo", "robust_min")
_LISTS = ("attacks", "reasons", "next_attacks")
_PASSES = ("forward", "backward")
_UPPER = ("clean_hi", "clean_max", "robust_hi", "robust_max")
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
    clean = [Fraction(row.clean_correct, row.n) for row in group]
    trust = least_trusted(row.trust for row in group)
    clean_mean, clean_lo, clean_hi = _mean(clean, n)
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
        "clean_min": float(min(clean)),
        "clean_max": float(max(clean)),
        "robust": robust_mean,
        "robust_lo": robust_lo,
        "robust_hi": robust_hi,
        "robust_min": float(min(robust)),
        "robust_max": float(max(robust)),
        "forward": _passes([(row.forward, row.n) for row in group]),
        "backward": _passes([(row.backward, row.n) for row in group]),
        "violations": sum(row.violations for row in group),
        "trust": trust.verdict if trust else NOT_CHECKED,
        "reasons": trust.reasons if trust else (),
        "next_attacks": trust.next_attacks if trust else (),
    }


def _mean(rates: Sequence[Fraction], n: int) -> tuple[float, float, float]:
    mean = sum(rates, Fraction()) / len(rates)
    return float(mean), *wilson(float(mean * n), n)


def _passes(counts: Sequence[tuple[int | None, int]]) -> float | str:
    """Passes an image, averaged over seeds; "" where those of some seed were not counted."""
    known = [Fraction(count, n) for count, n in counts if count is not None]
    return float(sum(known, Fraction()) / len(known)) if len(known) == len(counts) else ""


def notes(frame: pd.DataFrame) -> tuple[str, ...]:
    """How to read the frame's lines, and whose word is only a bound."""
    kinds = {parse_repr(attack)[0] for attacks in frame["attacks"] for attack in attacks}
    asked = (
        (PASSES_NOTE, (frame["forward"] != "").any()),
        (RAPID_NOTE, "Rapid" in kinds),
        (TRANSFER_NOTE, "Transfer" in kinds),
    )
    return (*NOTES, *(note for note, wanted in asked if wanted))


def doubts(frame: pd.DataFrame) -> list[str]:
    """Why models did not pass the trust battery: a sentence each."""
    found: dict[str, None] = {}
    for line in records_of(frame):
        name = " ".join(str(line[key]) for key in ("model", "activation") if line[key])
        reasons = line["reasons"]
        assert isinstance(reasons, list)
        found |= dict.fromkeys(f"{name}, {trust_words(line)}: {reason}" for reason in reasons)
    return list(found)


def trust_words(line: Mapping[str, object]) -> str:
    """The verdict of a line of the frame, with the attacks to try where it is in doubt."""
    following = line["next_attacks"]
    assert isinstance(following, Sequence)
    if line["trust"] != "suspicious" or not following:
        return str(line["trust"])
    return f"suspicious (try {', '.join(following)})"


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
        if (frame["seeds"] > 1).any():
            text[f"{column} range over seeds %"] = [spread(line, column) for line in records_of(frame)]
    if (frame["forward"] != "").any():
        passes = zip(frame["forward"], frame["backward"], strict=True)
        text["passes an image"] = [
            f"{_count(one)} + {_count(other)}" if one != "" else MISSING for one, other in passes
        ]
    text["violations"] = frame["violations"].astype(str)
    text["trust"] = [trust_words(line) for line in records_of(frame)]
    return text


def spread(line: Mapping[str, object], column: str) -> str:
    """The lowest and the highest seed of an accuracy of the frame, where there are several."""
    low, high = line[f"{column}_min"], line[f"{column}_max"]
    assert isinstance(low, float)
    assert isinstance(high, float)
    return MISSING if line["seeds"] == 1 else f"{down(low)} to {up(high)}"


def _count(passes: float) -> str:
    return f"{passes:.0f}" if passes >= 100 else f"{passes:.1f}"


def to_markdown(frame: pd.DataFrame) -> str:
    """The readable table in Markdown, with doubts and notes below."""
    below = [*(f"- {markdown_text(doubt)}" for doubt in doubts(frame)), *notes(frame)]
    return markdown_table(readable(frame)) + "\n" + "\n".join(f"{line}\n" for line in below)


def markdown_table(text: pd.DataFrame) -> str:
    """Any frame of texts as a Markdown table."""
    lines = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
    return "".join("| " + " | ".join(markdown_text(cell) for cell in line) + " |\n" for line in lines)


def markdown_text(cell: str) -> str:
    """Text that a Markdown reader shows as it is."""
    return re.sub(r"([\\|<*])", r"\\\1", cell).replace("\n", " ")


def to_csv(frame: pd.DataFrame) -> str:
    """The frame as CSV: percent with one decimal, rounded down or outward; lists are joined by " + "."""
    percent = {column: [down(value) for value in frame[column]] for column in _LOWER}
    percent |= {column: [up(value) for value in frame[column]] for column in _UPPER}
    named = {column: f"{column}_percent" for column in (*_LOWER, *_UPPER)}
    joined = {column: [" + ".join(texts) for texts in frame[column]] for column in _LISTS}
    passes = {column: [_tenths(value) for value in frame[column]] for column in _PASSES}
    frame = frame.assign(**percent, **joined, **passes).rename(columns=named)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _tenths(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) and not math.isnan(value) else ""


def to_json(frame: pd.DataFrame) -> str:
    """The frame as JSON: fractions at full precision, with the notes on how to read them."""
    return json_text({"notes": list(notes(frame)), "rows": records_of(frame)})


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
    above = [f"% {note}" for note in (*notes(frame), *doubts(frame))]
    return "\n".join([*above, rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
