"""Published figures, and what a run says of them. A published and a measured figure never share a column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from satbench.core.eps import default_step, format_eps, parse_eps, sat_step
from satbench.core.escaping import markdown
from satbench.reporting.claims_file import ClaimsFile, PublishedFigure, Source, headline, published
from satbench.reporting.rounding import down, outward
from satbench.reporting.summary import Row
from satbench.results.metrics import wilson
from satbench.results.schema import DataInfo
from satbench.specs.attack import Parameter

CARD = "card"  # a source whose images were loaded as the network's card says
WIDEST = 10.0  # points: a 95% interval from about 400 images; a wider one settles nothing by holding a figure
ROUNDING = 0.05  # published figures have one or two decimals
PUBLISHED_ATTACK: dict[str, tuple[object, ...]] = {
    "loss": ("ce",),
    "init": ("uniform-unclipped", "uniform"),  # the release's own, and its twin that starts inside the box
    "restarts": (1,),
    "keep": ("last",),
}


@dataclass(frozen=True)
class PublishedLine:
    """What a source states of one network at one threat, in percent, and whether a run was made here.

    eps: as people write it. attack: what the robust figure was measured with.
    """

    dataset: str
    split: str
    norm: str
    eps: str
    model: str
    clean: float | None
    robust: float | None
    attack: str
    source: str
    state: str


def published_lines(claims: ClaimsFile, rows: Sequence[Row]) -> list[PublishedLine]:
    """The headline figures of every network of the claims file, a line each."""
    lines = []
    threat, images = claims.threat, claims.images
    for model in claims.figures:
        clean, robust = headline(published(claims, model))
        here = [row for row in rows if (row.label, row.dataset, row.split) == (model, images.dataset, images.split)]
        lines.append(
            PublishedLine(
                dataset=images.dataset,
                split=images.split,
                norm=threat.norm,
                eps=format_eps(threat.eps),
                model=model,
                clean=clean.percent if clean else None,
                robust=robust.percent if robust else None,
                attack=robust.figure if robust else "",
                source=", ".join(dict.fromkeys(one.source for one in (clean, robust) if one)),
                state=_state(robust, [row for row in here if row.norm == threat.norm and row.eps == threat.eps]),
            )
        )
    return lines


def _state(claim: PublishedFigure | None, rows: Sequence[Row]) -> str:
    """Where the robust figure lies against the interval of the row under the same attack."""
    met = [row for row in rows if claim is not None and _is_pgd(row, claim.steps)]
    if claim is None or not met:
        return "not measured here"
    low, high = wilson(met[0].robust, met[0].n)
    if claim.percent < 100 * low - ROUNDING:
        return "measured higher"
    return "measured lower" if claim.percent > 100 * high + ROUNDING else "inside the measured interval"


@dataclass(frozen=True)
class Comparison:
    """A claim beside the count of `n` images that a run found correct or robust; both 0 where nothing was measured."""

    claim: PublishedFigure
    count: int
    n: int
    verdict: str


def compare(
    claims: ClaimsFile, model: str, loader: str | None, image_size: int | None, data: DataInfo, rows: Sequence[Row]
) -> list[Comparison]:
    """Every published figure of `model` beside the run's `rows`, with a verdict in words.

    `loader` and `image_size` are those on the model's card, `data` what the run had. A claim is tested only by the
    published images, size, loader and attack; otherwise the verdict says what differs. It agrees when it lies in the
    interval, give or take its own rounding.
    """
    card = data.model_copy(update={"loader": loader, "image_size": image_size})
    return [_compare(claims, claim, card, data, rows) for claim in published(claims, model)]


def _compare(
    claims: ClaimsFile, claim: PublishedFigure, card: DataInfo, data: DataInfo, rows: Sequence[Row]
) -> Comparison:
    source = claims.sources[claim.source]
    row = _test_of(claims, claim, source, rows)
    if row is None:
        loader = f" --loader {source.loader}" if source.loader not in (CARD, card.loader) else ""
        return Comparison(claim, 0, 0, f"not measured: --attack sat-pgd:steps={claim.steps}{loader}")
    count = row.robust if claim.steps else row.clean_correct
    low, high = wilson(count, row.n)
    differs = _differences(claims, claim, source, card, data, row)
    if claim.percent < 100 * low - ROUNDING:
        place = "below the interval"
    elif claim.percent > 100 * high + ROUNDING:
        place = "above the interval"
    else:
        place = "inside the interval"
    if differs:
        verdict = f"no test: {'; '.join(differs)}"
    elif place != "inside the interval":
        verdict = f"DISAGREES: published lies {place}"
    elif 100 * (high - low) > WIDEST:
        verdict = f"too few images to tell: published lies {place}, which is {100 * (high - low):.0f} points wide"
    else:
        verdict = "agrees"
    return Comparison(claim, count, row.n, verdict)


def _test_of(claims: ClaimsFile, claim: PublishedFigure, source: Source, rows: Sequence[Row]) -> Row | None:
    """The row that measures the claim's figure; if there is a choice, the one nearest to the published attack."""
    if not claim.steps:
        return max(rows, key=lambda row: row.n, default=None)
    norm, eps = claims.threat.norm, claims.threat.eps
    fits = [row for row in rows if row.norm == norm and abs(row.eps - eps) < 1e-9 and _is_pgd(row, claim.steps)]

    def strange(row: Row) -> tuple[int, bool]:
        return len(_attack_differences(source, row)), row.attacks[0].params["init"] == "uniform"

    return min(fits, key=strange, default=None)


