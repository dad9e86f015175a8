"""What the trust battery misses, and whom it doubts without cause.

    python benchmarks/trust.py [--n 96] [--budgets 2000,500,100] [--full]

Examines every spoilt and every honest network of tests/trust_networks.py by the quick form, once without a budget and
once for each budget of passes, and with --full by the full form on n images. Prints the misses and the false alarms of
each, with 95% intervals, and the passes an image.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from satbench.results.metrics import wilson
from satbench.results.schema import Trust
from satbench.trust import examine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from trust_networks import BAD, HONEST, Network, images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=96)
    parser.add_argument("--budgets", default="2000,500,100")
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    built = {name: network.build() for name, network in (BAD | HONEST).items()}
    forms = [("quick", None), *(("quick", int(budget)) for budget in arguments.budgets.split(",") if budget)]
    forms += [("full", None)] if arguments.full else []
    print(f"{len(BAD)} spoilt networks, {len(HONEST)} honest ones, {arguments.n} digits at most")
    for depth, budget in forms:
        found = {
            name: check(built[name], network, arguments.n, depth, budget) for name, network in (BAD | HONEST).items()
        }
        missed = [name for name in BAD if found[name].verdict == "pass"]
        alarms = [name for name in HONEST if found[name].verdict != "pass"]
        passes = sorted(trust.forward + trust.backward for trust in found.values())
        form = f"{depth} form" if budget is None else f"{depth} form within {budget} passes"
        print(
            f"{form}: misses {rate(missed, len(BAD))}, false alarms {rate(alarms, len(HONEST))}; "
            f"passes median {passes[len(passes) // 2]:,}, most {passes[-1]:,}",
            flush=True,
        )


def check(model: nn.Module, network: Network, n: int, depth: str, budget: int | None) -> Trust:
    shown = images(network.colours, network.classes)
    return examine(model, shown.head(min(n, len(shown))), network.threat, depth=depth, budget=budget)


def rate(names: list[str], n: int) -> str:
    low, high = wilson(len(names), n)
    which = f" ({', '.join(names)})" if names else ""
    return f"{len(names)} of {n} [{100 * low:.0f}, {100 * high:.0f}]%{which}"


if __name__ == "__main__":
    main()
