"""PGD as a satbench user gets it, against foolbox's LinfPGD, a plain loop and the bare floor.

    python benchmarks/attacks.py [--network silu] [--steps 20 50 200] [--n 64] [--rounds 7]

Contenders take turns on the same trained network, images, steps, step size (eps/4) and kind of start, on one thread.
What is timed for
  ours      copying the network for the search (batch norms folded, channels last, both checked), the clean pass, PGD on
            that copy, and the judgement of what it returned by the network itself;
  ours bf16 the same with a copy that computes in bfloat16;
  evaluate  `satbench.evaluate` without the trust battery: also the network's probe, the counting, and the run's files;
  foolbox   its attack called as its documentation does, success included;
  plain     any-iterate PGD by hand: `torch.autograd.grad`, the whole batch to the end;
  floor     the forward and backward passes that `plain` makes, and nothing else;
  own floor those that `ours` makes on its copy, with as many rows each, and nothing else.
A figure is the median over rounds of the ratio of CPU times, with its extremes. eps is the smallest multiple of 2/255
at which PGD-20 leaves a robust accuracy of at most 0.5, or 0 of `silu-undefended`.
`differ` counts the samples that ours and plain, from the same starts, do not agree on.
"""

import argparse
import platform
import statistics
import tempfile
from bisect import bisect_left
from functools import partial
from importlib.metadata import version

import foolbox
import torch
from networks import NETWORKS, Passes, as_images, count, digits, race, ratio, trained
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import PGD
from satbench.data import Images
from satbench.evaluation import evaluate
from satbench.models.search_copy import search_copy
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel

BATCH = {"silu": 64, "cnn": 64, "preact18": 32, "silu-undefended": 64}
CANDIDATES = range(4, 65, 2)  # of 255; more breaks more


def streams(n: int) -> PerSample:
    return PerSample.of(0, [str(row) for row in range(n)], "attack")


def ours(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, precision: str = "float32") -> Tensor:
    """Which samples are broken, bool (N,)."""
    search = search_copy(model, x[:4], precision).module
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero()[:, 0]
    attack = PGD(steps=steps, step_size=threat.eps / 4)
    x_adv = attack(search, x[right], y[right], threat, streams(len(x)).rows(right))
    broken = torch.ones_like(y, dtype=torch.bool)
    with torch.no_grad():
        broken[right] = (model(x_adv).argmax(1) != y[right]) & threat.contains(x[right], x_adv)
    return broken


def evaluated(model: nn.Module, images: Images, threat: ThreatModel, steps: int) -> Tensor:
    attack = PGD(steps=steps, step_size=threat.eps / 4)
    with tempfile.TemporaryDirectory() as folder:
        run = evaluate(model, folder, attack, threat=threat, dataset=images, trust=False)
    return torch.from_numpy(run.records["broken"].to_numpy(copy=True))


def in_foolbox(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int) -> Tensor:
    attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=threat.eps / 4, random_start=True)
    success: Tensor = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=threat.eps)[2]
    return success


def plain(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int) -> Tensor:
    x_adv = threat.random_start(x, streams(len(x)))
    with torch.no_grad():
        broken = model(x).argmax(1) != y
    for _ in range(steps):
        x_adv.requires_grad_()
        logits = model(x_adv)
        broken |= logits.argmax(1) != y
        (grad,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), x_adv)
        x_adv = x_adv.detach() + threat.eps / 4 * grad.sign()
        x_adv = x_adv.clamp(x - threat.eps, x + threat.eps).clamp(0, 1)
    with torch.no_grad():
        return broken | (model(x_adv).argmax(1) != y)


