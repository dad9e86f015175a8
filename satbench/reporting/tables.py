"""The one accuracy table, and its Markdown, CSV, LaTeX and JSON forms."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction

import pandas as pd

from satbench.eps import format_eps
from satbench.reporting.lines import ModelLine, group_rows
from satbench.reporting.names import display_name, short_names, threat_name
from satbench.reporting.rounding import down, outward, up
from satbench.reporting.summary import Row, images_name, least_trusted
from satbench.results.attack_info import ids
from satbench.results.metrics import UNION, wilson
from satbench.results.store import to_json as json_text

INTERVAL_NOTE = (
    "Intervals in brackets are 95% Wilson intervals on the mean over seeds, with n = the number of distinct images "
    "(not images x seeds; where seeds differ, the smallest). That is conservative for the choice of images and says "
    "nothing about the choice of seeds: for that, the range gives the lowest and the highest seed."
)
ROUNDING_NOTE = "Accuracies are rounded down, interval bounds outward. Clean accuracy is on the same n images."
TRUST_NOTE = (
    "Trust is the verdict of the battery of checks, the worst over the runs of a line: pass; not checked (no check was "
    "run, or one had too few images or passes to find a fault); suspicious (with the attack to try next); fail."
)
GROUP_NOTE = "Seeds of a line with a group are networks that the user declared as one model."
UNION_NOTE = (
    "In a union of threats, an image counts as robust if it stands against every attack at each of the threats; n are "
    "the images that met them all."
)
WEIGHTED_NOTE = (
    "Weighted robust accuracy is for networks with random predictions: the mean over images of the smallest share of "
    "passes, over the attacks, that classify the example correctly. Its 95% Wilson interval is conservative, because "
    "a share varies at most as much as a yes or no with the same mean."
)
PASSES_NOTE = (
    "Passes an image: forward + backward passes that the attacks took, counted, as a mean over all n images. An image "
    "that is misclassified as it is, or that a smaller eps has broken already, takes none."
)
RAPID_NOTE = (
    "Rapid spends at most 1,205 passes on an image, an eighth of AutoAttack's with ten classes in Linf and L2; the "
    "robust accuracy under it is an upper bound on AutoAttack's, up to randomness."
)
TRANSFER_NOTE = (
    "An attack from another model used none of this one's gradients; robust accuracy under it is a loose upper bound."
)
NOTES = (INTERVAL_NOTE, ROUNDING_NOTE, TRUST_NOTE)  # on every table

MISSING = "-"

COLUMNS = (
    "model",  # told apart from every other line, see `lines.model_lines`
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
    "attacks",  # what is known of each attack joined by it; written by their ids
    "group",
    "digests",  # of the networks, one for each seed
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
    "draws",  # passes in the majority vote of a random network
    "weighted",  # by the probability of a correct answer, where draws are several
    "weighted_lo",
    "weighted_hi",
    "forward",  # passes an image
    "backward",
    "violations",
    "bad_gradients",
    "trust",
    "reasons",  # sentences behind a verdict that is no pass
    "next_attacks",
)
_LOWER = ("clean", "clean_lo", "clean_min", "robust", "robust_lo", "robust_min", "weighted", "weighted_lo")
_LISTS = ("attacks", "digests", "reasons", "next_attacks")
_PASSES = ("forward", "backward")
_UPPER = ("clean_hi", "clean_max", "robust_hi", "robust_max", "weighted_hi")


def accuracy_table(rows: Sequence[Row]) -> pd.DataFrame:
    """The frame behind every form of the table: a line per model, threat and attack, its seeds joined.

    Accuracies are fractions at full precision: means over seeds, with 95% Wilson intervals on n distinct images.
    `robust_min` and `robust_max` are the lowest and the highest seed. What is unknown is "". Models are told apart
    among these rows, so a part of a table is a part of this frame, not the table of some of the rows.
    """
    shorts = short_names(attack for row in rows for attack in row.attacks)
    lines = [_line(line, group, shorts) for line, group in group_rows(rows)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _line(line: ModelLine, group: list[Row], shorts: dict[str, str]) -> dict[str, object]:
    first = group[0]
    n = min(row.n for row in group)
    robust = [Fraction(row.robust, row.n) for row in group]
    clean = [Fraction(row.clean_correct, row.n) for row in group]
    trust = least_trusted(row.trust for row in group)
    clean_mean, clean_lo, clean_hi = _mean(clean, n)
    robust_mean, robust_lo, robust_hi = _mean(robust, n)
    shares = [Fraction(row.weighted) for row in group if row.weighted is not None]
    weighted, weighted_lo, weighted_hi = _mean(shares, n) if len(shares) == len(group) else ("", "", "")
    return {
        **asdict(line),
        "dataset": first.dataset,
        "split": first.split,
        "loader": first.loader or "",
        "norm": first.norm,
        "eps": _eps(first),
        "eps_value": first.eps,
        "attack": display_name(first.attack, ids(first.attacks), shorts),
        "attacks": first.attacks,
        "group": first.group or "",
        "digests": tuple(row.model_digest for row in group),
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
        "draws": " + ".join(map(str, sorted({draws for row in group for draws in row.draws}))),
        "weighted": weighted,
        "weighted_lo": weighted_lo,
        "weighted_hi": weighted_hi,
        "forward": _passes([(row.forward, row.n) for row in group]),
        "backward": _passes([(row.backward, row.n) for row in group]),
        "violations": sum(row.violations for row in group),
        "bad_gradients": sum(row.bad_gradients for row in group),
        "trust": trust.verdict,
        "reasons": trust.reasons,
        "next_attacks": trust.next_attacks,
    }


def _eps(row: Row) -> str:
    if row.norm != UNION:
        return format_eps(row.eps)
    return "of " + ", ".join(threat_name(one.norm, one.eps) for one in row.threats)


def _mean(rates: Sequence[Fraction], n: int) -> tuple[float, float, float]:
    mean = sum(rates, Fraction()) / len(rates)
    return float(mean), *wilson(float(mean * n), n)


def _passes(counts: Sequence[tuple[int | None, int]]) -> float | str:
    """Passes an image, averaged over seeds; "" where those of some seed were not counted."""
    known = [Fraction(count, n) for count, n in counts if count is not None]
    return float(sum(known, Fraction()) / len(known)) if len(known) == len(counts) else ""


def notes(frame: pd.DataFrame) -> tuple[str, ...]:
    """How to read the frame's lines, and which of them only give an upper bound."""
    joined = [attack for attacks in frame["attacks"] for attack in attacks]
    asked = (
        (GROUP_NOTE, (frame["group"] != "").any()),
        (UNION_NOTE, (frame["norm"] == UNION).any()),
        (PASSES_NOTE, (frame["forward"] != "").any()),
        (WEIGHTED_NOTE, (frame["weighted"] != "").any()),
        (RAPID_NOTE, any(attack.tier == "rapid" for attack in joined)),
        (TRANSFER_NOTE, any(attack.kind == "transfer" for attack in joined)),
    )
    return (*NOTES, *(note for note, wanted in asked if wanted), *_of_some_models(frame))


