"""Leaderboards: files made of summary rows, the same bytes on every machine."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from satbench.core.bounded import read_bounded
from satbench.core.eps import NORMS
from satbench.core.errors import BadInput
from satbench.core.escaping import markdown
from satbench.core.files import to_json, write_text
from satbench.core.names import path_part
from satbench.reporting.board_cards import by_network, cards
from satbench.reporting.board_page import TITLE, Board, Part, board_page, index_page
from satbench.reporting.claims import ClaimState
from satbench.reporting.details import Detail
from satbench.reporting.published import PublishedLine
from satbench.reporting.ranking import RANKING_NOTE, Ranking, headline, rankings, share_failures
from satbench.reporting.render import check_page_folder, is_own_page
from satbench.reporting.summary import Row
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
from satbench.results.metrics import UNION

_GENERATED = re.compile(rf".+-(?:(?:{'|'.join(NORMS)})-[\d._e+-]+|{UNION}-of[-_].+)\.(?:json|csv|md)")


def build(
    summary_rows: Sequence[Row],
    claims: Sequence[ClaimState] = (),
    published: Sequence[PublishedLine] = (),
    details: Sequence[Detail] = (),
    title: str = TITLE,
) -> dict[str, str]:
    """File names and texts: JSON, CSV and Markdown for each data set, norm and eps, a page a data set, and index.html.

    Images and kinds of evaluation are ranked apart, each in a list of its own; index.html ends with the claims. The
    order of the rows does not matter. Raises `BadInput` when two data sets would share a file name.
    """
    rows = share_failures(summary_rows)
    lists = rankings(accuracy_table(rows))
    files: dict[str, str] = {}
    for (dataset, norm, eps), found in groupby(sorted(lists, key=_place), _place):
        here, heading = list(found), f"{dataset}, {norm} {eps}"
        stem = _stem(dataset, norm, eps)
        if f"{stem}.json" in files:
            raise BadInput(f"{heading} and another data set would share the file {stem}.json; rename one data set")
        lines = [line for one in here for line in one.lines]
        files[f"{stem}.json"] = _json(heading, here, notes(lines))
        files[f"{stem}.csv"] = _csv(here)
        files[f"{stem}.md"] = _markdown(heading, here, notes(lines))
    boards = _boards(lists, published)
    looked_up = by_network(details)
    known = cards(rows, looked_up)
    for board in boards:
        name = f"{board.stem}.html"
        if name in files or name == "index.html":
            raise BadInput(f"{board.dataset} and another data set would share the file {name}; rename one data set")
        files[name] = board_page(board, known, looked_up)
    return files | {"index.html": index_page(boards, claims, title)}


def write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files of `build` into `folder` and remove generated files that are not among them.

    Files with other names, such as leaderboard.yaml and claims.yaml, are left alone. Raises `BadInput`, and
    changes nothing, where a page would replace one that satbench did not write.
    """
    check_page_folder(folder, option="--dir")
    for name in files:
        if name.endswith(".html") and (folder / name).exists() and not is_own_page(folder / name):
            raise BadInput(f"{folder / name} is not a page of this satbench; remove it, or give another folder")
    for name in _generated(folder) - set(files):
        (folder / name).unlink()
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def check(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Names of the generated files that differ from those of `build`, are missing, or should not be there."""
    present = _generated(folder)
    wrong = present ^ set(files)
    wrong |= {name for name in present & set(files) if read_bounded(folder / name) != files[name].encode()}
    return sorted(wrong)


def _generated(folder: Path) -> set[str]:
    """The files of earlier builds: by their names, and pages by satbench's mark."""
    if not folder.is_dir():
        return set()
    return {
        path.name
        for path in folder.iterdir()
        if _GENERATED.fullmatch(path.name) or (path.suffix == ".html" and is_own_page(path))
    }


def _place(one: Ranking) -> tuple[str, str, str]:
    return one.dataset, one.norm, one.eps


def _stem(*parts: str) -> str:
    """A file name of these, without what does not belong in one."""
    return path_part("-".join(parts), 120)


def _boards(lists: Sequence[Ranking], published: Iterable[PublishedLine]) -> list[Board]:
    """A page for each data set; a threat that was only published has an empty list."""
    stated: dict[tuple[str, str, str, str], list[PublishedLine]] = {}
    for line in published:
        stated.setdefault((line.dataset, line.split, line.norm, line.eps), []).append(line)
    measured = {(one.dataset, one.split, one.norm, one.eps) for one in lists}
    empty = [
        Ranking(dataset, split, "", norm, eps, "published", (), ())
        for dataset, split, norm, eps in stated
        if (dataset, split, norm, eps) not in measured
    ]
    parts: dict[str, list[Part]] = {}
    for one in sorted([*lists, *empty], key=lambda one: one.dataset):
        images = "-".join(filter(None, (one.split, one.loader)))
        figures = tuple(stated.get((one.dataset, one.split, one.norm, one.eps), ()))
        id = re.sub(r"[^A-Za-z0-9.+]+", "-", f"{images}-{one.norm}-{one.eps}-{one.evaluation}")
        file = _stem(*_place(one)) if one.lines else ""
        parts.setdefault(one.dataset, []).append(Part(id, one, figures, file))
    return [Board(dataset, _stem(dataset), tuple(found)) for dataset, found in parts.items()]


def _readable(one: Ranking, lines: Sequence[Line]) -> pd.DataFrame:
    ranks = {place.line.identity: place.rank for place in one.places}
    several = any(line.seeds != 1 for line in lines)
    extra = any(line.extra_data for line in lines)
    random = any(line.weighted is not None for line in lines)
    return pd.DataFrame(
        {
            "rank": ranks.get(line.identity, MISSING),
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
        }
        for line in lines
    )


def _json(title: str, lists: Sequence[Ranking], table_notes: Sequence[str]) -> str:
    boards = [
        {
            "split": one.split,
            "evaluation": one.evaluation,
            "headline": headline(one),
            "rows": [{"rank": place.first, "rank_to": place.last, **json_line(place.line)} for place in one.places],
            "unranked": [json_line(line) for line in one.failed],
        }
        for one in lists
    ]
    return to_json({"title": title, "notes": [RANKING_NOTE, *table_notes], "boards": boards})


def _csv(lists: Sequence[Ranking]) -> str:
    cells = []
    for one in lists:
        ranks = {place.line.identity: (place.first, place.last) for place in one.places}
        for line in one.lines:
            first, last = ranks.get(line.identity, ("", ""))
            cells.append({"rank": first, "rank_to": last, **csv_line(line), "evaluation": one.evaluation})
    return csv_text(cells)


def _markdown(title: str, lists: Sequence[Ranking], table_notes: Sequence[str]) -> str:
    text = f"# {markdown(title)}\n\n"
    for one in lists:
        text += f"## {markdown(one.images)}, {markdown(one.evaluation)}\n\n{markdown(headline(one))}\n\n"
        if one.places:
            text += f"{markdown_table(_readable(one, [place.line for place in one.places]))}\n"
        if one.failed:
            text += f"Not ranked, because the trust verdict is fail:\n\n{markdown_table(_readable(one, one.failed))}\n"
        text += "".join(f"- {markdown(doubt)}\n" for doubt in doubts(one.lines))
        text += "\n" if doubts(one.lines) else ""
    return text + "\n".join(f"{markdown(note)}\n" for note in (RANKING_NOTE, *table_notes))
