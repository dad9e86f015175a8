"""Several recipes trained and evaluated in the same way, and what that will cost."""

from satbench.study.run import default_workers, job_name, run_name, run_study

__all__ = ["default_workers", "job_name", "run_name", "run_study"]
