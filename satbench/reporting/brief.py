"""What a terminal shows of a run: a table of few columns, and one sentence."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from satbench.reporting.comparison import NOISE
from satbench.reporting.paired import Comparison, Figure
from satbench.reporting.rounding import down, inward, outward
from satbench.reporting.table_forms import interval, trust_words, weighted
from satbench.reporting.tables import Line
from satbench.results.metrics import wilson
from satbench.results.schema import Verdict

Tone = Literal["good", "doubt", "bad"]
TONES: dict[Verdict, Tone] = {"pass": "good", "not checked": "doubt", "suspicious": "doubt", "fail": "bad"}


def brief_table(lines: Sequence[Line]) -> pd.DataFrame:
    """Threat, attack, n and accuracies; models, seeds, weighted accuracy and violations only where they say something.

    Accuracies are in percent with 95% intervals, rounded down and outward.
    """
    has_models = len({line.identity for line in lines}) > 1
    has_seeds = any(line.seeds > 1 for line in lines)
    is_random = any(line.weighted is not None for line in lines)
    has_violations = any(line.violations for line in lines)
    return pd.DataFrame(
        {
            **({"model": line.name} if has_models else {}),
            "threat": line.threat,
            "attack": line.attack,
            **({"seeds": str(line.seeds)} if has_seeds else {}),
            "n": str(line.n),
            "clean %": interval(line.clean, line.clean_lo, line.clean_hi),
            "robust %": interval(line.robust, line.robust_lo, line.robust_hi),
            **({"weighted robust %": weighted(line)} if is_random else {}),
            **({"violations": str(line.violations)} if has_violations else {}),
        }
        for line in lines
    )


def weakest(lines: Sequence[Line]) -> Line:
    """The line of the lowest robust accuracy, of equal ones the last."""
    return min(reversed(lines), key=lambda line: line.robust)


def verdict(line: Line) -> str:
    """The robust accuracy of a line with its interval, and whether it can be trusted."""
    rate = interval(line.robust, line.robust_lo, line.robust_hi)
    return f"robust {rate} % at {line.threat} under {line.attack}, n = {line.n}; trust: {trust_words(line)}"


def brief_comparison(compared: Comparison) -> pd.DataFrame:
    """A line for each accuracy of both runs: its rates and their difference A - B, with 95% intervals."""
    return pd.DataFrame(
        {
            "accuracy": figure.quantity.removesuffix(" accuracy").removeprefix("robust accuracy at "),
            "n": str(figure.pair.n),
            "A %": _rate(figure.right_a, figure.pair.n),
            "B %": _rate(figure.right_b, figure.pair.n),
            "A - B points": f"{inward(figure.pair.difference)} {outward(*figure.interval)}",
        }
        for figure in compared.figures
    )


def settled_tone(figure: Figure) -> Tone:
    """Whether the comparison has an answer."""
    return "doubt" if figure.verdict == NOISE else "good"


def _rate(right: int, n: int) -> str:
    return f"{down(right / n)} {outward(*wilson(right, n))}"
