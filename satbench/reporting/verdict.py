"""Activations compared in words, on the same images and between models of the same seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import TypeAlias

import numpy as np
import pandas as pd

from satbench.core.errors import BadInput
from satbench.reporting.headline import headline_threats
from satbench.reporting.lines import model_lines
from satbench.reporting.names import display_name, short_names, strength, threat_name
from satbench.reporting.rounding import inward, outward
from satbench.reporting.summary import Measured, join_runs
from satbench.results.metrics import WORST, Z95, Paired, clean_table, mcnemar, paired_interval, robust_table
from satbench.results.schema import ModelInfo
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo, Strength

NOISE = "inside the noise"
RULE_NOTE = (
    'A difference is called "higher" or "lower" only when its 95% interval over images excludes 0 (one seed: Tango\'s '
    "score interval of paired rates; several: normal approximation on the per-image difference, averaged over seeds), "
    "the per-seed accuracies do not overlap, and the exact McNemar test rejects at 0.05 for at least half of the "
    "seeds. "
    "Each interval stands for itself: none is corrected for the number of comparisons."
)

Family = tuple[str, str, str, str, str]  # images, recipe, method, trained_for, `ModelInfo.family`
Outcomes: TypeAlias = "pd.Series[bool]"  # by sample id


@dataclass(frozen=True)
class Comparison:
    """One activation against the reference on the same `n` images; accuracies are fractions, one a seed.

    `difference` is activation minus reference, averaged over seeds; `low` and `high` bound it over images; `pairs`
    holds the McNemar test of each seed.
    """

    where: str
    quantity: str
    activation: str
    reference: str
    seeds: tuple[int | None, ...]
    n: int
    difference: float
    low: float
    high: float
    values: tuple[float, ...]
    reference_values: tuple[float, ...]
    pairs: tuple[Paired, ...]

    @property
    def interval_decides(self) -> bool:
        """Whether the interval over images excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def seeds_decide(self) -> bool:
        """Whether every seed of one group lies above every seed of the other."""
        apart = min(self.values) > max(self.reference_values), max(self.values) < min(self.reference_values)
        return any(apart)

    @property
    def tests_decide(self) -> bool:
        """Whether the exact test rejects at 0.05 for at least half of the seeds."""
        return 2 * sum(pair.p_value < 0.05 for pair in self.pairs) >= len(self.pairs)

    @property
    def verdict(self) -> str:
        """`higher`, `lower` or `inside the noise`."""
        if not (self.interval_decides and self.seeds_decide and self.tests_decide):
            return NOISE
        return "higher" if self.difference > 0 else "lower"

    def sentence(self) -> str:
        """The comparison in words, with difference, interval, n and seeds."""
        points = f"{inward(self.difference)} points, 95% interval {outward(self.low, self.high)}"
        counts = f"n = {self.n} images, {len(self.seeds)} {'seed' if len(self.seeds) == 1 else 'seeds'} each"
        what = f"{self.where}: {self.quantity} of {self.activation}"
        below = sum(pair.p_value < 0.05 for pair in self.pairs)
        tests = f"McNemar p < 0.05 in {below} of {len(self.pairs)}"
        if self.verdict == NOISE:
            return f"{what} against {self.reference} is {NOISE} ({self._reason()}): {points} ({counts}; {tests})."
        alone = " One seed cannot show what another seed would give." if len(self.seeds) == 1 else ""
        return f"{what} is {self.verdict} than that of {self.reference}: {points} ({counts}; {tests}).{alone}"

    def _reason(self) -> str:
        reasons = []
        if not self.interval_decides:
            reasons.append("the interval over images includes 0")
        if not self.seeds_decide:
            same = (
                "the two models are equally accurate" if len(self.seeds) == 1 else "the seeds of the two groups overlap"
            )
            reasons.append(same)
        if not self.tests_decide:
            reasons.append("the exact test does not reject")
        return " and ".join(reasons)


def compare(runs: Sequence[Run], reference: str = "relu") -> list[str]:
    """Sentences that compare every other activation with the reference, and say what could not be compared.

    Compared are models that differ in activation alone: same data, recipe, settings, threat trained for, and seed.
    Networks without a recipe are left out, because it is not known in what else they differ.
    """
    return [item if isinstance(item, str) else item.sentence() for item in _all(runs, reference)]


