"""Activations, and changes of a recipe, compared on the same images and between models of the same seed."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from satbench.core.errors import BadInput
from satbench.reporting.comparison import Comparison
from satbench.reporting.headline import headline_threats
from satbench.reporting.joined import Measured, join_runs
from satbench.reporting.lines import ModelLine, model_lines
from satbench.reporting.names import display_name, short_names, strength, threat_name
from satbench.results.crossed import crossed_difference, holm
from satbench.results.metrics import WORST, mcnemar, paired_interval
from satbench.results.schema import ModelInfo
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo, Strength

Family = tuple[str, str, str, str, str]  # images, recipe, method, trained_for, `ModelInfo.family`
Outcomes: TypeAlias = "pd.Series[bool]"  # by sample id
BySeed = Mapping[int | None, Measured]
Pairs = Mapping[int | None, tuple[Measured, Measured]]  # by seed
Shared = tuple[tuple[str, ...], list[int | None]]  # attacks, and the seeds for which both models met them
Chosen = Callable[[Pairs, Mapping[str, AttackInfo], str, float], list[Shared]]


def compare(runs: Sequence[Run], reference: str = "relu") -> list[str]:
    """Sentences that compare every other activation with the reference, and say what could not be compared.

    Compared are models that differ in activation alone: same data, recipe, settings, threat trained for, and seed; and
    models of one activation whose recipe was changed, with those of the recipe itself. Networks without a recipe are
    left out, because it is not known in what else they differ.
    """
    found, uncompared = comparisons(join_runs(runs), reference)
    return [*(one.sentence() for one in found), *uncompared]


def comparisons(
    networks: Sequence[Measured], reference: str, every: bool = False
) -> tuple[list[Comparison], list[str]]:
    """What `compare` puts into words: clean accuracy, the largest PGD run and the strongest evaluation, each threat.

    With `every`, clean accuracy and each attack at each threat. Also sentences on what could not be compared.
    """
    items = _all(networks, reference, _each_attack if every else _headlines)
    return [one for one in items if isinstance(one, Comparison)], [one for one in items if isinstance(one, str)]


def _all(networks: Sequence[Measured], reference: str, chosen: Chosen) -> list[Comparison | str]:
    families: dict[Family, dict[str, list[Measured]]] = {}
    lines = model_lines(measured.model for measured in networks)
    for measured in networks:
        model = measured.model
        family = (measured.images, model.recipe or "", model.method or "", _trained_for(model), model.family or "")
        if model.activation and model.recipe:
            families.setdefault(family, {}).setdefault(model.activation, []).append(measured)
    found: list[Comparison | str] = []
    usable: dict[Family, dict[str, BySeed]] = {}
    for family, activations in sorted(families.items()):
        where = _where(family)
        faults = {name: fault for name, group in sorted(activations.items()) if (fault := unpaired(group, lines))}
        found += [f"{where}: {name} not compared, the networks with {name} {fault}." for name, fault in faults.items()]
        known = {name: _by_seed(group) for name, group in activations.items() if name not in faults}
        if known:
            usable[family] = known
        if reference in known:
            for name in sorted(set(known) - {reference}):
                found += _against(where, name, known[name], reference, known[reference], chosen)
        elif reference not in faults and not _start(family, families):
            found.append(f"{where}: nothing compared, no model with {reference} was measured.")
    changes: list[Comparison | str] = []
    for family, changed in usable.items():
        if start := _start(family, usable):
            settings = family[1].removeprefix(start[1])
            for name in sorted(set(changed) & set(usable[start])):
                changes += _against(_where(start), name + settings, changed[name], name, usable[start][name], chosen)
    return [*_adjusted(found), *_adjusted(changes)]


def unpaired(group: Sequence[Measured], lines: Mapping[ModelInfo, ModelLine]) -> str:
    """Why networks of one recipe and activation cannot be compared seed by seed, "" where they can."""
    if len({lines[one.model] for one in group}) > 1:
        return "are not seeds of one model"
    return "" if len(_by_seed(group)) == len(group) else "cannot be paired by seed"


def _start(family: Family, families: Iterable[Family]) -> Family | None:
    """The family of the recipe whose settings were changed to give this one, as `digits-sat [epochs=2]` of digits-sat.

    None where there is no such family, or several.
    """
    recipe, bracket, _ = family[1].partition(" [")
    found = [one for one in families if bracket and one[0] == family[0] and one[1] == recipe]
    return found[0] if len(found) == 1 else None


def _adjusted(found: Sequence[Comparison | str]) -> list[Comparison | str]:
    """The comparisons with p-values adjusted over all with one place, quantity and reference."""
    together: dict[tuple[str, str, str], list[Comparison]] = {}
    for one in found:
        if isinstance(one, Comparison):
            together.setdefault((one.where, one.quantity, one.reference), []).append(one)
    adjusted = {
        one: replace(one, p_value=p_value, together=len(group))
        for group in together.values()
        for one, p_value in zip(group, holm([each.p_value for each in group]), strict=True)
    }
    return [adjusted[one] if isinstance(one, Comparison) else one for one in found]


def _where(family: Family) -> str:
    images, recipe, method, trained_for, _ = family
    model = ", ".join(filter(None, (recipe, method, f"trained for {trained_for}" if trained_for else "")))
    return images + (f" ({model})" if model else "")


def _recipe_of(model: ModelInfo) -> tuple[str, str]:
    return model.recipe or "", model.activation or ""


def _trained_for(model: ModelInfo) -> str:
    return threat_name(model.trained_for.norm, model.trained_for.eps) if model.trained_for else ""


def _by_seed(group: Sequence[Measured]) -> BySeed:
    return {measured.model.seed: measured for measured in group}


def _against(
    where: str, name: str, ours: BySeed, reference: str, theirs: BySeed, chosen: Chosen
) -> list[Comparison | str]:
    seeds = sorted(set(ours) & set(theirs), key=lambda seed: -1 if seed is None else seed)
    if not seeds:
        return [f"{where}: {name} and {reference} not compared, they have no seed in common."]
    pairs = {seed: (ours[seed], theirs[seed]) for seed in seeds}
    _check_same_images(where, pairs)

    shared = [pair[0].broken.keys() & pair[1].broken.keys() for pair in pairs.values()]
    measured_threats = set().union(*shared)
    headline = headline_threats(measured_threats, [measured.model.trained_for for measured in pairs[seeds[0]]])
    known = {id: info for pair in pairs.values() for one in pair for id, info in one.attacks.items()}
    shorts = short_names(known.values())
    found: list[Comparison | str] = []

    def add(quantity: str, used: Sequence[int | None], outcomes: Callable[[Measured], Outcomes], **under: Any) -> None:
        tables = {seed: (outcomes(pairs[seed][0]), outcomes(pairs[seed][1])) for seed in used}
        sizes = {seed: len(ours.index.intersection(theirs.index)) for seed, (ours, theirs) in tables.items()}
        most = _commonest(sizes.values())
        for seed in [seed for seed, size in sizes.items() if size < most]:
            del tables[seed]
            found.append(
                f"{where}: {quantity} of {name} and {reference} compared without seed {seed}, of which {sizes[seed]} "
                f"images were measured, and {most} of most seeds."
            )
        one = _comparison(where, quantity, name, reference, tables)
        if isinstance(one, Comparison):
            first, other = pairs[seeds[0]]
            of, against = _recipe_of(first.model), _recipe_of(other.model)
            one = replace(one, images=first.images, of=of, against=against, **under)
        found.append(one)

    add("clean accuracy", seeds, lambda measured: measured.clean)
    for norm, eps in [*sorted(headline), *sorted(measured_threats - headline)]:
        for members, shared_by in chosen(pairs, known, norm, eps):
            attack = display_name(members[0] if len(members) == 1 else WORST, members, shorts)
            quantity = f"robust accuracy at {threat_name(norm, eps)} under {attack}"
            robust = partial(Measured.robust, norm=norm, eps=eps, attacks=members)
            add(quantity, shared_by, robust, threat=(norm, eps), attacks=members)
    return found


def _check_same_images(where: str, pairs: Pairs) -> None:
    both = pd.concat([measured.records[["sample_id", "sample_hash"]] for pair in pairs.values() for measured in pair])
    hashes = both.groupby("sample_id")["sample_hash"].nunique()
    if (hashes > 1).any():
        sample = hashes.index[hashes > 1][0]
        raise BadInput(f"{where}: sample {sample} shows different images in two runs; compare runs on the same data")


def _each_attack(pairs: Pairs, known: Mapping[str, AttackInfo], norm: str, eps: float) -> list[Shared]:
    """Each attack, the weakest first, with the seeds for which both models met it."""
    met = {seed: tuple(measured.met(norm, eps) for measured in pair) for seed, pair in pairs.items()}
    attacks = {attack for ours, theirs in met.values() for attack in set(ours) & set(theirs)}
    ordered = sorted(attacks, key=lambda attack: (known[attack].strength, attack))
    return [((one,), [seed for seed, pair in met.items() if all(one in each for each in pair)]) for one in ordered]


def _headlines(pairs: Pairs, known: Mapping[str, AttackInfo], norm: str, eps: float) -> list[Shared]:
    """The PGD with the most images and the strongest evaluation, each with the seeds for which both models met it."""
    met = {seed: tuple(measured.met(norm, eps) for measured in pair) for seed, pair in pairs.items()}
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


def _commonest(sizes: Iterable[int]) -> int:
    """The commonest number, the smallest where several are as common."""
    counts = Counter(sizes)
    return max(counts, key=lambda size: (counts[size], -size))


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
    n, outcomes = len(samples), None
    if len(tables) == 1:
        pair = mcnemar(ours[0].tolist(), theirs[0].tolist())
        difference, (low, high), p_value = pair.difference, paired_interval(pair), pair.p_value
    elif n == 1:
        return f"{where}: {quantity} of {name} and {reference} not compared, they have one image in common."
    else:
        crossed = crossed_difference(ours, theirs)
        difference, low, high, p_value = crossed.difference, crossed.low, crossed.high, crossed.p_value
        outcomes = None if math.isinf(crossed.freedom) else (ours, theirs)
    return Comparison(
        where=where,
        quantity=quantity,
        activation=name,
        reference=reference,
        seeds=tuple(tables),
        n=n,
        difference=difference,
        low=low,
        high=high,
        values=tuple(int(row.sum()) / n for row in ours),
        reference_values=tuple(int(row.sum()) / n for row in theirs),
        p_value=p_value,
        outcomes=outcomes,
    )
