"""How much faster two workers compute a study than one.

    python benchmarks/workers.py [--rounds 3] [--only autoattack|trainings] [--images 1797]

Two studies run with one and with two processes of one thread each, in turn: AutoAttack standard on a network for
digits, whose only job the workers share, and six trainings with their evaluations. Printed is the ratio of the wall
times of whole commands, start-up included: median, minimum and maximum over the rounds. The records must be equal
bytes. On a busy machine the ratio says little.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDIES = {
    "autoattack": """models: [digits-silu]
evaluations: [{attacks: [autoattack], threats: ["Linf:0.1"], split: all, n: IMAGES, trust: false}]
""",
    "trainings": """trainings: [{recipes: [digits-sat], activations: [relu, silu], seeds: [0, 1, 2]}]
evaluations: [{attacks: ["pgd:steps=50"], threats: ["Linf:0.1", "Linf:0.2"]}]
""",
}


def wall(file: Path, out: Path, workers: int) -> float:
    """Seconds that the study takes with so many workers, into a new folder."""
    words = [sys.executable, "-m", "satbench", "study", str(file), "--out", str(out)]
    started = time.monotonic()
    subprocess.run(
        [*words, "--engine", f"local:{workers}", "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    return time.monotonic() - started


def records(out: Path) -> dict[str, bytes]:
    """The records of every run."""
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("records.parquet"))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=STUDIES)
    parser.add_argument("--images", type=int, default=1797)
    given = parser.parse_args()
    for name, text in STUDIES.items():
        if given.only not in (None, name):
            continue
        ratios = []
        for position in range(given.rounds):
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch, "study.yaml")
                file.write_text(text.replace("IMAGES", str(given.images)))
                order = (1, 2) if position % 2 == 0 else (2, 1)
                taken = {count: wall(file, Path(scratch, str(count)), count) for count in order}
                assert records(Path(scratch, "1")) == records(Path(scratch, "2"))
            ratios.append(taken[1] / taken[2])
            print(f"{name}: {taken[1]:.1f} s with one worker, {taken[2]:.1f} s with two", flush=True)
        print(f"{name}: ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]", flush=True)


if __name__ == "__main__":
    main()
