"""Which inflated numbers the trust battery passes, and which sound ones it doubts.

    python benchmarks/trust.py [--sets bad,honest,masked,plain] [--n 250] [--steps 50,10] [--only NAME]

Attacks every network of the sets by PGD with so many steps and by AutoAttack, whose last part is Square. Has the
default form of the battery judge each run of PGD as `evaluate` does, within a tenth of the run's passes. A number is
inflated where AutoAttack breaks more than 3% of the images that PGD left. Prints a line for each run, and how many
inflated numbers pass and how many others are doubted, with 95% intervals.

`bad` and `honest` lie in tests/trust_networks.py and were seen while the checks were made; `masked` and `plain` lie in
tests/held_back_networks.py and were not. An hour for all of them on one core.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from satbench.evaluation.harness import measure

from satbench.attacks import PGD
from satbench.attacks.autoattack import AutoAttack
from satbench.core.errors import BadInput
from satbench.results.metrics import wilson
from satbench.results.schema import Verdict
from satbench.trust import examine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from held_back_networks import MASKED, PLAIN
from trust_networks import BAD, HONEST, Network, images

SETS = {"bad": BAD, "honest": HONEST, "masked": MASKED, "plain": PLAIN}
INFLATED = 3.0  # points


@dataclass(frozen=True)
class Row:
    """One run of PGD: robust accuracies in percent, and what the battery said of it."""

    steps: int
    pgd: float
    strongest: float
    verdict: Verdict
    doubts: str

    @property
    def inflated(self) -> bool:
        return self.pgd - self.strongest > INFLATED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument("--steps", default="50,10")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.sets.split(","):
        print(f"\n{name}\n{'network':32} {'steps':>5} {'PGD':>6} {'AA':>6} {'gap':>5}  verdict")
        for label, network in SETS[name].items():
            if arguments.only in label:
                rows += judged(label, network, arguments.n, [int(steps) for steps in arguments.steps.split(",")])
    for steps in sorted({row.steps for row in rows}):
        inflated = [row for row in rows if row.steps == steps and row.inflated]
        others = [row for row in rows if row.steps == steps and not row.inflated]
        print(f"\nPGD of {steps} steps")
        print(f"inflated: {counted(inflated)}\nothers:   {counted(others)}")


def judged(label: str, network: Network, n: int, steps: list[int]) -> list[Row]:
    model, shown = network.build(), images(network.colours, network.classes)
    shown = shown.head(min(n, len(shown)))
    device = torch.device("cpu")
    rows: list[Row] = []
    try:
        runs = {one: measure(model, shown, [PGD(steps=one)], [network.threat], 0, 256, device) for one in steps}
        strong = measure(model, shown, [AutoAttack()], [network.threat], 0, 256, device).records["broken"]
    except BadInput as error:
        print(f"{label:32} no number: {error}", flush=True)
        return rows
    for one, measured in runs.items():
        records = measured.records
        budget = int(records[["forward", "backward"]].to_numpy().sum()) // 10
        trust = examine(model, shown, network.threat, budget=budget, records=records, attacks=measured.attacks)
        doubts = ", ".join(finding.check for finding in trust.findings if finding.outcome != "pass")
        stands = ~records["broken"]
        row = Row(one, 100 * stands.mean(), 100 * (stands & ~strong).mean(), trust.verdict, doubts)
        gap = row.pgd - row.strongest
        print(
            f"{label:32} {one:5} {row.pgd:6.1f} {row.strongest:6.1f} {gap:5.1f}  {row.verdict} ({doubts})", flush=True
        )
        rows.append(row)
    return rows


def counted(rows: list[Row]) -> str:
    parts = []
    for what, verdicts in {
        "pass": ("pass",),
        "not checked": ("not checked",),
        "doubted": ("suspicious", "fail"),
    }.items():
        hits = sum(row.verdict in verdicts for row in rows)
        low, high = wilson(hits, len(rows)) if rows else (0.0, 1.0)
        parts.append(f"{what} {hits} of {len(rows)} [{100 * low:.0f}, {100 * high:.0f}]%")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
