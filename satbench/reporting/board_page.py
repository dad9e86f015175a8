"""The pages of a leaderboard: an index, and a page for each data set. Each is one file that loads nothing.

A page holds all threats and evaluations of its data set as lists of their own, of which it shows one at a time. So the
curves and cards of a model are there once, and the libraries once a data set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from satbench.reporting import browser, charts
from satbench.reporting.board_cards import Details, Key, key_of
from satbench.reporting.claims import CLAIMS_NOTE, ClaimState
from satbench.reporting.details import packed
from satbench.reporting.examples import CHOICE_NOTE
from satbench.reporting.published import PublishedLine
from satbench.reporting.ranking import RANKING_NOTE, Place, Ranking, headline, separable
from satbench.reporting.render import render
from satbench.reporting.room import MOST_BYTES, fitted
from satbench.reporting.table_forms import MISSING, doubts, interval, notes, spread, trust_words, weighted
from satbench.reporting.tables import Line
from satbench.specs.attack import TIERS, ids

SCRIPTS = ("charts.js", "cards.js", "paired.js", "board.js")  # of one module, in this order
TABLES = ("lines", "networks")  # the parts of a card of which every model has some
TITLE = "satbench leaderboards"  # of the index
PUBLISHED_NOTE = (
    "Published figures are what authors state of their own networks. They are hatched in the chart and have no rank: "
    "their images, attacks and counts are not this project's."
)
PAIRED_NOTE = (
    "Two models are compared on the same images: the difference of their robust accuracies with Tango's 95% score "
    "interval, and the exact McNemar test. Both are over the choice of images alone and not corrected for the number "
    "of comparisons."
)
CHART_NOTE = (
    "In the chart, lines through the marks are 95% intervals. A dashed line joins models of one recipe that differ in "
    "their activation alone. Models that the search or the filters of the table leave out are faint."
)


@dataclass(frozen=True)
class Part:
    """One list of a page: a threat, a kind of evaluation, and what was published for the threat.

    file: the stem of the files with the same table, "" without one.
    """

    id: str
    ranking: Ranking
    published: tuple[PublishedLine, ...]
    file: str

    @property
    def headline(self) -> str:
        return (
            headline(self.ranking) if self.ranking.lines else "No model was measured here; all figures are published."
        )

    @property
    def counts(self) -> str:
        """How many models and images, and which attacks."""
        lines = self.ranking.lines
        images = sorted({line.n for line in lines})
        said = f"{len(lines)} model{'' if len(lines) == 1 else 's'}, "
        said += f"{images[0]} images" if len(images) == 1 else f"{images[0]} to {images[-1]} images"
        attacks = self.ranking.attacks
        if len(attacks) == 1:
            return f"{said}, {attacks[0]}."
        return f"{said}. The attacks differ within this kind of evaluation: {'; '.join(attacks)}."

    @property
    def best(self) -> Mapping[str, Any] | None:
        """The first ranked line, as the index shows it."""
        if not self.ranking.places:
            return None
        return {**_row(self.ranking.places[0].line), "separable": separable(self.ranking)}

    @property
    def doubts(self) -> list[str]:
        return doubts(self.ranking.lines)


@dataclass(frozen=True)
class Board:
    """The page of one data set."""

    dataset: str
    stem: str
    parts: tuple[Part, ...]

    @property
    def first(self) -> Part:
        """The list that a page shows at first: the strongest evaluation, then the one with the most models."""
        return max(
            self.parts,
            key=lambda part: (len(part.ranking.lines) > 0, _tier(part), len(part.ranking.places)),
        )


def board_page(board: Board, cards: Mapping[Key, dict[str, Any]], details: Details) -> str:
    """The page of a data set."""
    keys = list(dict.fromkeys(key_of(line) for part in board.parts for line in part.ranking.lines))
    places = {key: place for place, key in enumerate(keys)}
    lines = [line for part in board.parts for line in part.ranking.lines]
    columns, known = _more(lines), [cards[key] for key in keys]
    data = {
        "lists": {part.id: browser.columns(_points(part, places)) for part in board.parts},
        **{name: browser.columns(_of_all(known, name)) for name in TABLES},
        "first": board.first.id,
        "chosen": CHOICE_NOTE,
        "scatter": charts.scatter(True),
        "published": charts.scatter(False),
        "eps": charts.curves("eps", "robust accuracy, %"),
        "epochs": charts.curves("epoch", "figure"),
    }
    page = render(  # as yet without data
        "board.html.j2",
        title=f"{board.dataset}: robust accuracy",
        board=board,
        lists=[{"part": part, "rows": _rows(part, places, columns), "alt": _alt(part)} for part in board.parts],
        more=list(columns),
        notes=[RANKING_NOTE, CHART_NOTE, PAIRED_NOTE, *_published_note(board), *notes(lines)],
        data="",
        vega=browser.vega(),
        data_tables=browser.data_tables(),
        script=Markup("").join(map(browser.own, SCRIPTS)),
        style=browser.own("board.css"),
        light=Markup(charts.palette(charts.LIGHT)),
        dark=Markup(charts.palette(charts.DARK)),
    )
    before, mark, after = page.partition('id="data">')
    room = MOST_BYTES - len(page.encode()) - len(browser.embedded(data))
    models, outcomes = fitted([_without_tables(one) for one in known], _outcomes(board, places, details), room)
    return f"{before}{mark}{browser.embedded({**data, 'models': models, 'outcomes': outcomes})}{after}"


def index_page(boards: Sequence[Board], claims: Sequence[ClaimState], title: str) -> str:
    """The index: who leads at each threat under the strongest evaluation, and the claims."""
    return render(
        "boards_index.html.j2",
        title=title,
        boards=[(board, _strongest_parts(board)) for board in boards],
        claims=claims,
        claims_note=CLAIMS_NOTE,
        style=browser.own("board.css"),
    )


def _of_all(cards: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The rows of a part of all cards, each with the place of its card."""
    return [{"model": place, **row} for place, card in enumerate(cards) for row in card[name]]


