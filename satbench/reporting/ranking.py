"""Models that met one kind of evaluation at one threat, with the ranks that their intervals leave open."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from satbench.reporting.joined import images_name
from satbench.reporting.lines import model_lines
from satbench.reporting.names import capital, strength
from satbench.reporting.summary import Row, canonical, least_trusted
from satbench.reporting.table_forms import interval, trust_words
from satbench.reporting.tables import Line
from satbench.specs.attack import TIERS, ids

RANKING_NOTE = (
    "Each kind of evaluation has a list of its own, because a weaker attack bounds robust accuracy only from above. A "
    "model is listed under the strongest evaluation of that kind that it met. A rank is the range that the 95% "
    "intervals of robust accuracy leave open: 1-4 means that no interval lies above the model's own, that those of "
    "three other models overlap it, and that all others lie below. The intervals are not corrected for the number of "
    "models. A model with a trust verdict of fail at a threat has no rank there."
)


@dataclass(frozen=True)
class Place:
    """A line of a list with its lowest and its highest possible rank."""

    first: int
    last: int
    line: Line

    @property
    def rank(self) -> str:
        """One rank, or the range as `1-4`."""
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Ranking:
    """The models that met one kind of evaluation on the same images at the same threat, by robust accuracy.

    evaluation: one of `TIERS`. failed: the lines without a rank, since their trust verdict is fail.
    """

    dataset: str
    split: str
    loader: str
    norm: str
    eps: str
    evaluation: str
    places: tuple[Place, ...]
    failed: tuple[Line, ...]

    @property
    def threat(self) -> str:
        return f"{self.norm} {self.eps}"

    @property
    def images(self) -> str:
        return images_name(self.dataset, self.split, self.loader or None)

    @property
    def title(self) -> str:
        return f"{self.images}, {self.threat}, {self.evaluation}"

    @property
    def lines(self) -> list[Line]:
        """All lines: the ranked ones in their order, then the failed ones."""
        return [*(place.line for place in self.places), *self.failed]

    @property
    def attacks(self) -> list[str]:
        """The different sets of attacks that the models met, as tables name them."""
        return sorted({line.attack for line in self.lines})


def rankings(lines: Sequence[Line]) -> list[Ranking]:
    """The lists of these lines: by images, norm and radius, the strongest kind of evaluation first."""
    return [
        _ranking(here)
        for _, here in _grouped(
            lines,
            lambda line: (line.dataset, line.split, line.loader, line.norm, line.eps_value, line.eps, -_tier(line)),
        )
    ]


def share_failures(rows: Sequence[Row]) -> list[Row]:
    """The rows, where one that fails makes all of its model, images and threat fail: it is a fault of the network."""
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


def headline(ranking: Ranking) -> str:
    """Who is ahead and whether that is separable, in one to three sentences."""
    if not ranking.places:
        return "No model has a rank: the trust verdict of each is fail."
    best, others, overlap = ranking.places[0].line, len(ranking.places) - 1, ranking.places[0].last - 1
    rate = interval(best.robust, best.robust_lo, best.robust_hi).replace(" ", "% ", 1)
    figure = f"{rate} on {best.n} images"
    if not others:
        said = f"{best.name} is the only ranked model, with a robust accuracy of {figure}."
    elif not overlap:
        rest = "that of the other model" if others == 1 else f"those of the other {others} models"
        said = f"{best.name} is ahead: robust accuracy {figure}, and its 95% interval lies above {rest}."
    else:
        which = f"{overlap} of the {others} other models" if overlap < others else f"the other {others} models"
        said = (
            f"No model is separably ahead: {best.name} has the highest robust accuracy, {figure}, but its 95% interval "
            f"overlaps with {'that of the other model' if others == 1 else f'those of {which}'}."
        )
    if best.trust != "pass":
        said += f" Its trust verdict is {trust_words(best)}."
    if ranking.evaluation != TIERS[-1]:
        said += f" {capital(ranking.evaluation)} bounds robust accuracy only from above."
    return said


def separable(ranking: Ranking) -> str:
    """Whether the first model is separably ahead, in a few words; "-" without a second one."""
    others, overlap = len(ranking.places) - 1, ranking.places[0].last - 1
    if not others:
        return "-"
    return f"no, {overlap} of {others} others overlap" if overlap else f"yes, from {others} others"


def _grouped(
    lines: Sequence[Line], key: Callable[[Line], tuple[str | float, ...]]
) -> Iterator[tuple[tuple[str | float, ...], list[Line]]]:
    """The lines of each key, in the order of the keys."""
    for found, group in groupby(sorted(lines, key=key), key):
        yield found, list(group)


def _ranking(lines: Sequence[Line]) -> Ranking:
    strongest = [max(model, key=_strongest) for _, model in _grouped(lines, lambda line: line.identity)]
    failed, ranked = ([line for line in strongest if (line.trust == "fail") is wanted] for wanted in (True, False))
    ranked.sort(key=lambda line: (-line.robust, line.identity))
    places = tuple(
        Place(
            1 + sum(other.robust_lo > line.robust_hi for other in ranked),
            sum(other.robust_hi >= line.robust_lo for other in ranked),
            line,
        )
        for line in ranked
    )
    first = lines[0]
    return Ranking(
        first.dataset, first.split, first.loader, first.norm, first.eps, TIERS[_tier(first)], places, tuple(failed)
    )


def _strongest(line: Line) -> tuple[object, ...]:
    return len(line.attacks), strength(line.attacks), line.n, line.seeds, ids(line.attacks)


def _tier(line: Line) -> int:
    return strength(line.attacks)[0]
