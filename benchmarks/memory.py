"""What an update needs in memory and time: plain, in parts, and with recomputed activations.

    python benchmarks/memory.py [--model wide-resnet] [--depth 28] [--width 10] [--batch 32] [--steps 2] [--side 32]
        [--parts 4] [--updates 2] [--bf16] [--device cpu]

PGD training on uniform noise. Every way runs in a process of its own, on one thread:
  tensors  the most that an update holds at a time beside weights and momentum: activations, gradients, images;
  process  growth of the process by the updates, on a CPU, momentum and what the allocator does not give back included;
  time     of an update, the median of those after the first.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from satbench.methods.base import Step
from satbench.methods.pgd_at import PGDAT
from satbench.models import ModelSpec, build_model
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.training.step import Learner

CLASSES, LR = 10, 0.01
THREAT = ThreatModel("Linf", 8 / 255)


def allocated(device: str, run: Callable[[], object]) -> int:
    """The most bytes that PyTorch held at a time beyond those from before `run`."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    assert seen.profiler is not None
    assert seen.profiler.kineto_results is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


def of_process() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured(options: argparse.Namespace, parts: int, recomputes: bool) -> tuple[int, int, float]:
    """Bytes of tensors, bytes by which the process grew, and seconds of an update."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device, side = options.device, options.side
    params = {name: value for name in ("depth", "width") if (value := getattr(options, name)) is not None}
    spec = ModelSpec(options.model, "silu", CLASSES, 3, side, (0.5,) * 3, (0.25,) * 3, params)
    net = build_model(spec).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)
    precision = "bf16" if options.bf16 else "float32"
    learner = Learner(net, optimizer, PGDAT(options.steps), precision=precision, activation_checkpointing=recomputes)
    x = torch.rand(options.batch, 3, side, side, generator=generator(0)).to(device)
    y = (torch.arange(options.batch) % CLASSES).to(device)
    index, seconds, before = torch.arange(options.batch), [], of_process()

    def update(number: int) -> None:
        randomness = generator(0, number, device=device)
        step = Step(x, y, y, index, index, 0, number, 0.0, THREAT, randomness, accumulation=parts)
        learner.update(step, LR).loss.item()

    for number in range(options.updates + 1):
        started = time.perf_counter()
        update(number)
        seconds.append(time.perf_counter() - started)
    growth = of_process() - before
    return allocated(device, partial(update, options.updates + 1)), growth, median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wide-resnet")
    parser.add_argument("--depth", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=2, help="of PGD")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--updates", type=int, default=2, help="that are timed")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {options.model}, batch {options.batch}, PGD-{options.steps}, {options.device}")
    ways: dict[str, tuple[Any, ...]] = {
        "plain": (1, False),
        f"accumulation={options.parts}": (options.parts, False),
        "activation checkpointing": (1, True),
        "both": (options.parts, True),
    }
    first: tuple[int, int, float] | None = None
    for name, way in ways.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(measured, (options, *way))
        first = first or found
        shares = [f"{one / whole:.2f}" for one, whole in zip(found, first, strict=True)]
        tensors, growth, seconds = found
        print(
            f"{name:>26}: tensors {tensors / 2**20:,.1f} MiB ({shares[0]}), process {growth / 2**20:,.1f} MiB "
            f"({shares[1]}), time {seconds:.2f} s ({shares[2]})"
        )


if __name__ == "__main__":
    main()
