"""Kill workers and whole studies at random moments (on Linux), and compare what they leave with an undisturbed study.

    python benchmarks/kills.py --kills 100

Two `satbench study` work on one folder; each kill is a SIGKILL for one of their workers or for one of the two, which is
then started again. Weights, logs and records must be equal bytes at the end. When a study ends before all kills, the
next one begins in a new folder. Exits with status 1 at the first difference.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

STUDY = {
    "trainings": [
        {
            "recipes": "digits-quick",
            "activations": ["relu", "silu"],
            "seeds": [0, 1],
            "overrides": {"epochs": 3},
        }
    ],
    "evaluations": [
        {"attacks": ["pgd:steps=10", "apgd-ce"], "threats": ["Linf:0.1", "Linf:0.2"], "n": 200, "trust": False},
        {"attacks": "autoattack", "threats": "Linf:0.2", "n": 30, "of": {"seeds": 0}},
    ],
}
COMPARED = ("config.json", "metrics.jsonl", "best.safetensors", "last.safetensors", "records.parquet")


def start(file: Path, out: Path) -> "subprocess.Popen[bytes]":
    words = ["-m", "satbench", "study", str(file), "--out", str(out), "--device", "cpu", "--engine", "local:2"]
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def contents(out: Path) -> dict[str, bytes]:
    files = [file for file in out.rglob("*") if file.name in COMPARED and ".study" not in file.parts]
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in files}


def workers(study: "subprocess.Popen[bytes]") -> list[int]:
    """The processes that a study started."""
    try:
        return [int(pid) for pid in Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()]
    except FileNotFoundError:  # it has ended
        return []


def disturbed(file: Path, out: Path, most: int, draw: random.Random) -> int:
    """Run the study with at most `most` kills; how many there were."""
    studies = [start(file, out) for _ in range(2)]
    kills = 0
    while any(one.poll() is None for one in studies):
        moment = time.monotonic() + draw.uniform(0.5, 8.0)
        while time.monotonic() < moment and any(one.poll() is None for one in studies):
            time.sleep(0.05)
        for index, one in enumerate(studies):
            if one.poll() not in (None, 0, -signal.SIGKILL):
                assert one.stderr is not None
                sys.exit(f"a study ended with status {one.returncode}: {one.stderr.read().decode()[-2000:]}")
            if one.poll() == -signal.SIGKILL:
                studies[index] = start(file, out)
        alive = [pid for one in studies if one.poll() is None for pid in workers(one)]
        if kills >= most:
            continue
        if draw.random() < 0.7 and alive:
            victim = draw.choice(alive)
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                continue
        else:
            running = [one for one in studies if one.poll() is None]
            if not running:
                continue
            draw.choice(running).kill()
        kills += 1
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    draw = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "study.yaml")
        file.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
        started = time.monotonic()
        reference = Path(scratch, "reference")
        assert start(file, reference).wait() == 0
        wanted = contents(reference)
        print(f"undisturbed: {len(wanted)} files, {time.monotonic() - started:.0f} s", flush=True)
        kills = rounds = 0
        while kills < asked.kills:
            out = Path(scratch, "disturbed")
            kills += disturbed(file, out, asked.kills - kills, draw)
            rounds += 1
            found = contents(out)
            differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            if differing:
                sys.exit(f"differs after {kills} kills: {json.dumps(differing)}")
            shutil.rmtree(out)
            print(f"{kills} kills in {rounds} studies: equal bytes, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
