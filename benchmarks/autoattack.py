"""AutoAttack standard as a satbench user gets it, against pyautoattack as its users run it.

    python benchmarks/autoattack.py [--network digits-silu] [--n 256] [--rounds 1]

Both attack the same images on the same trained network, on one thread and in turns: theirs by
`run_standard_evaluation` in batches of 250 with its own defaults, once with seed 0 and once with seed 1; ours on a
private copy (batch norms folded, channels last, parameters frozen; making and checking it is in the time), with what it
returns judged by the network itself. Prints the ratios of CPU times, the passes a sample, and how many samples ours and
theirs do not agree on, beside how many two seeds of theirs do not agree on.

`silu` and `preact18` are the networks of `attacks.py` and take hours; `digits-silu` is the one of the zoo, on 8x8
digits. torchattacks' attack of the same name is not raced: its members take 10 steps where the standard has 100, so it
is a weaker attack, and its time says nothing.
"""

import argparse
import platform
from functools import partial
from importlib.metadata import version

import torch
from networks import count, digits, race, ratio, trained
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from satbench.attacks.autoattack import AutoAttack
from satbench.data import load_images
from satbench.models.search_copy import search_copy
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel
from satbench.zoo import load_model

EPS = {"digits-silu": 0.25, "silu": 28 / 255, "preact18": 28 / 255}  # for a robust accuracy near one half


def case(name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    if name == "digits-silu":
        images = load_images("digits", "test")
        return load_model(name), images.x[:n], images.y[:n]
    return trained(name), *digits("test", n)


class Race:
    """Each contender's flags, from the last time that it ran."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        self.model, self.x, self.y, self.threat = model, x, y, threat
        self.broken: dict[str, Tensor] = {}

    def ours(self) -> None:
        search = search_copy(self.model, self.x[:4]).module
        broken = self._errs(self.x)
        right = (~broken).nonzero()[:, 0]
        x, y = self.x[right], self.y[right]
        streams = PerSample.of(0, [str(row) for row in right.tolist()], "attack")
        x_adv = AutoAttack()(search, x, y, self.threat, streams)
        broken[right] = self._errs(x_adv, right) & self.threat.contains(x, x_adv)
        self.broken["ours"] = broken

    def theirs(self, seed: int) -> None:
        reference = Reference(self.model, eps=self.threat.eps, norm=self.threat.norm, seed=seed)
        x_adv, _ = reference.run_standard_evaluation(self.x, self.y, batch_size=250)
        self.broken[f"theirs {seed}"] = self._errs(x_adv)

    def _errs(self, x: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        with torch.no_grad():
            return self.model(x).argmax(1) != self.y[rows]

    def differ(self, one: str, other: str) -> int:
        return int((self.broken[one] != self.broken[other]).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=tuple(EPS), default="digits-silu")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, x, y = case(options.network, options.n)
    this = Race(model, x, y, ThreatModel("Linf", EPS[options.network]))
    runs = {"theirs 0": partial(this.theirs, 0), "ours": this.ours, "theirs 1": partial(this.theirs, 1)}
    passes: dict[str, str] = {}

    def counted(name: str) -> None:
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


if __name__ == "__main__":
    main()
