"""What a process of tests/test_distributed.py runs, alone or under torchrun: many_processes.py OUT DATASET JOB...

A JOB is a name of `tiny_training.WAYS`, "dying" for a run whose second process kills itself once, "counting" for three
runs whose all-reduces are counted, "tracked" for a run with a step log and a tracker, "synced" for networks with batch
norm over the whole batch, "in quarters" for networks with batch norm that learn from quarters of a batch, two of each
process or four of one, or "refused" for a run that the second process refuses, each process writing what it raised.
At its end a process writes which threads of its group are left.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_training import WAYS, tiny
from torch.profiler import ProfilerActivity, profile

from satbench import train
from satbench.core.errors import BadInput
from satbench.training import TrainConfig
from satbench.training.distributed import joined

# without batch norm, which sees a process's own images unless it is told to see all
SHARED = {"model": "mlp", "model.width": 16}
RANK = os.environ.get("RANK", "0")


def die_once(done: int, total: int, what: str) -> None:
    if done == 3 and RANK == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)


def all_reduces(out: Path, dataset: str, steps: int, parts: int = 1) -> int:
    changes = {**SHARED, "method.steps": steps, "accumulation": parts}
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        train(tiny(dataset, **changes), out / f"counted-{steps}-{parts}", "cpu")
    return sum(event.count for event in seen.key_averages() if event.key == "gloo:all_reduce")


def refuse(done: int, total: int, what: str) -> None:
    if done == 3 and RANK == "1":
        raise BadInput("its disk is gone")


def main() -> None:
    out, dataset, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    try:
        with joined(torch.device("cpu")):
            work(Path(out), dataset, jobs)
    except BadInput as error:
        Path(out, f"raised-{RANK}").write_text(f"{type(error).__name__}: {error}")
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]  # none beside Linux
    Path(out, f"threads-{RANK}").write_text(" ".join(name for name in threads if "gloo" in name))


class Rows:
    """A tracker that counts the rows this process is told."""

    count = 0

    def on_train_begin(self, config: TrainConfig, out: Path) -> None: ...

    def on_step_end(self, row: dict[str, Any]) -> None:
        self.count += 1

    on_epoch_end = on_step_end

    def on_train_end(self, finished: bool) -> None: ...


def work(out: Path, dataset: str, jobs: list[str]) -> None:
    for job in jobs:
        if job == "counting":
            counts = [all_reduces(out, dataset, *case) for case in ((1,), (4,), (1, 2))]
            (out / f"all-reduces-{RANK}").write_text(" ".join(map(str, counts)))
        elif job == "tracked":
            rows = Rows()
            train(tiny(dataset, **SHARED), out / job, "cpu", keep_every=1, log_steps=1, trackers=[rows])
            (out / f"rows-{RANK}").write_text(str(rows.count))
        elif job == "synced":
            for way in ("pgd_at", "awp", "on a copy"):
                changes = {**WAYS[way], "sync_batch_norm": True}
                train(tiny(dataset, **changes), out / f"synced-{way}", "cpu")
            in_bf16 = {"epochs": 1, "sync_batch_norm": True, "speed.precision": "bf16"}
            train(tiny(dataset, **in_bf16), out / "synced-bf16", "cpu")
        elif job == "in quarters":
            processes = int(os.environ.get("WORLD_SIZE", "1"))
            for way in ("pgd_at", "trades", "awp", "free", "adr"):
                train(tiny(dataset, **WAYS[way], accumulation=4 // processes), out / f"quarters-{way}", "cpu")
            residual = {"model": "wide-resnet", "model.depth": 10, "model.width": 1, "epochs": 1}
            changes = {**residual, "speed.activation_checkpointing": True, "sync_batch_norm": True}
            train(tiny(dataset, **changes), out / "quarters-checkpointed", "cpu")
        elif job == "refused":
            train(tiny(dataset, **SHARED), out / "refused", "cpu", progress=refuse)
        elif job == "dying":
            train(tiny(dataset, **SHARED), out / "dying", "cpu", progress=die_once, save_seconds=0)
        else:
            train(tiny(dataset, **SHARED, **WAYS[job]), out / job, "cpu")


if __name__ == "__main__":
    main()
