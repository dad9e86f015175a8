"""The gate: do today's records say what the approved baseline says? Never imports torch."""

from satbench.regression.baseline import Baseline, read_baseline, write_baseline
from satbench.regression.compare import Finding, compare

__all__ = ["Baseline", "Finding", "compare", "read_baseline", "write_baseline"]
