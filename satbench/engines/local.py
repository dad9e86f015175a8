"""Workers as processes of this machine."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from satbench.engines.base import Order, Resources
from satbench.engines.process import WorkerProcess


class LocalEngine:
    """At most `workers` processes; by default as many as fit on the cores, or GPUs, that this process may use."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers
        self._gpus = visible_gpus()
        self._jobs: list[_LocalJob] = []

    def slots(self, resources: Resources) -> int:
        """`workers`, but no more than the GPUs allow, and by default no more than the cores."""
        cores = available_cores() if self.workers is None else self.workers * resources.cpus
        return resources.fit(cores, len(self._gpus))

    def start(self, order: Order, count: int) -> Sequence["_LocalJob"]:
        """Start `count` workers, each on GPUs of its own."""
        self._jobs = [job for job in self._jobs if job.poll() is None]
        started: list[_LocalJob] = []
        for _ in range(count):
            taken = {gpu for job in (*self._jobs, *started) for gpu in job.gpus}
            free = [gpu for gpu in self._gpus if gpu not in taken]
            started.append(_LocalJob(order, free[: order.resources.gpus]))
        self._jobs += started
        return started

    def close(self) -> None:
        """Stop every worker that is left, and wait for it."""
        for job in self._jobs:
            job.stop()
        for job in self._jobs:
            job.wait()


class _LocalJob(WorkerProcess):
    def __init__(self, order: Order, gpus: Sequence[str]) -> None:
        self.gpus = gpus
        super().__init__(order, ",".join(gpus))


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES or else nvidia-smi names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []
