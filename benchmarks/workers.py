"""How much faster two workers are than one.

    python benchmarks/workers.py [--rounds 3] [--only evaluation|study] [--images 1797] [--epochs 60]

`evaluation` is AutoAttack standard on a network for digits: one `satbench eval`, against two of them at the same time
on one folder. `study` is six trainings of `--epochs` with their evaluations, by one worker process and by two. Every
process has one thread. Printed is the ratio of the wall times of whole commands, start-up included: median, minimum and
maximum over the rounds. The records must be equal bytes. The speed of a shared machine changes
between two commands, and the ratio of wall times with it. CPU seconds by wall time, the cores in use, do not depend on
that speed.

A study has some ten seconds that a second worker does not shorten: every process imports torch, and torch's optimizers
import its compiler. So the ratio grows with the size of the trainings.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """trainings:
  - {{recipes: [digits-sat], activations: [relu, silu], seeds: [0, 1, 2], overrides: {{epochs: [{epochs}]}}}}
evaluations: [{{attacks: ["pgd:steps=50"], threats: ["Linf:0.1", "Linf:0.2"]}}]
"""
KINDS = ("evaluation", "study")
EVALUATION = "--model digits-silu --attack autoattack --eps 0.1 --split all --no-trust --device cpu"


def commands(kind: str, scratch: Path, out: Path, workers: int, images: int, epochs: int) -> list[list[str]]:
    """What is to be started at the same time."""
    if kind == "evaluation":
        return workers * [["eval", *EVALUATION.split(), "--n", str(images), "--out", str(out)]]
    (scratch / "study.yaml").write_text(STUDY.format(epochs=epochs))
    engine = ["--engine", f"local:{workers}", "--device", "cpu"]
    return [["study", str(scratch / "study.yaml"), "--out", str(out), *engine]]


def taken(started_at_once: list[list[str]]) -> tuple[float, float]:
    """Seconds until all of these commands have ended, and CPU seconds of all their processes."""
    before = cpu_of_children()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "satbench", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for words in started_at_once
    ]
    assert [process.wait() for process in processes] == [0] * len(processes)
    return time.monotonic() - started, cpu_of_children() - before


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def records(out: Path) -> dict[str, bytes]:
    """The records of every run."""
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("records.parquet"))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--images", type=int, default=1797, help="of the evaluation")
    parser.add_argument("--epochs", type=int, default=60, help="of each training of the study")
    given = parser.parse_args()
    for kind in KINDS:
        if given.only not in (None, kind):
            continue
        ratios = []
        for position in range(given.rounds):
            with tempfile.TemporaryDirectory() as name:
                scratch = Path(name)
                order = (1, 2) if position % 2 == 0 else (2, 1)
                seconds, cpu = {}, {}
                for count in order:
                    given_out = commands(kind, scratch, scratch / str(count), count, given.images, given.epochs)
                    seconds[count], cpu[count] = taken(given_out)
                assert records(scratch / "1") == records(scratch / "2")
            ratios.append(seconds[1] / seconds[2])
            words = (f"{seconds[count]:.1f} s ({cpu[count]:.1f} s of CPU) with {count}" for count in (1, 2))
            busy = " and ".join(f"{cpu[count] / seconds[count]:.2f}" for count in (1, 2))
            print(f"{kind}: {', '.join(words)}; cores in use {busy}", flush=True)
        print(f"{kind}: ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]", flush=True)


if __name__ == "__main__":
    main()
