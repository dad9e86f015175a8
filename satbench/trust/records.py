"""Checks of a finished run's records: they cost no pass.

Each is called with the records and what is known of each attack in them, by its id.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, pairwise
from typing import Any, TypeAlias

import pandas as pd

from satbench.core.eps import format_eps
from satbench.results.metrics import clean_table
from satbench.specs.attack import AttackInfo, count
from satbench.trust.seen import Seen, rate, surely_above, surely_below
from satbench.trust.strength import LEFT, LUCK, better_by

Infos: TypeAlias = Mapping[str, AttackInfo]
ADDED = 0.01  # share of images that black-box attacks may add to white-box ones
LATE = 0.05  # share of images that may fall in the last tenth of an attack
EFFORT = ("steps", "restarts", "init")  # attacks that differ in these alone can be compared
LONG = 10  # steps from which an attack should be done before its last tenth
HALFWAY = 0.1  # share of images that must have fallen, and must stand, for a curve to have room to fall further
FLAT = 0.1  # share of the standing images that at least fall while the radius doubles
GREY = 0.5  # the Linf radius from which every image can become the same grey one


def sound(records: pd.DataFrame, attacks: Infos) -> Seen:
    """What was wrong as it is counts as broken, and examples keep to ball and box."""
    mistaken = (records["clean_prediction"] != records["label"]) & ~records["broken"]
    n, outside = len(records), int((records["violation"] != "").sum())
    if mistaken.any():
        return Seen(
            "fail", f"{int(mistaken.sum())} of {n} records call an image robust that is misclassified as it is."
        )
    said = f"The attacks returned examples outside ball or box in {rate(outside, n)} records"
    if surely_above(outside, n, 0.005):
        return Seen("suspicious", f"{said}; those images count as robust, so the figure may be too high.")
    return Seen("pass", f"{said}, and every image that is wrong as it is counts as broken.")


def growing_radius(records: pd.DataFrame, attacks: Infos) -> Seen | None:
    """A larger radius never helps the defender, breaks further images, and at Linf 0.5 breaks nearly all.

    Images that a smaller radius broke are carried along without an attack; they say nothing about the larger one.
    """
    tried = records[~_carried(records)]
    radii = records.groupby(["attack", "norm"])["eps"].nunique()
    wide = records[(records["norm"] == "Linf") & (records["eps"] >= GREY)]
    if radii.max() < 2 and wide.empty:
        return None
    for (attack, norm), table in _wide(tried, ["attack", "norm"], "eps"):
        for smaller, larger in pairwise(table.columns):
            lost, gained = _apart(table[smaller], table[larger])
            if better_by(lost, gained, LUCK * len(table)):
                return Seen(
                    "suspicious",
                    f"{rate(lost, len(table))} images fall to {attack} at {norm} {format_eps(smaller)} but not at "
                    f"{format_eps(larger)}.",
                    "autoattack",
                )
    for (attack, norm), table in _wide(records, ["attack", "norm"], "eps"):
        for smaller, larger in combinations(table.columns, 2):
            stood, n = ~table[smaller], len(table)
            fell = int((stood & table[larger]).sum())
            first = int((table[smaller] & _right(records, table)).sum())
            halfway = min(first, int(stood.sum())) >= HALFWAY * n
            if larger >= 2 * smaller and halfway and surely_below(fell, int(stood.sum()), FLAT):
                return Seen(
                    "suspicious",
                    f"{attack} breaks {rate(first, n)} images at {norm} {format_eps(smaller)}, but only "
                    f"{rate(fell, int(stood.sum()))} of the others at {format_eps(larger)}: the curve is flat.",
                    "square",
                )
    for (attack, eps), rows in wide.groupby(["attack", "eps"]):
        stand, n = int((~rows["broken"]).sum()), len(rows)
        if surely_above(stand, n, LEFT):
            return Seen(
                "suspicious",
                f"{rate(stand, n)} images stand against {attack} at Linf {format_eps(eps)}, where every image can "
                "become the same grey one.",
                "square",
            )
    return Seen("pass", f"Accuracy falls with the radius in all {len(radii)} pairs of attack and norm.")


def more_effort(records: pd.DataFrame, attacks: Infos) -> Seen | None:
    """Of attacks that differ in steps and restarts alone, the longer one is not weaker."""
    kinds = records.assign(kind=records["attack"].map({id: _kind(info) for id, info in attacks.items()}))
    compared = 0
    for (_, norm, eps), table in _wide(kinds, ["kind", "norm", "eps"], "attack"):
        for weaker in table.columns:
            for stronger in table.columns:
                if not _less(_effort(attacks[weaker]), _effort(attacks[stronger])):
                    continue
                compared += 1
                lost, gained = _apart(table[weaker], table[stronger])
                if better_by(lost, gained, LUCK * len(table)):
                    return Seen(
                        "suspicious",
                        f"{rate(lost, len(table))} images fall to {weaker} but not to {stronger} at {norm} "
                        f"{format_eps(eps)}, {gained} the other way round.",
                        "autoattack",
                    )
    if not compared:
        return None
    return Seen("pass", f"In {compared} pairs of attacks, more steps or restarts never helped the defender.")


def converged(records: pd.DataFrame, attacks: Infos) -> Seen | None:
    """An attack that follows gradients and judges every iterate no longer breaks images when it stops."""
    seen = []
    for (attack, norm, eps), rows in records.groupby(["attack", "norm", "eps"], sort=True):
        passes = _passes(attacks[attack])
        if passes is None:
            continue
        late, n = int((rows["broken"] & (rows["fell_at"] > 0.9 * passes)).sum()), len(rows)
        seen.append(f"{rate(late, n)} in {attack} at {norm} {format_eps(eps)}")
        if surely_above(late, n, LATE):
            return Seen(
                "suspicious",
                f"Images that fell in the last tenth of an attack: {seen[-1]}; it was not done.",
                "autoattack",
            )
    return Seen("pass", f"Images that fell in the last tenth of an attack: {'; '.join(seen)}.") if seen else None


def _passes(attack: AttackInfo) -> int | None:
    """Forward passes of an attack that ascends one loss and judges every iterate; None for another, or a short one."""
    params, (steps, restarts) = attack.params, _effort(attack)
    targeted = "targeted" in str(params.get("loss"))
    if attack.kind != "gradient" or attack.wraps or params.get("keep") != "best" or targeted or steps < LONG:
        return None
    return (steps + 1) * restarts * (count(params, "eot") or 1)


def black_box_stage(records: pd.DataFrame, attacks: Infos) -> Seen | None:
    """In an ensemble, the stages without gradients add next to nothing to those that follow gradients."""
    black = [stage.id for attack in attacks.values() for stage in attack.stages if stage.is_black_box]
    staged = records.groupby(["attack", "norm", "eps"]).filter(
        lambda rows: bool(rows["stage"].isin(black).any()) and bool((rows["backward"] > 0).any())
    )
    return _added(
        (attack, norm, eps, int((rows["broken"] & rows["stage"].isin(black)).sum()), len(rows))
        for (attack, norm, eps), rows in staged.groupby(["attack", "norm", "eps"])
    )


def black_box_attack(records: pd.DataFrame, attacks: Infos) -> Seen | None:
    """Attacks without gradients add next to nothing to white-box attacks on the same images."""
    return _added(_alone(records, attacks))


def _alone(records: pd.DataFrame, attacks: Infos) -> Iterator[tuple[str, str, float, int, int]]:
    passes = records.groupby("attack")[["forward", "backward"]].sum()
    took_gradients = passes["backward"] > 0
    known = pd.Series({id: attacks[id].is_black_box for id in passes.index}, dtype=bool)
    foreign = pd.Series({id: attacks[id].kind == "foreign" for id in passes.index}, dtype=bool)
    black = passes.index[(passes["forward"] > 0) & (known | foreign & ~took_gradients)]
    white = passes.index[took_gradients & ~known]
    for (norm, eps), table in _wide(records, ["norm", "eps"], "attack"):
        without, along = table.columns.intersection(black), table.columns.intersection(white)
        if len(without) and len(along):
            added = table[without].any(axis=1) & ~table[along].any(axis=1)
            yield " and ".join(without), norm, eps, int(added.sum()), len(table)


def _added(found: Iterator[tuple[str, str, float, int, int]]) -> Seen | None:
    worst = max(found, key=lambda one: one[3] / one[4], default=None)
    if worst is None:
        return None
    attack, norm, eps, added, n = worst
    said = (
        f"At {norm} {format_eps(eps)}, the search without gradients in {attack} breaks {rate(added, n)} images that "
        "white-box attacks left"
    )
    if surely_above(added, n, ADDED):
        return Seen(
            "suspicious",
            f"{said}: gradients hide examples that exist, and there may be more.",
            "autoattack:version=plus",
        )
    return Seen("pass", f"{said}.")


def _carried(records: pd.DataFrame) -> "pd.Series[bool]":
    """Rows of images that a smaller radius had broken, at no pass."""
    return records["broken"] & (records["forward"] == 0) & (records["clean_prediction"] == records["label"])


def _right(records: pd.DataFrame, table: pd.DataFrame) -> "pd.Series[bool]":
    """Which samples of a table are classified correctly without an attack."""
    return clean_table(records).loc[table.index]


def _kind(attack: AttackInfo) -> str:
    """Equal for attacks that differ in `EFFORT` alone."""
    rest = {key: value for key, value in attack.settings.items() if key not in EFFORT}
    return json.dumps([[layer.name for layer in attack.layers], rest], sort_keys=True)


def _effort(attack: AttackInfo) -> tuple[int, int]:
    """Steps and restarts, 1 where the attack has no such parameter."""
    return count(attack.settings, "steps") or 1, count(attack.settings, "restarts") or 1


def _less(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a != b and a[0] <= b[0] and a[1] <= b[1]


def _wide(records: pd.DataFrame, groups: list[str], across: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """For each group, which samples (rows) are broken in each value of `across` (columns), where all were tried."""
    for key, rows in records.groupby(groups):
        yield (
            key,
            rows.pivot_table(index="sample_id", columns=across, values="broken", aggfunc="max").dropna().astype(bool),
        )


def _apart(weaker: "pd.Series[bool]", stronger: "pd.Series[bool]") -> tuple[int, int]:
    return int((weaker & ~stronger).sum()), int((stronger & ~weaker).sum())


RECORD_CHECKS: dict[str, Callable[[pd.DataFrame, Infos], Seen | None]] = {
    "records": sound,
    "records, growing radius": growing_radius,
    "records, more effort": more_effort,
    "records, convergence": converged,
    "records, black-box stage": black_box_stage,
    "records, black-box attack": black_box_attack,
}