def comparisons(runs: Sequence[Run], reference: str = "relu") -> list[Comparison]:
    """What `compare` puts into words: clean accuracy, the largest PGD run and the strongest evaluation, each threat."""
    return [item for item in _all(runs, reference) if isinstance(item, Comparison)]


def _all(runs: Sequence[Run], reference: str) -> list[Comparison | str]:
    families: dict[Family, dict[str, list[Measured]]] = {}
    joined = join_runs(runs)
    lines = model_lines(measured.model for measured in joined)
    for measured in joined:
        model = measured.model
        family = (measured.images, model.recipe or "", model.method or "", _trained_for(model), model.family or "")
        if model.activation and model.recipe:
            families.setdefault(family, {}).setdefault(model.activation, []).append(measured)
    found: list[Comparison | str] = []
    for family, activations in sorted(families.items()):
        where = _where(family)
        mixed = [name for name, group in sorted(activations.items()) if len({lines[one.model] for one in group}) > 1]
        doubled = [name for name, group in sorted(activations.items()) if len(_by_seed(group)) < len(group)]
        if mixed:
            found.append(f"{where}: nothing compared, the networks with {mixed[0]} are not seeds of one model.")
        elif doubled:
            found.append(f"{where}: nothing compared, the networks with {doubled[0]} cannot be paired by seed.")
        elif reference not in activations:
            found.append(f"{where}: nothing compared, no model with {reference} was measured.")
        else:
            for name in sorted(set(activations) - {reference}):
                found += _against(where, name, _by_seed(activations[name]), reference, _by_seed(activations[reference]))
    return found


def _where(family: Family) -> str:
    images, recipe, method, trained_for, _ = family
    model = ", ".join(filter(None, (recipe, method, f"trained for {trained_for}" if trained_for else "")))
    return images + (f" ({model})" if model else "")


def _trained_for(model: ModelInfo) -> str:
    return threat_name(model.trained_for.norm, model.trained_for.eps) if model.trained_for else ""


def _by_seed(group: Sequence[Measured]) -> dict[int | None, Measured]:
    return {measured.model.seed: measured for measured in group}


def _against(
    where: str, name: str, ours: Mapping[int | None, Measured], reference: str, theirs: Mapping[int | None, Measured]
) -> list[Comparison | str]:
    seeds = sorted(set(ours) & set(theirs), key=lambda seed: -1 if seed is None else seed)
    if not seeds:
        return [f"{where}: {name} and {reference} not compared, they have no seed in common."]
    pairs = {seed: (ours[seed], theirs[seed]) for seed in seeds}
    _check_same_images(where, pairs)

    shared = [_threats(pair[0]) & _threats(pair[1]) for pair in pairs.values()]
    measured_threats = set().union(*shared)
    headline = headline_threats(measured_threats, [measured.model.trained_for for measured in pairs[seeds[0]]])
    known = {id: info for pair in pairs.values() for one in pair for id, info in one.attacks.items()}
    shorts = short_names(known.values())
    asked: list[tuple[str, Sequence[int | None], Callable[[Measured], Outcomes]]] = [("clean accuracy", seeds, _clean)]
    for norm, eps in [*sorted(headline), *sorted(measured_threats - headline)]:
        for members, shared_by in _headline_attacks(pairs, known, norm, eps):
            attack = display_name(members[0] if len(members) == 1 else WORST, members, shorts)
            quantity = f"robust accuracy at {threat_name(norm, eps)} under {attack}"
            asked.append((quantity, shared_by, partial(_robust, norm=norm, eps=eps, members=members)))
    found: list[Comparison | str] = []
    for quantity, chosen, outcomes in asked:
        tables = {seed: (outcomes(pairs[seed][0]), outcomes(pairs[seed][1])) for seed in chosen}
        found.append(_comparison(where, quantity, name, reference, tables))
    return found


def _check_same_images(where: str, pairs: Mapping[int | None, tuple[Measured, Measured]]) -> None:
    both = pd.concat([measured.records[["sample_id", "sample_hash"]] for pair in pairs.values() for measured in pair])
    hashes = both.groupby("sample_id")["sample_hash"].nunique()
    if (hashes > 1).any():
        sample = hashes.index[hashes > 1][0]
        raise BadInput(f"{where}: sample {sample} shows different images in two runs; compare runs on the same data")


def _threats(measured: Measured) -> set[tuple[str, float]]:
    return {(norm, float(eps)) for norm, eps in measured.records.groupby(["norm", "eps"]).groups}