class Shapes(nn.Module):
    """Notes how many rows went through a network and whether they came back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        self.calls.append((len(x), logits.requires_grad))
        return logits


def passes_of(model: nn.Module, x: Tensor, calls: list[tuple[int, bool]]) -> None:
    """The same passes and nothing else."""
    for n, backward in calls:
        if not backward:
            with torch.no_grad():
                model(x[:n])
            continue
        given = x[:n].detach().requires_grad_()
        torch.autograd.grad(model(given).sum(), given)


def suitable_eps(name: str, model: nn.Module, x: Tensor, y: Tensor) -> float:
    enough = 0.0 if name == "silu-undefended" else 0.5

    def enough_broken(k: int) -> bool:
        return 1 - float(ours(model, x, y, ThreatModel("Linf", k / 255), 20).float().mean()) <= enough

    return CANDIDATES[bisect_left(CANDIDATES, True, key=enough_broken)] / 255


def per_sample(seen: Passes, n: int) -> str:
    return f"{seen.forward / n:.1f}/{seen.backward / n:.1f}"


def one_race(name: str, steps: int, n: int, rounds: int, with_bf16: bool) -> None:
    model = trained(name)
    x, y = digits("test", n)
    threat = ThreatModel("Linf", suitable_eps(name, model, x, y))
    given = (model, x, y, threat, steps)
    made = search_copy(model, x[:4])
    search = Shapes(made.module)
    right = (model(x).argmax(1) == y).nonzero()[:, 0]
    attack = PGD(steps=steps, step_size=threat.eps / 4)
    attack(search, x[right], y[right], threat, streams(len(x)).rows(right))
    frozen = trained(name).requires_grad_(False)
    contenders = {
        "ours": partial(ours, *given),
        "evaluate": partial(evaluated, model, as_images(x, y), threat, steps),
        "foolbox": partial(in_foolbox, *given),
        "plain": partial(plain, *given),
        "floor": partial(passes_of, frozen, x, [(len(x), False), *[(len(x), True)] * steps, (len(x), False)]),
        "own floor": partial(passes_of, made.module, x[right], search.calls),
    }
    if with_bf16:
        contenders["ours bf16"] = partial(ours, *given, precision="bf16")
    broken = {which: run() for which, run in contenders.items() if "floor" not in which}
    robust = ", ".join(f"{which} {1 - float(flags.float().mean()):.3f}" for which, flags in broken.items())
    print(f"\n{name}, PGD-{steps}, {threat}, n {len(x)}; search copy: {made.how}")
    print(f"  robust accuracy: {robust}; differ: {int((broken['ours'] != broken['plain']).sum())} of {len(x)}")
    passes = ", ".join(
        f"{which} {per_sample(count(model, contenders[which]), len(x))}" for which in ("ours", "foolbox", "plain")
    )
    print(f"  passes a sample, forward/backward, all included: {passes}; foolbox also takes gradients of the weights")
    seconds = race(contenders, rounds)
    for which in ("foolbox", "plain", "floor", "own floor"):
        print(f"  ours against {which}: {ratio(seconds[which], seconds['ours'])} times as fast")
    print(f"  evaluate against foolbox: {ratio(seconds['foolbox'], seconds['evaluate'])} times as fast")
    fixed = statistics.median(one - other for one, other in zip(seconds["evaluate"], seconds["ours"], strict=True))
    print(f"  evaluate takes {fixed:.2f} s more than ours")
    if with_bf16:
        print(f"  ours bf16 against foolbox: {ratio(seconds['foolbox'], seconds['ours bf16'])} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 50, 200])
    parser.add_argument("--n", type=int, help="images, in one batch; 64, and 32 for preact18")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="also the bfloat16 search, at 20 steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    print(
        f"torch {torch.__version__}, foolbox {version('foolbox')}, one thread of {platform.machine()} "
        f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 {'in hardware' if native else 'emulated'}; "
        f"{options.rounds} rounds"
    )
    for name in options.network:
        for steps in [50] if name == "silu-undefended" else options.steps:
            one_race(name, steps, options.n or BATCH[name], options.rounds, options.bf16 and steps == 20)


if __name__ == "__main__":
    main()
