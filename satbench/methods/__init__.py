"""Training algorithms by name."""

from satbench.methods.base import Method, Passes, Processes, Step
from satbench.methods.table import METHODS, make_method

__all__ = ["METHODS", "Method", "Passes", "Processes", "Step", "make_method"]
