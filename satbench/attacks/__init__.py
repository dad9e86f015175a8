"""Attacks by name, and how a command line spells one: `pgd` or `pgd:loss=margin,restarts=5`."""

import re
from collections.abc import Callable
from typing import Any

from satbench.attacks.base import Attack
from satbench.attacks.gradient import PGD, fgsm
from satbench.eps import parse_eps
from satbench.errors import BadInput
from satbench.lookup import pick


def autoattack(version: str = "standard", components: str = "") -> Attack:
    """AutoAttack; its package is imported at the first use, because it is slow to import."""
    from satbench.attacks.autoattack import AutoAttack

    return AutoAttack(version, components)


ATTACKS: dict[str, Callable[..., Attack]] = {"fgsm": fgsm, "pgd": PGD, "autoattack": autoattack}


def parse_attack(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of `NAME` or `NAME:key=value,key=value`; numbers become numbers, 2/255 included."""
    name, _, tail = text.partition(":")
    params: dict[str, Any] = {}
    for part in filter(None, tail.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise BadInput(f"attack {text!r}: {part!r} is not key=value; write pgd:steps=20,loss=margin")
        params[key.strip()] = _value(key.strip(), value.strip())
    return name, params


def build_attack(name: str, params: dict[str, Any]) -> Attack:
    """The named attack; raises `BadInput` for an unknown name, key or value."""
    return pick(ATTACKS, name, "attack", **params)  # type: ignore[no-any-return]


def _value(key: str, text: str) -> Any:
    if key == "step_size":
        return parse_eps(text, "L2")
    return int(text) if re.fullmatch("-?[0-9]+", text) else text


__all__ = ["ATTACKS", "PGD", "Attack", "build_attack", "fgsm", "parse_attack"]
