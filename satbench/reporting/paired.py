"""Two runs on the same images, compared image by image."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from satbench.core.errors import BadInput
from satbench.core.escaping import markdown
from satbench.reporting.comparison import NOISE
from satbench.reporting.joined import attacks_of, images_name, network_of
from satbench.reporting.lines import network_names
from satbench.reporting.names import display_name, short_names, threat_name
from satbench.reporting.rounding import down, inward, outward
from satbench.reporting.summary import Trusted
from satbench.reporting.table_forms import markdown_table
from satbench.results.metrics import (
    WORST,
    Paired,
    clean_table,
    mcnemar,
    paired_interval,
    robust_table,
    samples_needed,
    wilson,
)
from satbench.results.store import Run, read_run

LEVEL = 0.05
METHOD_NOTE = (
    "Intervals in brackets are 95%: Wilson's of each rate, Tango's score interval of the difference of paired rates; "
    'both over the choice of images alone. A is "higher" or "lower" only when the exact McNemar test rejects at 0.05 '
    "and the interval of the difference excludes 0. No interval and no p is corrected for the number of comparisons. "
    "Images to settle a difference: what the exact test needs to notice it in 4 of 5 cases (Connor 1987, with "
    "continuity correction), if the share of images that only one network gets right stays as it is here."
)


@dataclass(frozen=True)
class Figure:
    """One accuracy of two runs on the same images: how many each gets right, and how they pair up."""

    quantity: str
    right_a: int
    right_b: int
    pair: Paired

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the difference A - B."""
        return paired_interval(self.pair)

    @property
    def verdict(self) -> str:
        """`higher`, `lower` or `inside the noise`, of A against B."""
        low, high = self.interval
        if self.pair.p_value >= LEVEL or low <= 0 <= high:
            return NOISE
        return "higher" if self.pair.difference > 0 else "lower"

    def images_for(self, difference: float) -> int | None:
        """How many images would settle a difference of two rates; None for one of 0."""
        apart = abs(difference)
        return samples_needed(apart, max(apart, self.pair.discordance)) if apart else None

    def sentence(self, points: float | None = None) -> str:
        """The comparison in words, and how many images it would take to settle this difference, and one of `points`."""
        gap = self.pair.difference
        needed = self.images_for(gap)
        said = f"A against B is {NOISE}" if self.verdict == NOISE else f"A is {self.verdict} than B"
        size = f"{inward(gap)} points, 95% interval {outward(*self.interval)}, p = {self.pair.p_value:.2g}"
        settling = [f"{needed:,} images would settle a difference of this size"] if needed else []
        if points is not None:
            settling.append(f"{self.images_for(points / 100):,} images would settle one of {points:g} points")
        return f"{self.quantity}: {said} ({size}); {' and '.join(settling) or 'there is nothing to settle'}."


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, the number of images that both have, and every accuracy that both measured on those."""

    a: Run
    b: Run
    shared: int
    figures: tuple[Figure, ...]


def compare_runs(a: Run | str | Path, b: Run | str | Path) -> Comparison:
    """Clean accuracy, every attack at every threat that both runs have, and the worst case over those attacks.

    a, b: runs, or the folders of runs.

    Only images in both runs count, each quantity on those that met all its attacks. Raises `BadInput` when both are one
    folder, have no image in common, or show different images or labels under one sample id.
    """
    a, b = (one if isinstance(one, Run) else read_run(one) for one in (a, b))
    if a.path.resolve() == b.path.resolve():
        raise BadInput(f"{a.path} and {b.path} are one run; compare it with another")
    shared = _shared_images(a, b)
    ours, theirs = (run.records[run.records["sample_id"].isin(shared)] for run in (a, b))
    figures = [_figure("clean accuracy", clean_table(ours), clean_table(theirs))]
    met = [{key for key, _ in one.groupby(["norm", "eps", "attack"])} for one in (ours, theirs)]
    both = met[0] & met[1]
    known = attacks_of([a, b])
    shorts = short_names(known[attack] for _, _, attack in both)
    for norm, eps in sorted({(norm, eps) for norm, eps, _ in both}):
        met_here = {attack for *threat, attack in both if threat == [norm, eps]}
        members = sorted(met_here, key=lambda attack: (known[attack].strength, attack))
        tables = [robust_table(one[one["attack"].isin(members)], norm, eps) for one in (ours, theirs)]
        singles = [
            [robust_table(one[one["attack"] == attack], norm, eps)[attack] for one in (ours, theirs)]
            for attack in members
        ]
        outcomes = list(zip(members, singles, strict=True))
        if len(members) > 1:
            outcomes.append((WORST, [table[WORST] for table in tables]))
        for attack, (one, other) in outcomes:
            quantity = f"robust accuracy at {threat_name(norm, eps)} under {display_name(attack, members, shorts)}"
            if len(one.index.intersection(other.index)):
                figures.append(_figure(quantity, one, other))
    return Comparison(a, b, len(shared), tuple(figures))


def _shared_images(a: Run, b: Run) -> "pd.Index[str]":
    ours, theirs = (
        run.records.drop_duplicates("sample_id").set_index("sample_id")[["sample_hash", "label"]] for run in (a, b)
    )
    shared = ours.index.intersection(theirs.index)
    names = [images_name(run.manifest.data.name, run.manifest.data.split, run.manifest.data.loader) for run in (a, b)]
    if not len(shared):
        raise BadInput(
            f"{a.path} ({names[0]}) and {b.path} ({names[1]}) have no image in common; compare runs on the same data"
        )
    for column, what in (("sample_hash", "pixels"), ("label", "labels")):
        differ = ours.loc[shared, column] != theirs.loc[shared, column]
        if differ.any():
            raise BadInput(
                f"{a.path} ({names[0]}) and {b.path} ({names[1]}) have different {what} for {int(differ.sum())} of "
                f"{len(shared)} images of the same name, first {differ.idxmax()}; compare runs on the same data"
            )
    return shared


def _figure(quantity: str, ours: "pd.Series[bool]", theirs: "pd.Series[bool]") -> Figure:
    shared = ours.index.intersection(theirs.index)
    one, other = ours.loc[shared].tolist(), theirs.loc[shared].tolist()
    return Figure(quantity, sum(one), sum(other), mcnemar(one, other))


def to_markdown(compared: Comparison, points: float | None = None) -> str:
    """Who was compared on what, a table of figures, each comparison in words, and how to read them."""
    lines = [*map(markdown, who(compared, with_reasons=True)), *shared_note(compared)]
    table = markdown_table(pd.DataFrame([_line(figure) for figure in compared.figures]))
    words = "\n".join(f"- {markdown(figure.sentence(points))}" for figure in compared.figures)
    return "\n\n".join([*lines, table.rstrip("\n"), words, METHOD_NOTE]) + "\n"


def who(compared: Comparison, with_reasons: bool = False) -> list[str]:
    """A line for each run: its network, images, trust verdict and folder."""
    runs = (compared.a, compared.b)
    names = network_names([network_of(run) for run in runs])
    lines = []
    for letter, run in zip("AB", runs, strict=True):
        data, trust = run.manifest.data, Trusted.of(run.manifest.trust)
        images = f"{data.n} images of {images_name(data.name, data.split, data.loader)}"
        said = ": ".join((trust.verdict, *(trust.reasons if with_reasons else ())))
        lines.append(f"{letter}: {names[network_of(run)]}, {images}, trust {said} ({run.path})")
    return lines


def shared_note(compared: Comparison) -> list[str]:
    """What keeps the runs from being compared on all that was measured."""
    counts = [run.manifest.data.n for run in (compared.a, compared.b)]
    lines = []
    if counts != [compared.shared] * 2:
        lines.append(
            f"Compared on the {compared.shared} images that both have, of {counts[0]} in A and {counts[1]} in B."
        )
    if len(compared.figures) == 1:
        lines.append("The runs share no attack at the same threat, so only clean accuracy is compared.")
    return lines


def as_data(compared: Comparison) -> dict[str, object]:
    """The comparison as plain values: differences are fractions, A - B, with their 95% intervals."""
    figures = [
        {
            "figure": figure.quantity,
            "n": figure.pair.n,
            "right_a": figure.right_a,
            "right_b": figure.right_b,
            "only_a": figure.pair.only_a,
            "only_b": figure.pair.only_b,
            "difference": figure.pair.difference,
            "difference_lo": figure.interval[0],
            "difference_hi": figure.interval[1],
            "p_value": figure.pair.p_value,
            "verdict": figure.verdict,
            "images_to_settle": figure.images_for(figure.pair.difference),
        }
        for figure in compared.figures
    ]
    return {"a": str(compared.a.path), "b": str(compared.b.path), "shared": compared.shared, "figures": figures}


def _line(figure: Figure) -> dict[str, str]:
    n, needed = figure.pair.n, figure.images_for(figure.pair.difference)
    rates = {
        f"{letter} %": f"{down(right / n)} {outward(*wilson(right, n))}"
        for letter, right in (("A", figure.right_a), ("B", figure.right_b))
    }
    return {
        "figure": figure.quantity,
        "n": str(n),
        **rates,
        "A - B points": f"{inward(figure.pair.difference)} {outward(*figure.interval)}",
        "only A": str(figure.pair.only_a),
        "only B": str(figure.pair.only_b),
        "p": f"{figure.pair.p_value:.2g}",
        "A is": figure.verdict,
        "images to settle it": f"{needed}" if needed else "-",
    }
