"""Measuring robustness: from a model and its images to a run folder of records."""

from satbench.core.progress import Progress, silent
from satbench.evaluation.request import make_request
from satbench.evaluation.run import evaluate, run_request, work_on
from satbench.evaluation.setting import data_info, images_for
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
    "work_on",
]
