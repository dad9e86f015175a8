"""Studies: the trainings and evaluations that one file asks for, computed by any number of workers."""

from satbench.study.jobs import Evaluation, Jobs, Training, jobs_of
from satbench.study.run import run_study

__all__ = ["Evaluation", "Jobs", "Training", "jobs_of", "run_study"]
