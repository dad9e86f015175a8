"""Whether a number can be believed."""

from satbench.trust.battery import ASKS, SAMPLE, Check, examine

__all__ = ["ASKS", "SAMPLE", "Check", "examine"]