def _of_some_models(frame: pd.DataFrame) -> list[str]:
    """What holds for some models only: predictions by majority, and gradients that were not finite."""
    said: dict[str, None] = {}
    for line in records_of(frame):
        model = " ".join(str(line[key]) for key in ("model", "activation") if line[key])
        if line["draws"] != "1":
            said[f"{model}: a prediction is the majority of {line['draws']} passes."] = None
        if bad := line["bad_gradients"]:
            where = f"{model}, {line['norm']} {line['eps']}, {line['attack']}"
            said[f"{where}: a gradient was not finite for {bad} images, counted over all seeds."] = None
    return list(said)


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
    """The frame's lines; "" becomes None, and a tuple a list."""
    return [
        {
            key: list(value) if isinstance(value, tuple) else None if value == "" else value
            for key, value in line.items()
        }
        for line in frame.to_dict("records")
    ]


def json_line(line: Mapping[str, object]) -> dict[str, object]:
    """A line of `records_of` as plain JSON values, its attacks as their ids."""
    attacks = line["attacks"]
    assert isinstance(attacks, list)
    return {**line, "attacks": list(ids(attacks))}


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
    if (frame["weighted"] != "").any():
        shares = zip(frame["weighted"], frame["weighted_lo"], frame["weighted_hi"], strict=True)
        text["weighted robust %"] = [
            f"{down(mean)} {outward(low, high)}" if mean != "" else MISSING for mean, low, high in shares
        ]
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
    percent = {column: [_known(value, down) for value in frame[column]] for column in _LOWER}
    percent |= {column: [_known(value, up) for value in frame[column]] for column in _UPPER}
    named = {column: f"{column}_percent" for column in (*_LOWER, *_UPPER)}
    frame = frame.assign(attacks=[ids(attacks) for attacks in frame["attacks"]])
    joined = {column: [" + ".join(texts) for texts in frame[column]] for column in _LISTS}
    passes = {column: [_known(value, "{:.1f}".format) for value in frame[column]] for column in _PASSES}
    frame = frame.assign(**percent, **joined, **passes).rename(columns=named)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text


def _known(value: object, text: Callable[[float], str]) -> str:
    """The number as text; "" where it is unknown."""
    return text(value) if isinstance(value, float) and not math.isnan(value) else ""


def to_json(frame: pd.DataFrame) -> str:
    """The frame as JSON: fractions at full precision, with the notes on how to read them."""
    return json_text({"notes": list(notes(frame)), "rows": list(map(json_line, records_of(frame)))})


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
