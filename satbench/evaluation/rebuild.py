"""Attacks from what a run says of them."""

from collections.abc import Sequence

from satbench.attacks import Attack, build_attack, is_own
from satbench.attacks.base import info_of
from satbench.errors import BadInput
from satbench.evaluation.search import WRAPPERS
from satbench.results.attack_info import AttackInfo


def rebuild(info: AttackInfo, given: Sequence[Attack] = ()) -> Attack | None:
    """The attack of this id: one of `given`, or one of satbench's own from its name and parameters.

    None where there is none of this id. Nothing is imported for an attack from outside, because a run folder must not
    decide which code runs.
    """
    for attack in given:
        if info_of(attack).id == info.id:
            return attack
    try:
        if info.wraps is not None:
            inner = rebuild(info.wraps, given)
            if inner is None:
                return None
            built: Attack = WRAPPERS[info.name](inner, **info.params)
        elif is_own(info.name):
            built = build_attack(info.name, info.params)
        else:
            return None
    except (BadInput, KeyError, TypeError):
        return None
    return built if info_of(built).id == info.id else None
