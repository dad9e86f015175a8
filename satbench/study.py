"""Several recipes trained and measured in the same way, in parallel on the machine's cores."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from satbench.evaluation import Progress, evaluate
from satbench.results.store import Run
from satbench.training import TrainConfig, train


@dataclass(frozen=True)
class Measurement:
    """One evaluation of every trained network, as `evaluate` takes it; `n` None means the whole test split."""

    name: str
    attack: str
    norm: str
    eps: str
    steps: str | None = None
    n: int | None = None


def run_study(
    configs: Sequence[TrainConfig], measurements: Sequence[Measurement], out: Path, workers: int, report: Progress
) -> list[Run]:
    """Train every config and measure its best weights; the runs lie in `out/<job>/<measurement>`.

    The jobs run side by side in `workers` processes of one thread each, so the figures do not depend on their number. A
    study that was stopped keeps its trainings, continues the unfinished ones and measures again. Returns the runs in
    the order of `configs`, then of `measurements`.
    """
    jobs = [(config, tuple(measurements), out / job_name(config)) for config in configs]
    runs: dict[int, list[Run]] = {}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_quiet_worker) as pool:
        futures = {pool.submit(_run_job, *job): index for index, job in enumerate(jobs)}
        try:
            for future in concurrent.futures.as_completed(futures):
                index = futures[future]
                runs[index] = future.result()
                report(len(runs), len(jobs), jobs[index][2].name)
        finally:
            if len(runs) < len(jobs):
                for process in multiprocessing.active_children():
                    process.terminate()
                pool.shutdown(cancel_futures=True)
    return [run for index in range(len(jobs)) for run in runs[index]]


def job_name(config: TrainConfig) -> str:
    """The folder of one run of a study, such as `silu-seed0`."""
    return f"{config.activation}-seed{config.seed}"


def default_workers() -> int:
    """As many processes as this process may use cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quiet_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it says so or ends itself, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(1))  # else a training would save and the pool go on
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_job(config: TrainConfig, measurements: Sequence[Measurement], folder: Path) -> list[Run]:
    train(config, folder / "training", device="cpu")
    return [
        evaluate(
            str(folder / "training"),
            folder / one.name,
            attack=one.attack,
            norm=one.norm,
            eps=one.eps,
            steps=one.steps,
            n=one.n,
            seed=config.seed,
            device="cpu",
        )
        for one in measurements
    ]
