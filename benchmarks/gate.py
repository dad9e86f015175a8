"""Error rates and cost of the gate's sequential rule, beside the fixed one, on simulated re-measurements.

    python benchmarks/gate.py [--runs 1000] [--seed 0]

A suite is some figures on the same images. By rounding a share `churn` of the images flips, as many up as down; a drop
flips a further share of the images of one figure down. The fixed rule measures the images with which the exact McNemar
test, adjusted by Holm, sees the drop in 90% of cases. The sequential rule is `regression.judge` at its
`looks`, on at most as many images as `power.gate_images` asks for. Prints, with 95% intervals, how often each rule
calls a figure changed, and the images that the sequential rule takes as a share of the fixed one's. Images stand for
passes, for a look computes only the new ones. In the last line rounding flips twice as many images as assumed. Half
an hour on one core.
"""

import argparse
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from satbench.regression.baseline import Measured, Outcomes
from satbench.regression.compare import Expected, Seen, judge
from satbench.results.crossed import holm
from satbench.results.metrics import wilson
from satbench.results.power import gate_images, images_needed
from satbench.results.sequential import LEVEL, Steps, looks, p_fixed, paired

ACCURACY = 0.8  # of the baseline


@dataclass(frozen=True)
class Case:
    """A suite: sizes are fractions. churn: as it is; assumed: as the number of images was chosen for."""

    drop: float
    churn: float
    figures: int
    assumed: float

    @cached_property
    def fixed(self) -> int:
        return images_needed(self.drop, self.assumed, LEVEL / self.figures)

    @cached_property
    def images(self) -> int:
        return gate_images(self.drop, self.assumed, self.figures)


def remeasured(case: Case, true_drop: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes of the baseline and of a re-measurement, bool (figures, images).

    Flips down come from the images that were right, flips up from the others, in numbers that have the shares given.
    """
    old = rng.random((case.figures, case.images)) < ACCURACY
    down = np.full((case.figures, 1), case.churn / 2 / ACCURACY)
    down[0] += true_drop / ACCURACY
    chance = np.where(old, down, case.churn / 2 / (1 - ACCURACY))
    return old, old ^ (rng.random(old.shape) < chance)


def sequential(case: Case, old: np.ndarray, new: np.ndarray) -> tuple[bool, int]:
    """Whether the gate calls a figure changed, and after how many images it stops."""
    names = [str(one) for one in range(case.figures)]
    approved = Measured(
        network="a",
        training=None,
        asked="",
        data="",
        numerics="",
        trust=None,
        figures={name: Outcomes.of(right) for name, right in zip(names, old, strict=True)},
    )
    expected = Expected("suite", approved, {}, {}, case.drop, case.images)
    ids = [""] * case.images
    for n in looks(case.images):
        figures = {name: right[:n] for name, right in zip(names, new, strict=True)}
        (found,) = judge([(expected, Seen(ids[:n], figures, "a", None, "", None, 0))])
        if found.state != "open":
            return found.state == "changed", n
    raise AssertionError("the last look settles it")


def fixed(case: Case, old: np.ndarray, new: np.ndarray) -> bool:
    """Whether Holm's rule on the exact McNemar test calls a figure changed."""
    n = case.fixed
    steps: list[Steps] = [a[:n].astype(np.int8) - b[:n].astype(np.int8) for a, b in zip(new, old, strict=True)]
    return min(holm([p_fixed(paired(one), 0.0) for one in steps])) < LEVEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cases = [Case(0.05, churn, figures, churn) for churn in (0.0, 0.005, 0.02) for figures in (1, 3)]
    cases += [Case(0.02, 0.005, 3, 0.005), Case(0.05, 0.01, 3, 0.005)]
    print("drop churn figures | fixed n, gate's most | true drop: fixed, gate call it changed; share of the fixed n")
    for case in cases:
        print(f"{case.drop:.2f} {case.churn:.3f} {case.figures} | {case.fixed} {case.images} | ", end="")
        for true_drop in (0.0, case.drop, 2 * case.drop):
            rng = np.random.default_rng([options.seed, round(1000 * true_drop)])
            calls, stops, alarms = 0, [], 0
            for _ in range(options.runs):
                old, new = remeasured(case, true_drop, rng)
                changed, n = sequential(case, old, new)
                calls, alarms = calls + changed, alarms + fixed(case, old, new)
                stops.append(n)
            (low, high), cost = wilson(calls, options.runs), np.array(stops) / case.fixed
            print(
                f"{true_drop:.2f}: {alarms / options.runs:.3f}, {calls / options.runs:.3f} [{low:.3f}, {high:.3f}]; "
                f"{cost.mean():.2f} +- {1.96 * cost.std() / len(stops) ** 0.5:.2f}",
                end=" | ",
                flush=True,
            )
        print()


if __name__ == "__main__":
    main()
