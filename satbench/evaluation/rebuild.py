"""Attacks from the reprs that name them in the records of a run."""

import ast
import importlib
from collections.abc import Sequence
from typing import Any

from satbench.attacks import Attack

# imported at their first use; an attack from outside is absent, because a run folder must not decide what is imported
CLASSES = {
    "PGD": "satbench.attacks.gradient:PGD",
    "AutoAttack": "satbench.attacks.autoattack:AutoAttack",
    "AutoAttackComponent": "satbench.attacks.autoattack:AutoAttackComponent",
    "Cascade": "satbench.attacks.cascade:Cascade",
    "Rapid": "satbench.attacks.rapid:Rapid",
    "Foolbox": "satbench.attacks.foolbox:Foolbox",
    "Bf16": "satbench.evaluation.search:Bf16",
    "Surrogate": "satbench.evaluation.search:Surrogate",
    "Transfer": "satbench.evaluation.search:Transfer",
}


def rebuild(text: str, given: Sequence[Attack] = ()) -> Attack | None:
    """The attack whose repr is `text`: one of `given`, or one of satbench's own with literal arguments.

    None when there is no such attack, also for a repr of satbench's own attacks that this version would not write.
    """
    for attack in given:
        if repr(attack) == text:
            return attack
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in CLASSES:
        return None
    module, _, name = CLASSES[call.func.id].partition(":")
    arguments: dict[str, Any] = {}
    for keyword in call.keywords:
        nested = keyword.arg == "attack"
        try:
            value = (
                rebuild(ast.get_source_segment(text, keyword.value) or "", given)
                if nested
                else ast.literal_eval(keyword.value)
            )
        except ValueError:
            return None
        if nested and value is None:
            return None
        arguments[str(keyword.arg)] = value
    if name == "Foolbox":
        stated = {key: value for key, value in arguments.items() if key not in ("name", "unit")}
        arguments = {"name": arguments.get("name"), "unit": arguments.get("unit"), "stated": stated}
    try:
        attack = getattr(importlib.import_module(module), name)(**arguments)
    except (TypeError, ValueError):  # BadInput is one
        return None
    return attack if repr(attack) == text else None
