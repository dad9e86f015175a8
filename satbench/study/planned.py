"""What a suite can see, and what it will cost, before it is measured."""

from dataclasses import dataclass
from pathlib import Path

from satbench.regression.figures import CLEAN, figure_names
from satbench.reporting.rounding import up
from satbench.results.power import CHURN, expected_images, gate_images, visible_drop
from satbench.study.cost import duration, predict_jobs
from satbench.study.gate import Subject, Suite


@dataclass(frozen=True)
class Planned:
    """One figure of a suite. Sizes are fractions, costs seconds of this device.

    images: of the suite. visible: the smallest drop beyond the tolerance that they show with 90%. needed: the images
    that the suite's `drop` takes; None for a drop of 0. unchanged, twice: the images that are measured on average if
    nothing changed, and at a drop of twice that size. seconds: of all images; each takes its share.
    """

    measured: str
    figure: str
    images: int
    tolerance: float
    drop: float
    visible: float | None
    needed: int | None
    unchanged: float
    twice: float
    seconds: float
