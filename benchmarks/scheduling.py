"""How much of their time many workers compute, simulated from recorded times of images.

    python benchmarks/scheduling.py [--network digits-relu] [--eps 0.2] [--images 50000] [--workers 8,64,512]

PGD-50, rapid and AutoAttack standard attack the 450 test images of digits, an ensemble stage by stage. An image's time
in a stage is its counted passes times the measured seconds a pass of that stage. A run of more images draws from these
with replacement. In `two-point` an image that stands costs 8 to 50 times one that breaks, and AutoAttack's stages have
the pass counts of its source, 204, 1,829, 2,729 and 5,004 an image that stands.

The scheduler of `satbench.evaluation` is simulated on them: the images that stand after a step (a radius, a stage)
enter the next one, in order; a batch is free as soon as its images are known, the last one of a step when the step
before has ended; an idle worker takes the first free batch. Printed is the efficiency, all work divided by workers
times the time of the last one, for batches of one size (`fixed`), for `evaluation.cutting.cut` as evaluations use it,
and for units of 64. `--order` also
compares the order in which batches are taken. Reading, claiming and writing a batch is not simulated.
"""

import argparse
import heapq
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from satbench.attacks import build_attack
from satbench.attacks.autoattack import AutoAttack
from satbench.attacks.base import Attack, stages_of, unit_of
from satbench.data import Images, load_images
from satbench.evaluation import evaluate
from satbench.evaluation.cutting import cut
from satbench.results.store import read_timing
from satbench.zoo import Loaded, load

BATCH = 256
Rule = Callable[[Sequence[int], int, int | None], list[Sequence[int]]]  # rows, images, unit -> batches
RULES: dict[str, Rule] = {
    "fixed": lambda rows, images, unit: [
        rows[start : start + (unit or BATCH)] for start in range(0, len(rows), unit or BATCH)
    ],
    "cut": lambda rows, images, unit: cut(rows, images, unit or BATCH),
    "cut, units of 64": lambda rows, images, unit: cut(rows, images, 64 if unit else BATCH),
}
ORDERS: dict[str, Callable[[int, int, int, int], tuple[int, ...]]] = {  # of (chain, step, batch, when it became free)
    "first free first": lambda chain, step, batch, freed: (freed, batch, chain),
    "deepest first": lambda chain, step, batch, freed: (-step, batch, chain),
    "shallowest first": lambda chain, step, batch, freed: (step, batch, chain),
    "chain by chain": lambda chain, step, batch, freed: (chain, freed),
}


@dataclass(frozen=True)
class Step:
    """A stage at a radius: the rows that enter it, the seconds of every image of the run, and the attack's unit."""

    rows: np.ndarray
    seconds: np.ndarray
    unit: int | None


Chain = list[Step]


@dataclass(frozen=True)
class Recorded:
    """What each image of a stage took (N,), 0 where it did not enter, and whether it stood afterwards."""

    entered: np.ndarray
    seconds: np.ndarray
    stood: np.ndarray
    unit: int | None


def record(network: Loaded, images: Images, attack: Attack, eps: str) -> list[Recorded]:
    """Attack the images stage by stage, each stage on what the ones before left standing."""
    standing, recorded = np.arange(len(images)), []
    for stage in stages_of(attack):
        with tempfile.TemporaryDirectory() as out:
            run = evaluate(
                network, out, stage, norm="Linf", eps=eps, dataset=images.take(standing.tolist()), trust=False
            )
            timing = read_timing(run)
            records = run.records.set_index("sample_id").loc[[images.ids[row] for row in standing]]
        passes = (records["forward"] + records["backward"]).to_numpy()
        a_pass = timing["seconds"].sum() / max(1, passes.sum())
        right = (records["clean_prediction"] == records["label"]).to_numpy()
        seconds = np.zeros(len(images))
        seconds[standing] = passes * a_pass
        entered, stood = (np.zeros(len(images), dtype=bool) for _ in range(2))
        entered[standing[right]] = True
        stood[standing[~records["broken"].to_numpy()]] = True
        recorded.append(Recorded(entered, seconds, stood, unit_of(stage)))
        standing = np.flatnonzero(stood)
    return recorded


def enlarged(recorded: Sequence[Recorded], images: int, seed: int) -> Chain:
    """A run of so many images, drawn from the recorded ones."""
    drawn = np.random.default_rng(seed).integers(0, len(recorded[0].seconds), images)
    return [Step(np.flatnonzero(one.entered[drawn]), one.seconds[drawn], one.unit) for one in recorded]


def two_point(stages: Sequence[tuple[float, float, int | None]], images: int, seed: int) -> Chain:
    """Stages as (seconds of an image that stands, share that stands after it, unit); nine in ten images enter."""
    rng = np.random.default_rng(seed)
    place, before, chain = rng.random(images), 0.9, []
    for seconds, share, unit in stages:
        cheap = seconds / rng.uniform(8, 50, images)
        chain.append(Step(np.flatnonzero(place < before), np.where(place < share, seconds, cheap), unit))
        before = share
    return chain


