"""The gate's verdict in a terminal."""

import pandas as pd

from satbench.core.escaping import one_line
from satbench.regression.verdict import FigureVerdict, SuiteVerdict, cases
from satbench.reporting.rounding import down, inward, outward
from satbench.reporting.table_forms import markdown_table
from satbench.results.metrics import wilson

HOW = (
    "Rates are in percent with Wilson's 95% interval, differences in points with a 95% confidence sequence. By Holm's "
    "rule over all figures a false alarm comes in at most {level:.0%} of checks. A drop of the stated size "
    "beyond the tolerance is cleared in at most {miss:.0%}."
)


def figure_table(verdict: SuiteVerdict) -> str:
    """A line a figure, in Markdown."""
    return markdown_table(figure_frame(verdict))


def figure_frame(verdict: SuiteVerdict) -> pd.DataFrame:
    """A line a figure, of texts."""
    return pd.DataFrame([_line(one) for network in verdict.networks for one in network.figures])


def sentences(verdict: SuiteVerdict) -> list[str]:
    """Why each trust verdict and figure that changed, or that was left open, is called so; a line each."""
    return [one_line(f"{one.state}: {one.sentence}") for one in cases(verdict) if one.state != "unchanged"]


def headline(verdict: SuiteVerdict) -> str:
    """The verdict on the suite, what it is compared with, and the images that it took, in one line."""
    seen, whole = (sum(getattr(one, name) for one in verdict.networks) for name in ("n", "images"))
    passes = sum(one.passes for one in verdict.networks)
    against = f"approved: {verdict.approved}" if verdict.approved else "against published rates"
    said = f"{verdict.study}: {verdict.state} after {seen} of {whole} images, {passes:,} passes ({against})"
    return one_line(said)


def _line(one: FigureVerdict) -> dict[str, str]:
    gap = f"{inward((one.now - one.before) / one.n)}"
    return {
        "network": one.measured,
        "figure": one.figure,
        "n": f"{one.n} of {one.images}",
        "before %": down(one.before / one.n),
        "now %": f"{down(one.now / one.n)} {outward(*wilson(one.now, one.n))}",
        "points": gap if one.interval is None else f"{gap} {outward(one.interval.low, one.interval.high)}",
        "lost": str(len(one.lost)),
        "gained": str(len(one.gained)),
        "compared": one.basis,
        "p": "-" if one.p_value is None else f"{one.p_value:.2g}",
        "verdict": one.state,
    }
