"""Workers on this machine, on a Ray cluster or under Slurm; evaluation and training know nothing of it."""

from satbench.engines.base import Call, Ended, Engine, Job, Resources
from satbench.engines.run import run_workers
from satbench.engines.table import ENGINES, check_engine, make_engine

__all__ = ["ENGINES", "Call", "Ended", "Engine", "Job", "Resources", "check_engine", "make_engine", "run_workers"]
