"""Several recipes trained and evaluated in the same way, in parallel on the machine's cores."""

import concurrent.futures
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from satbench.core.errors import BadInput
from satbench.evaluation import EvaluationSpec, Progress, evaluate, make_request
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo
from satbench.training import TrainConfig, train


def run_study(
    configs: Sequence[TrainConfig], specs: Sequence[EvaluationSpec], out: Path, workers: int, report: Progress
) -> list[Run]:
    """Train every config and evaluate its best weights; the runs lie in `out/<job_name>/<run_name>`.

    Each spec is taken for the trained network and its seed, in place of `model` and `seed`. The jobs run side by side
    in `workers` processes of one thread each, so the figures do not depend on their number. A study that was stopped
    keeps its trainings, continues the unfinished ones and evaluates again. Returns the runs in the order of `configs`,
    then of `specs`. Raises `BadInput`, before anything is trained, for a config or a spec that is there twice, and for
    one that is wrong.
    """
    runs_in = {run_name(spec): spec for spec in specs}
    jobs = [(config, runs_in, out / job_name(config)) for config in configs]
    for what, names in (("training", [job[2].name for job in jobs]), ("evaluation", [run_name(one) for one in specs])):
        doubled = [name for name in names if names.count(name) > 1]
        if doubled:
            raise BadInput(f"the study has the {what} {doubled[0]} twice; remove one")
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
    """The folder of one training, such as `digits-sat-silu-seed0-1a2b3c4d`; equal where every weight would be."""
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{config.recipe} {config.activation} seed{config.seed}").strip("-")
    return f"{words}-{config.digest('')[:8]}"


def run_name(spec: EvaluationSpec) -> str:
    """The folder of one evaluation of a training, such as `pgd-1a2b3c4d`."""
    asked = make_request(spec).spec
    words = "-".join(dict.fromkeys(info.name for info in asked.attacks if isinstance(info, AttackInfo)))
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)[:40]}-{asked.digest[:8]}"


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


def _run_job(config: TrainConfig, specs: Mapping[str, EvaluationSpec], folder: Path) -> list[Run]:
    train(config, folder / "training", device="cpu")
    trained = {"model": str(folder / "training"), "seed": config.seed}
    return [evaluate(spec.model_copy(update=trained), folder / name, device="cpu") for name, spec in specs.items()]
