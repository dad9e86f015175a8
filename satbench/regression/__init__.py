"""The gate: is what is measured today what was approved? Never imports torch."""

from satbench.regression.baseline import Baseline, Measured, Outcomes, baseline_file, read_baseline, write_baseline
from satbench.regression.compare import Expected, Seen, judge
from satbench.regression.verdict import FigureVerdict, NetworkVerdict, SuiteVerdict

__all__ = [
    "Baseline",
    "Expected",
    "FigureVerdict",
    "Measured",
    "NetworkVerdict",
    "Outcomes",
    "Seen",
    "SuiteVerdict",
    "baseline_file",
    "judge",
    "read_baseline",
    "write_baseline",
]
