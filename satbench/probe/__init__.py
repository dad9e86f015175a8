"""Information that a network keeps: about its images, in its weights, for other data sets."""

from satbench.probe.fisher import LABELS
from satbench.probe.information import check_network, check_represents, originals, probe
from satbench.probe.jacobian import VECTORS
from satbench.probe.transfer import pixel_transfer

__all__ = ["LABELS", "VECTORS", "check_network", "check_represents", "originals", "pixel_transfer", "probe"]
