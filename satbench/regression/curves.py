"""Accuracy over eps before and now, as a figure."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from satbench.core.escaping import figure_text
from satbench.regression.evidence import Evidence
from satbench.regression.figures import CLEAN
from satbench.regression.verdict import FigureVerdict, NetworkVerdict
from satbench.reporting.plots import COLOURS, MARKERS, PANEL, styled
from satbench.results.metrics import wilson

Point = tuple[float, float, float, float]  # eps, and accuracy with its interval, in percent


def curves(network: NetworkVerdict, evidence: Evidence) -> Figure | None:
    """A panel a norm, a colour an attack: dashed and hollow before, solid and filled now, with Wilson's 95% intervals.

    The points at eps 0 are clean accuracy. None where no figure under attack is compared.
    """
    figures = {one.figure: one for one in network.figures}
    norms: dict[str, dict[str, dict[str, float]]] = {}  # the radius of each figure, by norm and attack
    for name, place in evidence.places.items():
        if name in figures:
            norms.setdefault(place.threat.norm, {}).setdefault(place.attack, {})[name] = place.threat.eps
    if not norms:
        return None
    with styled():
        figure = Figure(figsize=(PANEL[0] * len(norms), PANEL[1] + 0.3), layout="constrained")
        for axes, (norm, attacks) in zip(figure.subplots(1, len(norms), squeeze=False)[0], norms.items(), strict=True):
            _draw(axes, norm, attacks, figures, evidence)
            axes.set_title(f"{norm}, n = {network.n} of {network.images}; bars: 95% interval")
    return figure


def _draw(
    axes: Axes,
    norm: str,
    attacks: Mapping[str, Mapping[str, float]],
    figures: Mapping[str, FigureVerdict],
    evidence: Evidence,
) -> None:
    scale = 255 if norm == "Linf" else 1
    for position, (attack, radii) in enumerate(attacks.items()):
        at = {CLEAN: 0.0} if CLEAN in figures else {}
        at |= {name: radii[name] * scale for name in sorted(radii, key=lambda name: radii[name])}
        for when, line, is_filled in (("before", "--", False), ("now", "-", True)):
            points = [(eps, *_rate(figures[name], evidence, is_filled)) for name, eps in at.items()]
            axes.errorbar(
                [eps for eps, *_ in points],
                [rate for _, rate, *_ in points],
                yerr=[[rate - low for _, rate, low, _ in points], [high - rate for _, rate, _, high in points]],
                color=COLOURS[position % len(COLOURS)],
                marker=MARKERS[position % len(MARKERS)],
                markerfacecolor=None if is_filled else "white",
                linestyle=line,
                capsize=3,
                lw=1.4,
                label=figure_text(f"{attack}, {when}"),
            )
    axes.set_xlabel("eps in 1/255 of the pixel range" if norm == "Linf" else f"eps ({norm}, pixels in [0, 1])")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(-2, 102)
    axes.legend(frameon=False, fontsize="small")


def _rate(one: FigureVerdict, evidence: Evidence, is_now: bool) -> tuple[float, float, float]:
    """An accuracy and its interval in percent; a published rate has the interval of its own number of images."""
    right, n = (float(one.now), one.n) if is_now else (one.before, one.n)
    if not is_now and one.basis == "published":
        said = evidence.expected.published[one.figure]
        right, n = said.rate / 100 * said.n, said.n
    low, high = wilson(min(right, n), n)
    return 100 * right / n, 100 * low, 100 * high