def _is_pgd(row: Row, steps: int) -> bool:
    """Whether the row is of PGD with so many steps and of no other attack."""
    return len(row.attacks) == 1 and row.attacks[0].name == "pgd" and row.attacks[0].params["steps"] == steps


def _differences(
    claims: ClaimsFile, claim: PublishedFigure, source: Source, card: DataInfo, data: DataInfo, row: Row
) -> list[str]:
    differs = []
    images = claims.images
    if (data.name, data.split) != (images.dataset, images.split):
        differs.append(f"other images ({data.name} {data.split}, published on {images.dataset} {images.split})")
    loader = card.loader if source.loader == CARD else source.loader
    if data.image_size != card.image_size:
        differs.append(f"other size ({data.image_size} pixels, published with {card.image_size})")
    if data.loader is not None and data.loader != loader:
        differs.append(f"other loader ({data.loader}, published with {loader})")
    return differs + (_attack_differences(source, row) if claim.steps else [])


def _attack_differences(source: Source, row: Row) -> list[str]:
    params = row.attacks[0].settings
    differs = [
        f"other attack ({key} {params.get(key)}, published with {usual[0]})"
        for key, usual in PUBLISHED_ATTACK.items()
        if params.get(key) not in usual
    ]
    extra = params.keys() - {"steps", "step_size", *PUBLISHED_ATTACK}
    differs += [f"other attack ({key} {params[key]}, published without)" for key in sorted(extra)]
    if source.step_size is None:
        differs.append("the published step is not stated")
    elif abs(_step(row.eps, params) - parse_eps(source.step_size, "L2")) > 1e-9:
        differs.append(f"other step ({format_eps(_step(row.eps, params))}, published with {source.step_size})")
    return differs


def _step(eps: float, params: Mapping[str, Parameter]) -> float:
    stated, steps = params.get("step_size"), int(str(params["steps"]))
    if stated == "sat":
        return sat_step(eps, steps)
    return stated if isinstance(stated, float) else default_step(eps, steps)


def to_markdown(claims: ClaimsFile, compared: Sequence[Comparison]) -> str:
    """The comparisons as a table, with what was published where; accuracies are rounded down, bounds outward."""
    lines = [
        "| figure | published % | source | measured % [95%] | n | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in compared:
        measured = f"{down(one.count / one.n)} {outward(*wilson(one.count, one.n))}" if one.n else "-"
        cells = (one.claim.figure, str(one.claim), one.claim.source, measured, one.n or "-", one.verdict)
        lines.append("| " + " | ".join(markdown(str(cell)) for cell in cells) + " |")
    used = dict.fromkeys(one.claim.source for one in compared)
    return "\n".join([*lines, "", *(markdown(f"{source}: {claims.sources[source].where}") for source in used)])
