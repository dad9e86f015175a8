"""Workers as a job array under Slurm, submitted by submitit, the extra `slurm`."""

import contextlib
import getpass
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput
from satbench.core.home import home
from satbench.core.shared import is_url
from satbench.engines.base import Ended, Order, Resources
from satbench.engines.process import WorkerProcess

WORKERS = 8
TIME = "4:00:00"  # of one worker; a worker whose time is over is replaced
LOOK_EVERY = 10.0  # seconds between two calls of squeue
GONE_AFTER = 30.0  # seconds out of the queue without a result, which a network file system may show late


class SlurmEngine:
    """At most `workers` jobs at a time; those started together are one array.

    `options` are those of sbatch, such as partition, time, mem or account. The option `cluster` is submitit's: `local`
    runs the jobs as processes of this machine, without Slurm. Scripts, pickles and logs lie in `.slurm` of the shared
    folder, or of SATBENCH_HOME where that is a URL, until `close`. When the sender is killed, its workers go on and
    finish what they can. Raises `BadInput` without the extra, and where there is no Slurm.
    """

    def __init__(self, workers: int = WORKERS, options: Mapping[str, str] | None = None) -> None:
        try:
            import submitit
        except ImportError:
            raise BadInput("engine slurm needs its extra: pip install 'satbench[slurm]'") from None
        self.workers = workers
        self.options = {"time": TIME, **(options or {})}
        self.cluster = self.options.pop("cluster", "slurm")
        if self.cluster not in ("slurm", "local"):
            raise BadInput(f"engine slurm: cluster={self.cluster} is unknown; leave it out, or give local for a trial")
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise BadInput("engine slurm: this machine has no sbatch; start the study where jobs are submitted")
        self._submitit: Any = submitit
        self._folders: set[Path] = set()
        self._jobs: list[_SlurmJob] = []
        self._queue: frozenset[str] = frozenset()
        self._looked = 0.0

    def slots(self, resources: Resources) -> int:
        """`workers`; Slurm decides when each of them begins."""
        return self.workers

    def start(self, order: Order, count: int) -> Sequence["_SlurmJob"]:
        """Submit `count` workers as one job array; raises `BadInput` with the words of sbatch when it refuses them."""
        above = home() if is_url(order.call.folder) else Path(order.call.folder)
        folder = above / ".slurm" / order.token
        self._folders.add(folder)
        executor = self._submitit.AutoExecutor(folder, cluster=self.cluster)
        executor.update_parameters(
            name="satbench", cpus_per_task=order.resources.cpus, slurm_additional_parameters=self.options
        )
        if order.resources.gpus:
            executor.update_parameters(gpus_per_node=order.resources.gpus)
        if self.cluster == "local":
            executor.update_parameters(timeout_min=10**6)
        try:
            with executor.batch():
                jobs = [executor.submit(_work, order) for _ in range(count)]
        except self._submitit.core.utils.FailedJobError as error:
            raise BadInput(f"engine slurm: {str(error).strip().splitlines()[-1]}; change its options") from None
        started = [_SlurmJob(self, job) for job in jobs]
        self._jobs += started
        self._looked = 0.0
        return started

    def is_queued(self, job: Any) -> bool:
        """Whether Slurm knows a job that waits or runs, as of the last look at its queue; True where it is silent."""
        if self.cluster == "local":
            return not job.done()
        if time.monotonic() > self._looked + LOOK_EVERY:
            self._looked = time.monotonic()
            command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
            seen = subprocess.run(command, capture_output=True, text=True, check=False)
            if seen.returncode:
                return True
            self._queue = frozenset(seen.stdout.split())
        return job.job_id in self._queue

    def close(self) -> None:
        """Cancel the workers that are left, and remove their files."""
        for job in self._jobs:
            if job.poll() is None:
                job.stop()
        while self.cluster == "local" and any(self.is_queued(job.submitted) for job in self._jobs):
            time.sleep(0.05)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)  # what a cancelled job still writes stays
            with contextlib.suppress(OSError):  # another study on this folder has files there
                folder.parent.rmdir()


class _SlurmJob:
    def __init__(self, engine: SlurmEngine, job: Any) -> None:
        self._engine, self.submitted = engine, job
        self._gone_since: float | None = None
        self._ended: Ended | None = None

    def poll(self) -> Ended | None:
        if self._ended is None:
            self._ended = self._look()
        return self._ended

    def stop(self) -> None:
        if self._ended is None:
            self.submitted.cancel(check=False)
            self._ended = Ended("died", "was stopped")

    def _look(self) -> Ended | None:
        if self.submitted.paths.result_pickle.exists():
            if self.submitted.exception() is None:
                ended: Ended = self.submitted.result()
                return ended
        elif self._engine.is_queued(self.submitted):
            self._gone_since = None
            return None
        elif self._gone_since is None:
            self._gone_since = time.monotonic()
            return None
        elif time.monotonic() < self._gone_since + GONE_AFTER:
            return None
        lines = (self.submitted.stderr() or "no output").strip().splitlines()
        return Ended("died", f"job {self.submitted.job_id} is gone, last line: {lines[-1]}")


def _work(order: Order) -> Ended:
    return WorkerProcess(order).wait()
