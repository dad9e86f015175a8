"""What a process of tests/test_distributed.py runs, alone or under torchrun: many_processes.py OUT DATASET JOB...

A JOB is a name of `tiny_training.WAYS`, "dying" for a run whose second process kills itself once, or "counting" for two
runs whose all-reduces are counted.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from tiny_training import WAYS, tiny
from torch.profiler import ProfilerActivity, profile

from satbench import train
from satbench.training.distributed import joined

# batch norm sees a process's own images, so that only a network without it gives what one process gives
SHARED = {"model": "mlp", "model.width": 16, "epochs": 1}
RANK = os.environ.get("RANK", "0")


def die_once(done: int, total: int, what: str) -> None:
    if done == 3 and RANK == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)


def all_reduces(out: Path, dataset: str, steps: int) -> int:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(tiny(dataset, **SHARED, **{"method.steps": steps}), out / f"counted-{steps}", "cpu")
    return sum(event.count for event in seen.key_averages() if event.key == "gloo:all_reduce")


def main() -> None:
    out, dataset, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    with joined(torch.device("cpu")):
        work(Path(out), dataset, jobs)


def work(out: Path, dataset: str, jobs: list[str]) -> None:
    for job in jobs:
        if job == "counting":
            counts = [all_reduces(out, dataset, steps) for steps in (1, 4)]
            (out / f"all-reduces-{RANK}").write_text(" ".join(map(str, counts)))
        elif job == "dying":
            train(tiny(dataset, **SHARED), out / "dying", "cpu", progress=die_once, save_seconds=0)
        else:
            train(tiny(dataset, **SHARED, **WAYS[job]), out / job, "cpu")


if __name__ == "__main__":
    main()
