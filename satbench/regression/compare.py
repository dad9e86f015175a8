"""Holds a run's figures against the approved ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from satbench.core.errors import BadInput
from satbench.regression.baseline import Baseline, Outcomes
from satbench.results.metrics import mcnemar, wilson

ALPHA = 0.001  # of the paired test on another machine: a false alarm in a thousand figures


@dataclass(frozen=True)
class Finding:
    """One figure beside its baseline: whether it moved, and a sentence with both values, n and the reason."""

    figure: str
    moved: bool
    sentence: str


def compare(baseline: Baseline, figures: Mapping[str, Outcomes], fingerprint: str, data_digest: str) -> list[Finding]:
    """A finding for every figure of the baseline.

    On a machine of the baseline's fingerprint every sample must be as it was. Elsewhere a figure has moved when the
    exact McNemar test over the same samples rejects at `ALPHA` and the difference exceeds the spread between seeds that
    the baseline records. Raises `BadInput` when the run has other images, figures or sample counts.
    """
    if data_digest != baseline.data_digest:
        raise BadInput(f"the run's images are {data_digest}, the baseline's {baseline.data_digest}; approve it anew")
    if set(figures) != set(baseline.figures):
        changed = sorted(set(figures) ^ set(baseline.figures))
        raise BadInput(f"run and baseline have different figures, first {changed[0]!r}; approve the suite anew")
    for name, old in baseline.figures.items():
        if old.n != figures[name].n:
            raise BadInput(f"{name} has {figures[name].n} samples, the baseline {old.n}; approve the suite anew")
    same = fingerprint == baseline.fingerprint
    return [_finding(name, old, figures[name], baseline.spread[name], same) for name, old in baseline.figures.items()]


def _finding(name: str, old: Outcomes, new: Outcomes, spread: float, same_machine: bool) -> Finding:
    paired = mcnemar([c == "1" for c in new.right], [c == "1" for c in old.right])
    changed = paired.only_a + paired.only_b
    values = f"{name}: {_rate(old)} before, {_rate(new)} now, {changed} of {new.n} samples changed"
    if same_machine:
        return Finding(name, changed > 0, f"{values} (same numerics: sample by sample)")
    points = 100 * abs(paired.difference)
    moved = paired.p_value < ALPHA and points > spread
    reason = f"other numerics: McNemar p = {paired.p_value:.2g}, {points:.1f} points against a spread of {spread:.1f}"
    return Finding(name, moved, f"{values} ({reason})")


def _rate(figure: Outcomes) -> str:
    low, high = wilson(figure.correct, figure.n)
    return f"{100 * figure.correct / figure.n:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
