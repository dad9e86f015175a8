"""Read damaged and forged files by the thousand, in processes that may crash, hang or fill the memory.

    nice python tests/fuzz/run.py [--mutants 30000] [--kinds index,npz] [--seed 0] [--minutes 10]

Prints a table with a row for each kind of file: how many mutants were refused in one line, read as the right value or,
where no digest covers it, as another value; and how many were read as a wrong value, executed code, raised another
error than `BadInput`, ended the process, or took more than 5 s of CPU or 1 GiB. Exits with 1 unless all of these are 0;
every such mutant is printed with its number, by which `--only` repeats it.
"""

import argparse
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fuzz.inputs import INPUTS
from fuzz.kind import SECONDS, expected, mutate, outcome, watch
from fuzz.saved import SAVED

KINDS = SAVED | INPUTS
GOOD, BAD = ("refused", "right", "other"), ("wrong", "executed", "error", "crash", "hang", "memory")
MEMORY = 1 << 20  # KiB above what reading the right files takes


def work(name: str, numbers: range, seed: int, right: Path, answers: Connection) -> None:
    """Read one mutant after the other, and send what each came to."""
    warnings.simplefilter("ignore")
    kind, folder = KINDS[name], right.with_name("mutant")
    wanted = expected(kind, right)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # messages of the image decoders
    watch()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(right, folder)
        mutate(kind, folder, random.Random(f"{seed} {name} {number}"))
        found, said, seconds = outcome(kind, folder, wanted)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base > MEMORY:
            answers.send(("memory", said, seconds))
            return
        answers.send((found, said, seconds))


def counted(name: str, numbers: range, seed: int, until: float) -> tuple[Counter[str], float, list[str]]:
    """How many mutants of a kind ended how, the longest in seconds of CPU, and a line for each bad one."""
    counts: Counter[str] = Counter()
    longest, lines, fork = 0.0, [], multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as scratch:
        right = Path(scratch) / "right"
        right.mkdir()
        KINDS[name].write(right)
        while numbers and time.monotonic() < until:
            answers, theirs = fork.Pipe(duplex=False)
            process = fork.Process(target=work, args=(name, numbers, seed, right, theirs))
            process.start()
            theirs.close()
            found = ""
            while numbers and found not in ("crash", "hang", "memory") and time.monotonic() < until:
                try:
                    found, said, seconds = (
                        answers.recv() if answers.poll(60) else ("hang", "no answer in 60 s", SECONDS)
                    )
                except EOFError:
                    process.join()
                    found, said, seconds = "crash", f"exit code {process.exitcode}", 0.0
                counts[found] += 1
                longest = max(longest, seconds)
                if found in BAD:
                    lines.append(f"{name} {numbers[0]}: {found} {said}")
                numbers = numbers[1:]
            process.kill()
            process.join()
    return counts, longest, lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=30_000)
    parser.add_argument("--kinds", default=",".join(KINDS), help="separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", type=int, help="the number of one mutant of one kind")
    args = parser.parse_args()
    names = args.kinds.split(",")
    numbers = range(-(-args.mutants // len(names))) if args.only is None else range(args.only, args.only + 1)
    until = time.monotonic() + 60 * args.minutes
    print(f"{'kind':30} {'mutants':>7} " + " ".join(f"{word:>8}" for word in (*GOOD, *BAD)) + "  longest")
    total: Counter[str] = Counter()
    bad: list[str] = []
    for place, name in enumerate(names):
        share = (until - time.monotonic()) / (len(names) - place)
        counts, longest, lines = counted(name, numbers, args.seed, time.monotonic() + share)
        total += counts
        bad += lines
        figures = " ".join(f"{counts[word]:8}" for word in (*GOOD, *BAD))
        print(f"{name:30} {counts.total():7} {figures}  {longest:.2f} s", flush=True)
    print(f"{'all':30} {total.total():7} " + " ".join(f"{total[word]:8}" for word in (*GOOD, *BAD)))
    print(*bad, sep="\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
