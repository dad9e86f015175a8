"""Attacks by name, and how a command line spells one.

`pgd`, or `pgd:loss=margin,restarts=5` with parameters; `foolbox:LinfDeepFoolAttack,steps=20`; one's own as
`package.module:callable:key=value`.
"""

import importlib
from collections.abc import Callable
from typing import Any

from satbench.attacks.base import Attack
from satbench.core.lookup import find, pick
from satbench.core.tables import ATTACKS
from satbench.specs.names import FOOLBOX


def build_attack(name: str, params: dict[str, Any]) -> Attack:
    """The attack of a name as `parse_attack` gives it; raises `BadInput` for an unknown name, key or value."""
    kind, colon, rest = name.partition(":")
    if kind == FOOLBOX:
        from satbench.attacks.foolbox import Foolbox
        from satbench.attacks.foreign import UNIT

        stated = dict(params)
        return Foolbox(rest, unit=stated.pop("unit", UNIT), stated=stated)
    if colon:
        from satbench.attacks.adaptive import adaptive

        return adaptive(name, params)
    return pick({name: _factory(name)}, name, "attack", **params)  # type: ignore[no-any-return]


def is_own(name: str) -> bool:
    """Whether the name is one of the table or foolbox's, so that building it imports no code of the user's."""
    return name in ATTACKS or name.partition(":")[0] == FOOLBOX


def attack_parameters(name: str) -> list[str]:
    """The keys that the named attack takes; raises `BadInput` for an unknown name."""
    import inspect

    kind, colon, rest = name.partition(":")
    if kind == FOOLBOX:
        from satbench.attacks.foolbox import parameters_of

        return parameters_of(rest)
    if colon:
        from satbench.attacks import adaptive

        return adaptive.parameters_of(name)
    return list(inspect.signature(_factory(name)).parameters)


def _factory(name: str) -> Callable[..., Attack]:
    module, _, attribute = find(ATTACKS, name, "attack").partition(":")
    factory: Callable[..., Attack] = getattr(importlib.import_module(f"satbench.attacks.{module}"), attribute)
    return factory