def _clean(measured: Measured) -> Outcomes:
    return clean_table(measured.records)


def _robust(measured: Measured, norm: str, eps: float, members: Sequence[str]) -> Outcomes:
    records = measured.records[measured.records["attack"].isin(members)]
    return robust_table(records, norm, eps)[WORST]


def _headline_attacks(
    pairs: Mapping[int | None, tuple[Measured, Measured]], known: Mapping[str, AttackInfo], norm: str, eps: float
) -> list[tuple[tuple[str, ...], list[int | None]]]:
    """The PGD with the most images and the strongest evaluation, each with the seeds for which both models met it."""
    met = {seed: tuple(_met(measured, norm, eps) for measured in pair) for seed, pair in pairs.items()}
    shared = {seed: tuple(sorted(set(ours) & set(theirs))) for seed, (ours, theirs) in met.items()}
    sets: set[tuple[str, ...]] = {members for members in shared.values() if members}
    sets |= {(attack,) for members in shared.values() for attack in members}

    def seeds(members: tuple[str, ...]) -> list[int | None]:
        return [seed for seed, known in shared.items() if set(members) <= set(known)]

    def images(members: tuple[str, ...]) -> int:
        samples = [set(table[attack]) for seed in seeds(members) for table in met[seed] for attack in members]
        return len(set.intersection(*samples))

    def strongest(members: tuple[str, ...]) -> Strength:
        return strength(known[member] for member in members)

    def size_first(members: tuple[str, ...]) -> tuple[int, int, Strength, tuple[str, ...]]:
        return images(members), len(seeds(members)), strongest(members), members

    def strength_first(members: tuple[str, ...]) -> tuple[int, int, int, int, tuple[str, ...]]:
        return strongest(members)[0], len(members), len(seeds(members)), images(members), members

    usable = [members for members in sets if images(members)]
    single_pgd: list[tuple[str, ...]] = [
        members for members in usable if len(members) == 1 and known[members[0]].tier == "PGD"
    ]
    chosen: list[tuple[str, ...]] = [max(single_pgd, key=size_first)] if single_pgd else []
    if usable:
        best = max(usable, key=strength_first)
        chosen += [best] if best not in chosen else []
    return [(members, seeds(members)) for members in chosen]


def _met(measured: Measured, norm: str, eps: float) -> dict[str, set[str]]:
    """Which samples met which attack."""
    records = measured.records[(measured.records["norm"] == norm) & (measured.records["eps"] == eps)]
    return {str(attack): set(samples) for attack, samples in records.groupby("attack")["sample_id"]}


def _comparison(
    where: str,
    quantity: str,
    name: str,
    reference: str,
    tables: Mapping[int | None, tuple[Outcomes, Outcomes]],
) -> Comparison | str:
    indexes = [outcomes.index for pair in tables.values() for outcomes in pair]
    samples = reduce(pd.Index.intersection, indexes).sort_values()
    if not len(samples):
        return f"{where}: {quantity} of {name} and {reference} not compared, they have no image in common."
    ours = np.array([pair[0].loc[samples].to_numpy(bool) for pair in tables.values()])
    theirs = np.array([pair[1].loc[samples].to_numpy(bool) for pair in tables.values()])
    n, seeds = len(samples), len(tables)
    mean = int(ours.sum() - theirs.sum()) / (n * seeds) if ours.sum() != theirs.sum() else 0.0
    pairs = tuple(mcnemar(a.tolist(), b.tolist()) for a, b in zip(ours, theirs, strict=True))
    low, high = paired_interval(pairs[0]) if seeds == 1 else _normal_interval((ours.astype(int) - theirs).mean(axis=0))
    return Comparison(
        where=where,
        quantity=quantity,
        activation=name,
        reference=reference,
        seeds=tuple(tables),
        n=n,
        difference=mean,
        low=low,
        high=high,
        values=tuple(int(row.sum()) / n for row in ours),
        reference_values=tuple(int(row.sum()) / n for row in theirs),
        pairs=pairs,
    )


def _normal_interval(differences: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    """The normal 95% interval of a mean, inside [-1, 1]; one image alone bounds nothing."""
    n, mean = len(differences), float(differences.mean())
    half = Z95 * float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else 2.0
    return max(-1.0, mean - half), min(1.0, mean + half)
