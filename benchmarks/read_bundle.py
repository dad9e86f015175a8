"""What reading a TensorFlow checkpoint costs beside a bare pass over the same bytes.

    python benchmarks/read_bundle.py [--networks 1] [--rounds 5]

Writes the variables of ResNet-50s, 102 MB each, to a temporary folder; then, in turns, opens the checkpoint, reads all
tensors with their checksums and releases them, or takes one google-crc32c over the mapped file. Prints the medians of
the CPU times, their ratio, and by how much each raises the peak of resident memory.
"""

import argparse
import mmap
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import google_crc32c
import numpy as np

from satbench.zoo.tf_bundle import Bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from bundle_writer import shard_path, write_bundle


class Variables(Mapping[str, np.ndarray]):
    """Those of some ResNet-50s, made when asked for."""

    def __init__(self, networks: int) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        for network in range(networks):
            scope = f"network{network}/"
            self._unit(f"{scope}conv0", 7, 3, 64)
            inputs = 64
            for group, blocks in enumerate((3, 4, 6, 3)):
                width = 64 << group
                for block in range(blocks):
                    name = f"{scope}group{group}/block{block}"
                    self._unit(f"{name}/conv1", 1, inputs, width)
                    self._unit(f"{name}/conv2", 3, width, width)
                    self._unit(f"{name}/conv3", 1, width, 4 * width)
                    if block == 0:
                        self._unit(f"{name}/convshortcut", 1, inputs, 4 * width)
                    inputs = 4 * width
            self.shapes |= {f"{scope}linear/W": (inputs, 1000), f"{scope}linear/b": (1000,)}

    def _unit(self, name: str, kernel: int, inputs: int, outputs: int) -> None:
        self.shapes[f"{name}/W"] = (kernel, kernel, inputs, outputs)
        for leaf in ("gamma", "beta", "mean/EMA", "variance/EMA"):
            self.shapes[f"{name}/bn/{leaf}"] = (outputs,)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(self.shapes[name], np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def read(prefix: Path) -> None:
    with Bundle(prefix) as bundle:
        for name in bundle.entries:
            bundle.read(name)
            bundle.release(name)


def bare(prefix: Path) -> None:
    with shard_path(prefix).open("rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        google_crc32c.value(np.frombuffer(whole, np.uint8))


def cpu_seconds(run: Callable[[Path], object], prefix: Path) -> float:
    started = time.process_time()
    run(prefix)
    return time.process_time() - started


def peak() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--networks", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    variables = Variables(options.networks)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "model.ckpt-1"
        write_bundle(prefix, variables)
        rises = []
        for run in (read, bare):
            before = peak()
            run(prefix)
            rises.append(peak() - before)
        times = [tuple(cpu_seconds(run, prefix) for run in (Bundle, read, bare)) for _ in range(options.rounds)]
        opened, reading, plain = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{len(variables)} tensors, {shard_path(prefix).stat().st_size / 1e6:.0f} MB")
        print(f"CPU: open {opened:.3f} s; open, read and release {reading:.3f} s; bare checksum {plain:.3f} s")
        print(f"ratio {reading / plain:.2f}; peak memory rises by {rises[0]:.1f} MiB, bare by {rises[1]:.1f} MiB")


if __name__ == "__main__":
    main()
