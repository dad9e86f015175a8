"""How often the 95% intervals of a difference over seeds and images hold the truth, in simulated studies.

    python benchmarks/coverage.py [--studies 1000] [--seeds 3 5 10] [--images 200] [--spreads 0 0.02 0.1]

In a simulated study no group is better. An image has a difficulty, shared by all networks but for a part that depends
on the group; a network has an accuracy of its own, drawn around one half with the standard deviation `spread`; and each
network meets each image with noise of its own. `crossed_difference` gives the intervals that decide, and
`two_level_bootstrap` those that are shown beside them. Coverage in percent, with Wilson's 95% interval.
"""

import argparse

import numpy as np
import numpy.typing as npt

from satbench.results.crossed import crossed_difference, two_level_bootstrap
from satbench.results.metrics import wilson

BY_GROUP, NOISE = 0.2, 0.2  # standard deviations; those of the difficulty and of the noise, where its range is 0 to 1


def study(seeds: int, n: int, spread: float, draws: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Right answers (2, seeds, n) of two groups whose expected accuracies are equal."""
    difficulty = draws.random(n) + BY_GROUP * draws.standard_normal((2, 1, n))
    level = 0.5 + spread * draws.standard_normal((2, seeds, 1))
    return difficulty + NOISE * draws.standard_normal((2, seeds, n)) < level


def coverage(held: int, studies: int) -> str:
    low, high = wilson(held, studies)
    return f"{100 * held / studies:5.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--images", type=int, nargs="+", default=[200])
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.0, 0.02, 0.1])
    given = parser.parse_args()
    print(f"{'seeds':>5} {'images':>6} {'spread':>6}  {'crossed':<20} two-level bootstrap")
    for seeds in given.seeds:
        for n in given.images:
            for spread in given.spreads:
                draws = np.random.default_rng(0)
                held = [0, 0]
                for _ in range(given.studies):
                    ours, theirs = study(seeds, n, spread, draws)
                    found = crossed_difference(ours, theirs)
                    low, high = two_level_bootstrap(ours, theirs)
                    held[0] += found.low <= 0 <= found.high
                    held[1] += low <= 0 <= high
                crossed, bootstrap = (coverage(count, given.studies) for count in held)
                print(f"{seeds:5} {n:6} {spread:6}  {crossed:<20} {bootstrap}", flush=True)


if __name__ == "__main__":
    main()
