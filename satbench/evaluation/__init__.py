"""Measuring robustness: from a model and its images to a run folder of records."""

from satbench.core.progress import Progress, silent
from satbench.evaluation.request import make_request
from satbench.evaluation.run import data_info, evaluate, images_for, run_request
from satbench.numerics.threat import ThreatModel
from satbench.results.store import Run
from satbench.specs.evaluation import EvaluationSpec

__all__ = [
    "EvaluationSpec",
    "Progress",
    "Run",
    "ThreatModel",
    "data_info",
    "evaluate",
    "images_for",
    "make_request",
    "run_request",
    "silent",
]
