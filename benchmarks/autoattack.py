"""AutoAttack standard as a satbench user gets it, against pyautoattack as its users run it.

    python benchmarks/autoattack.py [--network cnn] [--n 256] [--rounds 1] [--norm Linf] [--counting]

Both attack the same images on the same trained network, on one thread and in turns: theirs by
`run_standard_evaluation` in batches of 250 with its own defaults, once with seed 0 and once with seed 1; ours by
`satbench.evaluate` without the trust battery, so that the search copy, its checks, the counting of passes, the judging
and the files of the run are in the time. Prints the ratios of CPU times, the passes a sample, and how many samples ours
and theirs do not agree on, beside how many two seeds of theirs do not agree on.

`silu`, `cnn` and `preact18` are the networks of `networks.py`, of which only `cnn` has no batch norm; `preact18` takes
hours. `digits-silu` is the one of the zoo, on 8x8 digits. `--counting` also prints the share of our time that the
counting wrapper takes; its clocks are then part of our time.

torchattacks' attack of the same name is not raced: its members take 10 steps where the standard has 100, so it is a
weaker attack, and its time says nothing.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial, wraps
from importlib.metadata import version
from typing import Any

import torch
from networks import as_images, count, digits, race, ratio, trained
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from satbench.data import load_images
from satbench.evaluation import evaluate
from satbench.evaluation.counting import Counted
from satbench.models.search_copy import search_copy
from satbench.numerics.threat import ThreatModel
from satbench.zoo import load_model

# for a robust accuracy near one half
EPS = {
    "Linf": {"digits-silu": 0.25, "silu": 28 / 255, "cnn": 28 / 255, "preact18": 28 / 255},
    "L2": {"digits-silu": 1.0, "silu": 1.5, "cnn": 1.5, "preact18": 1.5},
    "L1": {"digits-silu": 3.0, "silu": 12.0, "cnn": 12.0, "preact18": 12.0},
}


def case(name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    if name == "digits-silu":
        images = load_images("digits", "test")
        return load_model(name), images.x[:n], images.y[:n]
    return trained(name), *digits("test", n)


class Race:
    """Each contender's flags, from the last time that it ran."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        self.model, self.x, self.y, self.threat = model, x, y, threat
        self.images = as_images(x, y)
        self.broken: dict[str, Tensor] = {}

    def ours(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = evaluate(self.model, folder, "autoattack", threat=self.threat, dataset=self.images, trust=False)
        self.broken["ours"] = torch.from_numpy(run.records["broken"].to_numpy(copy=True))

    def theirs(self, seed: int) -> None:
        reference = Reference(self.model, eps=self.threat.eps, norm=self.threat.norm, seed=seed)
        x_adv, _ = reference.run_standard_evaluation(self.x, self.y, batch_size=250)
        with torch.no_grad():
            self.broken[f"theirs {seed}"] = self.model(x_adv).argmax(1) != self.y

    def differ(self, one: str, other: str) -> int:
        return int((self.broken[one] != self.broken[other]).sum())


class Share:
    """CPU seconds in the counting wrapper, without those of the network in it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        added = {"__call__": 1, "_count_backward": 1, "watch": 1, "counts": 1, "_whole": -1}
        before = {name: getattr(Counted, name) for name in added}
        for name, sign in added.items():
            setattr(Counted, name, self._timed(before[name], sign))
        try:
            yield
        finally:
            for name, method in before.items():
                setattr(Counted, name, method)

    def _timed(self, method: Callable[..., Any], sign: int) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any) -> Any:
            started = time.process_time()
            try:
                return method(*args)
            finally:
                self.seconds += sign * (time.process_time() - started)

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=tuple(EPS["Linf"]), default="cnn")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--norm", choices=tuple(EPS), default="Linf")
    parser.add_argument("--counting", action="store_true", help="print the share of the counting wrapper in our time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, x, y = case(options.network, options.n)
    this = Race(model, x, y, ThreatModel(options.norm, EPS[options.norm][options.network]))
    runs = {"theirs 0": partial(this.theirs, 0), "ours": this.ours, "theirs 1": partial(this.theirs, 1)}
    passes: dict[str, str] = {}
    share = Share()

    def counted(name: str) -> None:
        with share.measured() if options.counting and name == "ours" else nullcontext():
            seen = count(model, runs[name])
        passes[name] = f"{name} {seen.forward / len(x):.0f}/{seen.backward / len(x):.0f}"

    seconds = race({name: partial(counted, name) for name in runs}, options.rounds, warm_up=False)
    print(
        f"{options.network}, AutoAttack standard, {this.threat}, n {len(x)}; torch {torch.__version__}, "
        f"pyautoattack {version('pyautoattack')}, one thread of {platform.machine()} "
        f"{torch.backends.cpu.get_cpu_capability()}, {options.rounds} rounds"
    )
    print(f"  search copy: {search_copy(model, x[:4]).how}")
    print("  robust: " + ", ".join(f"{name} {int((~flags).sum())}" for name, flags in this.broken.items()))
    print(
        f"  ours and theirs differ on {this.differ('ours', 'theirs 0')} and {this.differ('ours', 'theirs 1')} samples"
    )
    print(f"  two seeds of theirs differ on {this.differ('theirs 0', 'theirs 1')}")
    print("  forward/backward passes a sample: " + ", ".join(passes.values()))
    for name in ("theirs 0", "theirs 1"):
        print(f"  ours against {name}: {ratio(seconds[name], seconds['ours'])} times as fast")
    if options.counting:
        print(f"  counting takes {share.seconds / sum(seconds['ours']):.1%} of our time")


if __name__ == "__main__":
    main()
