"""The accuracy table in Markdown, CSV, LaTeX and JSON, with the notes on how to read it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from satbench.core.escaping import csv_cell, latex, markdown
from satbench.core.files import to_json as json_text
from satbench.reporting.joined import images_name
from satbench.reporting.rounding import down, outward, up
from satbench.reporting.tables import Line
from satbench.results.metrics import UNION
from satbench.specs.attack import ids

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
EXTRA_NOTE = "Extra data: the share of every training batch that came from another data set."
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

_LOWER = ("clean", "clean_lo", "clean_min", "robust", "robust_lo", "robust_min", "weighted", "weighted_lo")
_PASSES = ("forward", "backward")
_UPPER = ("clean_hi", "clean_max", "robust_hi", "robust_max", "weighted_hi")
_ROUNDED: Mapping[str, Callable[[float], str]] = dict.fromkeys(_LOWER, down) | dict.fromkeys(_UPPER, up)


def notes(lines: Sequence[Line]) -> tuple[str, ...]:
    """How to read the lines, and which of them only give an upper bound."""
    joined = [attack for line in lines for attack in line.attacks]
    asked = (
        (GROUP_NOTE, any(line.group for line in lines)),
        (UNION_NOTE, any(line.norm == UNION for line in lines)),
        (EXTRA_NOTE, any(line.extra_data for line in lines)),
        (PASSES_NOTE, any(line.forward is not None for line in lines)),
        (WEIGHTED_NOTE, any(line.weighted is not None for line in lines)),
        (RAPID_NOTE, any(attack.tier == "rapid" for attack in joined)),
        (TRANSFER_NOTE, any(attack.kind == "transfer" for attack in joined)),
    )
    return (*NOTES, *(note for note, wanted in asked if wanted), *_of_some_models(lines))


def _of_some_models(lines: Sequence[Line]) -> list[str]:
    """What holds for some models only: predictions by majority, mixed machines, gradients that were not finite."""
    said: dict[str, None] = {}
    for line in lines:
        if line.draws != "1":
            said[f"{line.name}: a prediction is the majority of {line.draws} passes."] = None
        if line.mixed_numerics:
            said[f"{line.name}: machines of different arithmetic computed it; none alone repeats its bits."] = None
        if bad := line.bad_gradients:
            where = f"{line.name}, {line.threat}, {line.attack}"
            said[f"{where}: a gradient was not finite for {bad} images, counted over all seeds."] = None
    return list(said)


def doubts(lines: Sequence[Line]) -> list[str]:
    """Why models did not pass the trust battery: a sentence each."""
    found = (f"{line.name}, {trust_words(line)}: {reason}" for line in lines for reason in line.reasons)
    return list(dict.fromkeys(found))


def trust_words(line: Line) -> str:
    """The verdict of a line, with the attacks to try where it is in doubt."""
    if line.trust != "suspicious" or not line.next_attacks:
        return line.trust
    return f"suspicious (try {', '.join(line.next_attacks)})"


def json_line(line: Line) -> dict[str, object]:
    """A line as plain JSON values: its attacks as their ids, null for what is unknown."""
    known = {key: None if value == "" else value for key, value in _fields(line).items()}
    return known | {"attacks": ids(line.attacks)}


def _fields(line: Line) -> dict[str, Any]:
    """The columns of a line; that of extra data is left out where there is none."""
    return {key: value for key, value in vars(line).items() if value or key != "extra_data"}


def csv_line(line: Line) -> dict[str, object]:
    """A line as cells of CSV: percent with one decimal, rounded down or outward; lists are joined by " + "."""
    cells: dict[str, object] = {}
    for key, value in (_fields(line) | {"attacks": ids(line.attacks)}).items():
        if key in _ROUNDED:
            cells[f"{key}_percent"] = "" if value is None else _ROUNDED[key](value)
        elif key in _PASSES:
            cells[key] = "" if value is None else f"{value:.1f}"
        else:
            cells[key] = " + ".join(value) if isinstance(value, tuple) else value
    return cells


def readable(lines: Sequence[Line]) -> pd.DataFrame:
    """The lines as text for people: an accuracy shares a cell with its interval.

    What networks were trained for is shown where it varies, extra data where some model has it.
    """
    is_varied = len({line.trained_for for line in lines}) > 1
    has_extra = any(line.extra_data for line in lines)
    has_seeds = any(line.seeds > 1 for line in lines)
    is_random = any(line.weighted is not None for line in lines)
    is_counted = any(line.forward is not None for line in lines)
    return pd.DataFrame(
        {
            "model": line.model or MISSING,
            "activation": line.activation or MISSING,
            "method": line.method or MISSING,
            **({"trained for": line.trained_for or MISSING} if is_varied else {}),
            **({"extra data": line.extra_data or MISSING} if has_extra else {}),
            "data": images_name(line.dataset, line.split, line.loader),
            "threat": line.threat,
            "attack": line.attack,
            "seeds": str(line.seeds),
            "n": str(line.n),
            "clean %": interval(line.clean, line.clean_lo, line.clean_hi),
            **({"clean range over seeds %": spread(line, line.clean_min, line.clean_max)} if has_seeds else {}),
            "robust %": interval(line.robust, line.robust_lo, line.robust_hi),
            **({"robust range over seeds %": spread(line, line.robust_min, line.robust_max)} if has_seeds else {}),
            **({"weighted robust %": weighted(line)} if is_random else {}),
            **({"passes an image": _passes_cell(line)} if is_counted else {}),
            "violations": str(line.violations),
            "trust": trust_words(line),
        }
        for line in lines
    )


ALONE = ("model", "activation", "threat", "attack", "n", "trust")  # columns of a table with a single line
LATER = ("clean range over seeds %", "robust range over seeds %", "passes an image")


def first_columns(lines: Sequence[Line]) -> tuple[pd.DataFrame, str]:
    """The columns of `readable` that a page shows first, and in words what is equal in all lines.

    Columns of which every line has the same cell are left out, but for accuracies, and for `ALONE` of a single line;
    those of `LATER` always are.
    """
    whole = readable(lines).drop(columns=list(LATER), errors="ignore")
    same = {name: cells.iloc[0] for name, cells in whole.items() if cells.nunique() == 1 and not name.endswith("%")}
    left_out = {name: cell for name, cell in same.items() if cell == MISSING or not (len(lines) == 1 and name in ALONE)}
    words = ", ".join(f"{name} {cell}" for name, cell in left_out.items() if cell != MISSING)
    return whole.drop(columns=list(left_out)), words


def interval(mean: float, low: float, high: float) -> str:
    """An accuracy with its interval in percent."""
    return f"{down(mean)} {outward(low, high)}"


def weighted(line: Line) -> str:
    """The weighted accuracy with its interval, where it is known."""
    if line.weighted is None or line.weighted_lo is None or line.weighted_hi is None:
        return MISSING
    return interval(line.weighted, line.weighted_lo, line.weighted_hi)


def spread(line: Line, low: float, high: float) -> str:
    """The lowest and the highest seed of an accuracy of the line, where there are several."""
    return MISSING if line.seeds == 1 else f"{down(low)} to {up(high)}"


def _passes_cell(line: Line) -> str:
    if line.forward is None or line.backward is None:
        return MISSING
    return f"{_count(line.forward)} + {_count(line.backward)}"


def _count(passes: float) -> str:
    return f"{passes:.0f}" if passes >= 100 else f"{passes:.1f}"


def to_markdown(lines: Sequence[Line]) -> str:
    """The readable table in Markdown, with doubts and notes below."""
    below = [*(f"- {markdown(doubt)}" for doubt in doubts(lines)), *map(markdown, notes(lines))]
    return markdown_table(readable(lines)) + "\n" + "\n".join(f"{line}\n" for line in below)


def markdown_table(text: pd.DataFrame) -> str:
    """Any frame of texts as a Markdown table."""
    head, *body = [list(map(markdown, line)) for line in (text.columns, *text.to_numpy().tolist())]
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def to_csv(lines: Sequence[Line]) -> str:
    """The table as CSV, a `csv_line` each."""
    return csv_text([csv_line(line) for line in lines])


def csv_text(cells: Sequence[Mapping[str, object]]) -> str:
    """Lines of cells under their names."""
    shown = [{key: csv_cell(cell) if isinstance(cell, str) else cell for key, cell in line.items()} for line in cells]
    text: str = pd.DataFrame(shown).to_csv(index=False, lineterminator="\n")
    return text


def to_json(lines: Sequence[Line]) -> str:
    """The table as JSON: fractions at full precision, with the notes on how to read them."""
    return json_text({"notes": notes(lines), "rows": [json_line(line) for line in lines]})


def to_latex(lines: Sequence[Line]) -> str:
    """The readable table as a LaTeX `tabular`; the document loads booktabs."""
    text = readable(lines)
    numbers = {"seeds", "n", "violations"}
    head = " & ".join(map(latex, text.columns))
    body = [" & ".join(map(latex, line)) for line in text.to_numpy().tolist()]
    rows = [r"\toprule", rf"{head} \\", r"\midrule", *(rf"{line} \\" for line in body), r"\bottomrule"]
    columns = "".join("r" if column in numbers else "l" for column in text.columns)
    above = [f"% {latex(note)}" for note in (*notes(lines), *doubts(lines))]
    return "\n".join([*above, rf"\begin{{tabular}}{{{columns}}}", *rows, r"\end{tabular}"]) + "\n"
