"""Attacks by name, and how a command line spells one.

`pgd`, or `pgd:loss=margin,restarts=5` with parameters; `foolbox:LinfDeepFoolAttack,steps=20`; one's own as
`package.module:callable:key=value`.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any

from satbench.attacks.base import Attack
from satbench.core.eps import parse_eps
from satbench.core.errors import BadInput
from satbench.core.lookup import find, keywords, literal, pick

# where each lies in this package, imported at its first use: some are slow to import
ATTACKS = {
    "fgsm": "gradient:fgsm",
    "pgd": "gradient:PGD",
    "sat-pgd": "gradient:sat_pgd",
    "autoattack": "autoattack:AutoAttack",
    "apgd-ce": "autoattack:apgd_ce",
    "apgd-dlr": "autoattack:apgd_dlr",
    "apgd-t": "autoattack:apgd_t",
    "fab": "autoattack:fab",
    "fab-t": "autoattack:fab_t",
    "square": "autoattack:square",
    "cascade": "cascade:Cascade",
    "rapid": "rapid:Rapid",
    "knn-guided": "knn_guided:KNNGuided",
}
FOOLBOX = "foolbox"


def parse_attack(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of an attack as the command line spells it.

    The name is `pgd`, `foolbox:LinfPGD` or `package.module:callable`. Values are whole numbers, decimals, fractions
    such as 2/255, true, false, none and names.
    """
    name, colon, tail = text.partition(":")
    if name == FOOLBOX or (colon and name not in ATTACKS and re.match(r"[^=,:]*(?:$|[,:])", tail)):
        second, tail = re.fullmatch(r"([^,:]*)[,:]?(.*)", tail, re.DOTALL).groups()  # type: ignore[union-attr]
        name = f"{name}:{second}"
    if text.endswith(":"):
        bare = text.rstrip(":")
        advice = f"write {bare}" if bare in ATTACKS or ":" in bare else "give package.module:callable or foolbox:NAME"
        raise BadInput(f"attack {text!r} ends with a colon; {advice}, or parameters: pgd:steps=20")
    given = keywords(tail, f"attack {text!r}", "pgd:steps=20,loss=margin")
    return name, {key: _value(key, value) for key, value in given.items()}


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


def _value(key: str, text: str) -> Any:
    if key == "step_size" and text != "sat":
        return parse_eps(text, "L2")
    if re.fullmatch("-?[0-9]+/[0-9]*[1-9][0-9]*", text):
        numerator, denominator = text.split("/")
        return int(numerator) / int(denominator)
    return literal(text)
