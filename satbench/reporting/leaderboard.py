"""Leaderboards: files made of summary rows, the same bytes on every machine."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pandas as pd

from satbench.core.bounded import read_bounded
from satbench.core.eps import NORMS
from satbench.core.errors import BadInput
from satbench.core.escaping import markdown
from satbench.core.files import to_json, write_text
from satbench.core.names import path_part
from satbench.reporting.claims import CLAIMS_NOTE, ClaimState, claims_table
from satbench.reporting.lines import model_lines
from satbench.reporting.names import strength
from satbench.reporting.render import check_page_folder, render
from satbench.reporting.summary import Row, canonical, least_trusted
from satbench.reporting.table_forms import (
    MISSING,
    csv_line,
    csv_text,
    doubts,
    interval,
    json_line,
    markdown_table,
    notes,
    spread,
    trust_words,
    weighted,
)
from satbench.reporting.tables import Line, accuracy_table
from satbench.results.metrics import UNION, WORST
from satbench.specs.attack import TIERS, ids

INSEPARABLE = "not separable from the best"
FAILED = "not ranked: its trust verdict is fail"
RANKING_NOTE = (
    "Each model stands under the strongest evaluation it met: the worst case over its attacks, else AutoAttack, else "
    "rapid, else a part of AutoAttack, else PGD. Stronger kinds of evaluation come first, because a weaker one only "
    "bounds robust accuracy from above; among equals, higher robust accuracy comes first. "
    f'"{INSEPARABLE}" means that the two 95% intervals overlap. '
    "A model with a trust verdict of fail at a threat is listed apart and has no rank there; one that is suspicious or "
    "not checked keeps its rank and is marked."
)
_GENERATED = re.compile(rf"index\.html|.+-(?:(?:{'|'.join(NORMS)})-[\d._e+-]+|{UNION}-of_.+)\.(?:json|csv|md)")


@dataclass(frozen=True)
class _Place:
    """One line of a board; without a rank where it cannot be trusted."""

    rank: int | None
    line: Line
    evaluation: str
    remark: str


@dataclass(frozen=True)
class _Part:
    split: str
    places: tuple[_Place, ...]
    unranked: tuple[_Place, ...]
    doubts: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        return _readable(self.places)

    @property
    def unranked_table(self) -> pd.DataFrame:
        return _readable(self.unranked)


@dataclass(frozen=True)
class _Board:
    stem: str
    title: str
    parts: tuple[_Part, ...]
    notes: tuple[str, ...]


def build(summary_rows: Sequence[Row], claims: Sequence[ClaimState] = ()) -> dict[str, str]:
    """File names and texts: JSON, CSV and Markdown for each data set, norm and eps, and one index.html over all.

    Splits of one data set are ranked apart, each in its own section; index.html ends with the claims. The order of the
    rows does not matter. Raises `BadInput` when two data sets would share a file name.
    """
    lines = accuracy_table(_failed_together(summary_rows))
    boards = _boards(lines)
    files = {}
    for board in boards:
        files[f"{board.stem}.json"] = _json(board)
        files[f"{board.stem}.csv"] = _csv(board)
        files[f"{board.stem}.md"] = _markdown(board)
    files["index.html"] = render(
        "leaderboard.html.j2",
        title="satbench leaderboards",
        boards=boards,
        numbers=("rank", "n", "seeds", "violations"),
        ranking_note=RANKING_NOTE,
        table_notes=notes(lines),
        claims=claims_table(claims),
        claims_note=CLAIMS_NOTE,
    )
    return files


def write(folder: Path, rows: Sequence[Row], claims: Sequence[ClaimState] = ()) -> list[Path]:
    """Write every file of `build` into `folder` and remove generated files that no row explains any more.

    Files with other names, such as baselines.yaml, claims.yaml and runs.json, are left alone. Raises `BadInput`, and
    changes nothing, where index.html is a page of someone else.
    """
    check_page_folder(folder, option="--dir")
    files = build(rows, claims)
    for name in _generated(folder) - set(files):
        (folder / name).unlink()
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def check(folder: Path, rows: Sequence[Row], claims: Sequence[ClaimState] = ()) -> list[str]:
    """Names of the generated files that differ from `build`, are missing, or should not be there; [] when all agree."""
    files = build(rows, claims)
    present = _generated(folder)
    wrong = present ^ set(files)
    wrong |= {name for name in present & set(files) if read_bounded(folder / name) != files[name].encode()}
    return sorted(wrong)


def _generated(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if _GENERATED.fullmatch(path.name)}


def _failed_together(rows: Sequence[Row]) -> list[Row]:
    """The rows; what fails is a fault of the network, so it fails for all rows of one model, images and threat."""
    lines = model_lines(row.network for row in rows)
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in canonical(rows):
        place = (lines[row.network], row.dataset, row.split, row.norm, row.eps, row.threats)
        groups.setdefault(place, []).append(row)
    shared: list[Row] = []
    for group in groups.values():
        found = [row.trust for row in group if row.trust.verdict == "fail"]
        shared += [row.model_copy(update={"trust": least_trusted(found)}) if found else row for row in group]
    return shared


def _boards(lines: Sequence[Line]) -> list[_Board]:
    boards: dict[str, _Board] = {}
    for (dataset, norm, eps), here in _grouped(lines, lambda line: (line.dataset, line.norm, line.eps)):
        named = f"{re.sub(r'[^A-Za-z0-9.]+', '_', dataset)}-{norm}-{re.sub('[^A-Za-z0-9.+-]+', '_', eps)}"
        stem = path_part(named, 120)
        title = f"{dataset}, {norm} {eps}"
        if stem in boards:
            raise BadInput(f"{boards[stem].title} and {title} would share the file {stem}.json; rename one data set")
        parts = tuple(_part(key[0], part) for key, part in _grouped(here, lambda line: (line.split,)))
        boards[stem] = _Board(stem, title, parts, (RANKING_NOTE, *notes(here)))
    return [boards[stem] for stem in sorted(boards)]


def _grouped(
    lines: Sequence[Line], key: Callable[[Line], tuple[str, ...]]
) -> Iterator[tuple[tuple[str, ...], list[Line]]]:
    """The lines of each key, in the order of the keys."""
    for found, group in groupby(sorted(lines, key=key), key):
        yield found, list(group)


def _part(split: str, lines: Sequence[Line]) -> _Part:
    strongest = [max(model, key=_strongest_first) for _, model in _grouped(lines, lambda line: line.identity)]
    chosen, failed = ([line for line in strongest if (line.trust == "fail") is wanted] for wanted in (False, True))
    ordered = sorted(chosen, key=lambda line: (-_tier(line), -line.robust, line.identity))
    places = tuple(_place(line, ordered) for line in ordered)
    unranked = tuple(_Place(None, line, _kind(line), FAILED) for line in failed)
    return _Part(split, places, unranked, tuple(doubts([*ordered, *failed])))


def _strongest_first(line: Line) -> tuple[object, ...]:
    return _tier(line), len(line.attacks), strength(line.attacks), line.n, line.seeds, ids(line.attacks)


def _place(line: Line, ordered: Sequence[Line]) -> _Place:
    best, tier = ordered[0], _tier(line)
    ahead = [other for other in ordered if (_tier(other), other.robust) > (tier, line.robust)]
    if line is best:
        remark = "highest"
    elif tier < _tier(best):
        remark = "weaker evaluation: an upper bound, not comparable with the best"
    elif line.robust_hi >= best.robust_lo:
        remark = INSEPARABLE
    else:
        remark = ""
    return _Place(len(ahead) + 1, line, _kind(line), remark)


def _kind(line: Line) -> str:
    tier = TIERS[_tier(line)]
    return f"{WORST}, {tier} included" if len(line.attacks) > 1 else tier


def _tier(line: Line) -> int:
    return strength(line.attacks)[0]


def _readable(places: Sequence[_Place]) -> pd.DataFrame:
    several = any(place.line.seeds != 1 for place in places)
    extra = any(place.line.extra_data for place in places)
    random = any(place.line.weighted is not None for place in places)
    return pd.DataFrame(
        {
            "rank": str(place.rank or MISSING),
            "model": line.model,
            "activation": line.activation or MISSING,
            "method": line.method or MISSING,
            "trained for": line.trained_for or MISSING,
            **({"extra data": line.extra_data or MISSING} if extra else {}),
            "robust %": interval(line.robust, line.robust_lo, line.robust_hi),
            **({"robust range over seeds %": spread(line, line.robust_min, line.robust_max)} if several else {}),
            **({"weighted robust %": weighted(line)} if random else {}),
            "clean %": interval(line.clean, line.clean_lo, line.clean_hi),
            "n": str(line.n),
            "seeds": str(line.seeds),
            "evaluation": line.attack,
            "violations": str(line.violations),
            "trust": trust_words(line),
            "remark": place.remark or MISSING,
        }
        for place, line in ((place, place.line) for place in places)
    )


def _json(board: _Board) -> str:
    def lines(places: Sequence[_Place]) -> list[dict[str, object]]:
        return [
            {"rank": place.rank, "evaluation": place.evaluation, "remark": place.remark, **json_line(place.line)}
            for place in places
        ]

    boards = [
        {"split": part.split, "rows": lines(part.places), "unranked": lines(part.unranked)} for part in board.parts
    ]
    return to_json({"title": board.title, "notes": list(board.notes), "boards": boards})


def _csv(board: _Board) -> str:
    places = [place for part in board.parts for place in (*part.places, *part.unranked)]
    lines = [
        {"rank": place.rank or "", **csv_line(place.line), "evaluation": place.evaluation, "remark": place.remark}
        for place in places
    ]
    return csv_text(lines)


def _markdown(board: _Board) -> str:
    text = f"# {markdown(board.title)}\n\n"
    for part in board.parts:
        text += f"## Split {markdown(part.split)}\n\n"
        text += f"{markdown_table(part.table)}\n" if part.places else "No run to rank.\n\n"
        if part.unranked:
            text += f"Not ranked, because the trust verdict is fail:\n\n{markdown_table(part.unranked_table)}\n"
        text += "".join(f"- {markdown(doubt)}\n" for doubt in part.doubts) + ("\n" if part.doubts else "")
    return text + "\n".join(f"{markdown(note)}\n" for note in board.notes)