def _without_tables(card: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in card.items() if name not in TABLES}


def _strongest_parts(board: Board) -> list[Part]:
    chosen: dict[tuple[str, str], Part] = {}
    for part in board.parts:  # of one threat, the strongest evaluation comes first
        chosen.setdefault((part.ranking.images, part.ranking.threat), part)
    return list(chosen.values())


def _tier(part: Part) -> int:
    return TIERS.index(part.ranking.evaluation) if part.ranking.evaluation in TIERS else -1


def _published_note(board: Board) -> list[str]:
    return [PUBLISHED_NOTE] if any(part.published for part in board.parts) else []


def _alt(part: Part) -> str:
    count = len(part.ranking.lines) + len(part.published)
    said = f"Scatter of clean against robust accuracy of {count} models at {part.ranking.threat}."
    return f"{said} Its figures are in the table below."


def _more(lines: Sequence[Line]) -> list[str]:
    """The columns that the chooser adds, without those that no line fills."""
    asked = {
        "trained for": any(line.trained_for for line in lines),
        "extra data": any(line.extra_data for line in lines),
        "attacks": True,
        "robust range over seeds %": any(line.seeds > 1 for line in lines),
        "clean range over seeds %": any(line.seeds > 1 for line in lines),
        "weighted robust %": any(line.weighted is not None for line in lines),
        "passes an image": any(line.forward is not None for line in lines),
        "violations": True,
        "group": any(line.group for line in lines),
    }
    return [name for name, wanted in asked.items() if wanted]


def _cell(name: str, line: Line) -> str:
    passes = line.forward is not None and line.backward is not None
    return {
        "trained for": line.trained_for or MISSING,
        "extra data": line.extra_data or MISSING,
        "attacks": line.attack,
        "robust range over seeds %": spread(line, line.robust_min, line.robust_max),
        "clean range over seeds %": spread(line, line.clean_min, line.clean_max),
        "weighted robust %": weighted(line),
        "passes an image": f"{line.forward:.1f} + {line.backward:.1f}" if passes else MISSING,
        "violations": str(line.violations),
        "group": line.group or MISSING,
    }[name]


def _rows(part: Part, places: Mapping[Key, int], columns: Sequence[str]) -> list[dict[str, Any]]:
    ranked: list[tuple[Place | None, Line]] = [(place, place.line) for place in part.ranking.places]
    ranked += [(None, line) for line in part.ranking.failed]
    return [
        {
            "id": places[key_of(line)],
            "order": order,
            "rank": place.rank if place else MISSING,
            **_row(line),
            "more": [_cell(name, line) for name in columns],
        }
        for order, (place, line) in enumerate(ranked)
    ]


def _row(line: Line) -> dict[str, Any]:
    return {
        "line": line,
        "robust": interval(line.robust, line.robust_lo, line.robust_hi).split(" ", 1),
        "clean": interval(line.clean, line.clean_lo, line.clean_hi).split(" ", 1),
        "trust": trust_words(line),
    }


def _points(part: Part, places: Mapping[Key, int]) -> list[dict[str, Any]]:
    lines = part.ranking.lines
    twins = [(line.model, line.method, line.trained_for) for line in lines]
    measured: list[dict[str, Any]] = [
        {
            "id": places[key_of(line)],
            "activation": line.activation or MISSING,
            "method": line.method or MISSING,
            "twins": "~".join(twin) if twins.count(twin) > 1 else "",
            "published": "",
            **{
                f"{name}{end}": round(100 * getattr(line, f"{name}{end}"), 2)
                for name in ("clean", "robust")
                for end in ("", "_lo", "_hi")
            },
        }
        for line, twin in zip(lines, twins, strict=True)
    ]
    published: list[dict[str, Any]] = [
        {
            "id": f"p{place}",
            "activation": "",
            "method": "",
            "twins": "",
            "published": f"{one.model}: published clean {one.clean:g}%, robust {one.robust:g}% under {one.attack}",
            **{f"{name}{end}": getattr(one, name) for name in ("clean", "robust") for end in ("", "_lo", "_hi")},
        }
        for place, one in enumerate(part.published)
        if one.clean is not None and one.robust is not None
    ]
    return measured + published


def _outcomes(board: Board, places: Mapping[Key, int], details: Details) -> dict[str, Any]:
    """By list and model, which images and the outcomes of each seed on them.

    A line is left out where the outcomes of one of its networks are not known, or its networks saw different images.
    """
    found: dict[str, dict[int, Any]] = {}
    for part in board.parts:
        for line in part.ranking.lines:
            networks = [details.get((digest, line.dataset, line.split, line.loader)) for digest in line.digests]
            known = [one for one in networks if one is not None]
            seeds = [one.standing(line.threat, ids(line.attacks)) for one in known]
            outcomes = [one for one in seeds if one is not None]
            images = {one.images for one in known}
            if len(outcomes) == len(networks) and len(images) == 1:
                entry = {"images": images.pop(), "seeds": [packed(one) for one in outcomes]}
                found.setdefault(part.id, {})[places[key_of(line)]] = entry
    return found
