"""Trackers by name: TensorBoard, Weights & Biases, MLflow."""

from satbench.training.trackers.base import Tracker
from satbench.training.trackers.table import TRACKERS

__all__ = ["TRACKERS", "Tracker"]
