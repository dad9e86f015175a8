"""Read damaged and forged files by the thousand, in processes that may crash, hang or fill the memory.

    nice python tests/fuzz/run.py [--mutants 30000] [--kinds index,data] [--seed 0] [--minutes 10]

Prints a table with a row for each kind of file: how many mutants were refused in one line, read as the right values, or
(of forged ones) read as what was forged; and how many were wrong, executed code, raised another error than `BadInput`,
ended the process, took over 5 s or 1 GB. Exits 1 unless all of these are 0; every such mutant is printed with its
number, by which `--only` repeats it.
"""

import argparse
import multiprocessing
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
from fuzz.mutants import KINDS, SPRUNG, expected, mutate, outcome

SLOW, MEMORY = 5.0, 1 << 20  # seconds; KiB above what reading the right files takes
GOOD, BAD = ("refused", "right", "forged"), ("wrong", "executed", "error", "crash", "hang", "memory")


def work(name: str, numbers: list[int], seed: int, folder: Path, pipe: Connection) -> None:
    """Read one mutant after the other, and say before and after each which one it is."""
    warnings.simplefilter("ignore")
    kind = KINDS[name]
    right = expected(kind, folder)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        pipe.send((number, "begin", ""))
        shutil.rmtree(folder.with_name("mutant"), ignore_errors=True)
        place = shutil.copytree(folder, folder.with_name("mutant"))
        mutate(kind, place, random.Random(f"{seed} {name} {number}"))
        try:
            found, said = outcome(kind, place, right), ""
        except Exception as error:
            found, said = "error", f"{type(error).__name__}: {error}"[:200]
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base > MEMORY:
            found = "memory"
        pipe.send((number, found, said))
        if found == "memory":
            return


def counted(name: str, numbers: list[int], seed: int, until: float) -> tuple[Counter[str], float, list[str]]:
    """How many mutants of a kind ended how, the longest in seconds, and a line for each that should not be."""
    counts: Counter[str] = Counter()
    longest, lines = 0.0, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "right"
        folder.mkdir()
        KINDS[name].write(folder)
        (folder / SPRUNG).unlink(missing_ok=True)
        while numbers and time.monotonic() < until:
            ours, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("fork")
            process = context.Process(target=work, args=(name, numbers, seed, folder, theirs))
            process.start()
            theirs.close()
            number, begun = numbers[0], time.monotonic()
            found, said = "", ""
            while numbers and time.monotonic() < until:
                if not ours.poll(SLOW if found == "begin" else 60):
                    found = "hang"
                else:
                    try:
                        number, found, said = ours.recv()
                    except EOFError:
                        found = "crash"
                if found == "begin":
                    begun = time.monotonic()
                    continue
                longest = max(longest, time.monotonic() - begun)
                counts[found] += 1
                numbers = [one for one in numbers if one > number]
                if found not in GOOD:
                    lines.append(f"{name} {number}: {found} {said}")
                if found in ("hang", "crash", "memory"):
                    break
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
    each = -(-args.mutants // len(names))
    until = time.monotonic() + 60 * args.minutes
    print(f"{'kind':30} {'mutants':>7} " + " ".join(f"{word:>8}" for word in (*GOOD, *BAD)) + "  longest")
    total: Counter[str] = Counter()
    bad: list[str] = []
    for place, name in enumerate(names):
        share = (until - time.monotonic()) / (len(names) - place)
        numbers = list(range(each)) if args.only is None else [args.only]
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
