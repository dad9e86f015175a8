"""Turns what a command line spells into attacks and threats; comma lists become their product."""

import itertools
from collections.abc import Sequence
from typing import Any

from satbench.attacks import Attack, attack_parameters, build_attack, parse_attack
from satbench.errors import BadInput
from satbench.threat import ThreatModel


def threats(norm: str, eps: str) -> list[ThreatModel]:
    """Every norm at every eps of two comma lists, such as ("Linf", "4/255,8/255"), without repeats."""
    pairs = itertools.product(_items(norm, "norm"), _items(eps, "eps"))
    return list(dict.fromkeys(ThreatModel.parse(one, radius) for one, radius in pairs))


def attacks(names: Sequence[str], steps: str | None, restarts: str | None) -> list[Attack]:
    """The named attacks, once for each of `steps` and `restarts` (comma lists) where an attack has them.

    A name may carry parameters, `pgd:loss=margin`; one that it states itself is not swept. Raises `BadInput` for an
    unknown name, key or value, and for steps or restarts that no named attack takes.
    """
    swept = {"steps": _numbers(steps, "steps"), "restarts": _numbers(restarts, "restarts")}
    swept = {key: values for key, values in swept.items() if values}
    used: set[str] = set()
    built: list[Attack] = []
    for text in names:
        name, stated = parse_attack(text)
        known = attack_parameters(name)
        free = [key for key in swept if key in known and key not in stated]
        used.update(free)
        for values in itertools.product(*(swept[key] for key in free)):
            params: dict[str, Any] = {**stated, **dict(zip(free, values, strict=True))}
            built.append(build_attack(name, params))
    for key in swept:
        if key not in used:
            raise BadInput(f"--{key} is given, but none of {', '.join(names)} takes it or leaves it open")
    return list(dict.fromkeys(built))


def _items(text: str, option: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise BadInput(f"--{option} {text!r} has an empty item; separate values by single commas")
    return items


def _numbers(text: str | None, option: str) -> list[int]:
    if text is None:
        return []
    try:
        return [int(item) for item in _items(text, option)]
    except ValueError:
        raise BadInput(f"--{option} {text!r} is not a list of whole numbers; write 10,50") from None
