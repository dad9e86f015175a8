"""How far `rapid` lies from AutoAttack standard, and at what share of its passes.

    python benchmarks/rapid.py [NETWORK ...] [--dataset digits] [--norm Linf] [--eps 0.2] [--n 300] [--seeds 1]

For every network (a name or file that `satbench eval --model` takes; the digits of the zoo by default) both attack the
same images: pyautoattack by `run_standard_evaluation` in batches of 250 with seed 0, and rapid with each of its seeds.
Prints robust accuracies with their 95% Wilson intervals, on how many images only one of them succeeds, forward and
backward passes an image, and the ratio of their sums; below 1/8 is the goal, with a gap of 0.2 points or less.
"""

import argparse
from functools import partial

import torch
from networks import Passes, count
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from satbench.attacks.rapid import MOST_PASSES, Rapid
from satbench.data import load_images
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import wilson
from satbench.zoo import load_model

DIGITS = ["digits-relu", "digits-silu", "digits-smoothrelu"]


def stands(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def rate(flags: Tensor) -> str:
    low, high = wilson(int(flags.sum()), len(flags))
    return f"{100 * flags.float().mean():.2f} [{100 * low:.1f}, {100 * high:.1f}]"


def cost(seen: Passes, n: int) -> str:
    return f"{seen.forward / n:.0f} + {seen.backward / n:.0f}"


def compare(name: str, x: Tensor, y: Tensor, ids: list[str], threat: ThreatModel, seeds: int) -> None:
    model, n = load_model(name), len(x)
    made: dict[str, Tensor] = {}

    def standard() -> None:
        reference = Reference(model, eps=threat.eps, norm=threat.norm, seed=0)
        made["standard"], _ = reference.run_standard_evaluation(x, y, batch_size=250)

    def rapid(seed: int) -> None:
        made["rapid"] = Rapid()(model, x, y, threat, PerSample.of(seed, ids, "rapid"))

    price = count(model, standard)
    robust = stands(model, made["standard"], y)
    print(f"{name}, {threat}, n {n}: clean % {rate(stands(model, x, y))}")
    print(f"  AutoAttack standard: robust % {rate(robust)}, passes an image {cost(price, n)}")
    for seed in range(seeds):
        own = count(model, partial(rapid, seed))
        left = stands(model, made["rapid"], y) | ~threat.contains(x, made["rapid"])
        gap = 100 * (int(left.sum()) - int(robust.sum())) / n
        print(
            f"  rapid, seed {seed}: robust % {rate(left)}, passes an image {cost(own, n)}; gap {gap:+.2f} points, "
            f"{int((left & ~robust).sum())} broken by AutoAttack alone, {int((robust & ~left).sum())} by rapid alone; "
            f"passes {(own.forward + own.backward) / (price.forward + price.backward):.4f} of AutoAttack's"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=DIGITS)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--norm", choices=("Linf", "L2", "L1"), default="Linf")
    parser.add_argument("--eps", default="0.2")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threat, images = ThreatModel(options.norm, options.eps), load_images(options.dataset, "test")
    x, y, ids = images.x[: options.n], images.y[: options.n], list(images.ids[: options.n])
    print(f"an image that stands takes rapid {MOST_PASSES} passes, AutoAttack standard about 9770")
    for name in options.networks:
        compare(name, x, y, ids, threat, options.seeds)


if __name__ == "__main__":
    main()
