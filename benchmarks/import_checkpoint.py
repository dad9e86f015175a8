"""What importing a released checkpoint costs beside copying its bytes.

    python benchmarks/import_checkpoint.py [NAME] [--rounds 5]

Writes a checkpoint of the card's network with random weights to a temporary folder, ResNet-50 of 102 MB unless NAME
says another. Then imports it (digests, conversion, probe logits, safetensors file), and copies the same bytes through
memory to another file. Prints the medians of the CPU and wall times, their ratio, and how far the imports raised the
peak of resident memory above what Python and torch take.
"""

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from satbench.models import empty_model
from satbench.zoo.card import ReleasedCard
from satbench.zoo.convert import AVERAGE, Variable, variables
from satbench.zoo.registry import released_card
from satbench.zoo.released import import_checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from bundle_writer import write_bundle


class Drawn(Mapping[str, np.ndarray]):
    """The variables of a card's network, drawn when asked for, with logits of a sane size."""

    def __init__(self, card: ReleasedCard) -> None:
        suffix = AVERAGE if card.variables == "averaged" else ""
        self.variables: dict[str, Variable] = {
            one.name + suffix: one for one in variables(empty_model(card.spec).net, card.scope)
        }
        self.source = np.random.default_rng(0)

    def __getitem__(self, name: str) -> np.ndarray:
        shape = self.variables[name].shapes[0]
        if len(shape) == 1:
            return self.source.uniform(0.5, 1.5, shape).astype(np.float32)
        return self.source.standard_normal(shape, np.float32) * np.float32((2 / np.prod(shape[:-1])) ** 0.5)

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def peak() -> float:
    """MiB of resident memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="resnet50-silu")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    name, card = released_card(options.name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SATBENCH_HOME"] = folder
        prefix, out = Path(folder, card.release), Path(folder, "net.safetensors")
        write_bundle(prefix, Drawn(card))
        data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
        size, before = data.stat().st_size / 2**20, peak()
        ours = [timed(lambda: import_checkpoint(name, card, prefix, out)) for _ in range(options.rounds)]
        rise = peak() - before
        bare = [timed(lambda: Path(folder, "copy").write_bytes(data.read_bytes())) for _ in range(options.rounds)]
    for kind, which in (("CPU", 0), ("wall", 1)):
        ours_s = statistics.median(one[which] for one in ours)
        bare_s = statistics.median(one[which] for one in bare)
        print(f"{kind}: import {ours_s:.2f} s, copy {bare_s:.2f} s, ratio {ours_s / bare_s:.1f}")
    print(
        f"first import {ours[0][1]:.2f} s; {size:.0f} MiB of variables, peak {rise:.0f} MiB higher: {rise / size:.2f}"
    )


if __name__ == "__main__":
    main()