def simulate(chains: Sequence[Chain], images: int, workers: int, rule: Rule, order: str) -> tuple[float, int]:
    """Efficiency of the workers, and the number of batches."""
    key = ORDERS[order]
    costs: dict[tuple[int, int], list[float]] = {}
    needs: dict[tuple[int, int], list[int]] = {}  # how many batches of the step before must have ended
    for chain, steps in enumerate(chains):
        ends: list[int] = []  # last rows of the batches of the step before
        for step, one in enumerate(steps):
            batches = rule(one.rows.tolist(), images, one.unit)
            costs[chain, step] = [float(one.seconds[list(batch)].sum()) for batch in batches]
            needs[chain, step] = [bisect(ends, batch[-1]) for batch in batches] if step else [0] * len(batches)
            if step and batches:  # it may be partial, and is not known to be the last before the step ends
                needs[chain, step][-1] = len(ends)
            ends = [batch[-1] for batch in batches]
    released: dict[tuple[int, int], int] = defaultdict(int)
    ended: dict[tuple[int, int], set[int]] = defaultdict(set)
    prefix: dict[tuple[int, int], int] = defaultdict(int)
    free: list[tuple[tuple[int, ...], tuple[int, int], int]] = []
    running: list[tuple[float, tuple[int, int], int]] = []
    now, idle, freed = 0.0, workers, 0

    def release(place: tuple[int, int]) -> None:
        before = prefix[place[0], place[1] - 1]
        while released[place] < len(costs[place]) and needs[place][released[place]] <= before:
            batch = released[place]
            heapq.heappush(free, (key(*place, batch, freed), place, batch))
            released[place] += 1

    for place in costs:
        if place[1] == 0:
            release(place)
    while free or running:
        while free and idle:
            _, place, batch = heapq.heappop(free)
            heapq.heappush(running, (now + costs[place][batch], place, batch))
            idle -= 1
        now, place, batch = heapq.heappop(running)
        idle, freed = idle + 1, freed + 1
        ended[place].add(batch)
        while prefix[place] in ended[place]:
            prefix[place] += 1
        if (place[0], place[1] + 1) in costs:
            release((place[0], place[1] + 1))
    work = sum(map(sum, costs.values()))
    return work / (workers * now), sum(map(len, costs.values()))


def bisect(ends: Sequence[int], row: int) -> int:
    """How many batches, whose last rows are `ends`, must have ended before it is known what stands up to `row`."""
    return int(np.searchsorted(ends, row)) + 1


def autoattack(share: float, unit: int = 250) -> list[tuple[float, float, int | None]]:
    return [
        (204, share + 0.03, unit),
        (1829, share + 0.002, unit),
        (2729, share, unit),
        (5004, share, unit),
    ]


def cases(network: Loaded, images: Images, eps: str, count: int) -> dict[str, list[Chain]]:
    made: dict[str, list[Chain]] = {}
    attacks = {"PGD-50": build_attack("pgd", {"steps": 50}), "rapid": build_attack("rapid", {})}
    for name, attack in {**attacks, "AutoAttack": AutoAttack()}.items():
        recorded = record(network, images, attack, eps)
        last = recorded[-1]
        total = sum(one.seconds for one in recorded)
        ratio = total[last.stood].mean() / total[recorded[0].entered & ~last.stood].mean()
        print(
            f"recorded {name}: n {len(images)}, {last.stood.mean():.2f} stand, each takes "
            f"{1e3 * total[last.stood].mean():.1f} ms, {ratio:.1f} times one that breaks"
        )
        made[f"{name}, recorded"] = [enlarged(recorded, count, 0)]
        made[f"{name}, recorded, 3 chains"] = [enlarged(recorded, count, seed) for seed in range(3)]
    made["one step, two-point"] = [two_point([(101, 0.5, None)], count, 0)]
    made["3 radii, two-point"] = [two_point([(101, share, None) for share in (0.7, 0.5, 0.3)], count, 0)]
    made["AutoAttack, two-point"] = [two_point(autoattack(0.45), count, 0)]
    made["AutoAttack, two-point, 3 chains"] = [two_point(autoattack(0.45), count, seed) for seed in range(3)]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="digits-relu")
    parser.add_argument("--eps", default="0.2")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--workers", default="8,64,512")
    parser.add_argument("--order", action="store_true", help="also compare the orders in which batches are taken")
    options = parser.parse_args()
    workers = [int(one) for one in options.workers.split(",")]
    made = cases(load(options.network), load_images("digits", "test"), options.eps, options.images)
    orders = list(ORDERS) if options.order else ["first free first"]
    print(f"\nefficiency at {options.workers} workers, {options.images:,} images")
    for name, chains in made.items():
        has_units = any(step.unit for chain in chains for step in chain)
        for rule in RULES if has_units else ("fixed", "cut"):
            for order in orders:
                found = [simulate(chains, options.images, count, RULES[rule], order) for count in workers]
                figures = "  ".join(f"{efficiency:.3f}" for efficiency, _ in found)
                print(f"{name:34} {rule:17} {order:17} {found[0][1]:5} batches  {figures}")


if __name__ == "__main__":
    main()
