"""Attacks of one's own, named `package.module:callable`, such as one made for the model at hand."""

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from satbench.attacks.base import (
    Attack,
    Described,
    crafting,
    exhaustive,
    from_outside,
    info_of,
    scalars,
    spelled,
    stage_infos,
    stages_of,
    unit_of,
)
from satbench.core.errors import BadInput
from satbench.core.lookup import check_keywords
from satbench.core.plugins import SOCKETS, own
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo, Parameter

ARGUMENTS = ["model", "x", "y", "threat", "randomness"]


@dataclass(frozen=True, repr=False)
class Adaptive(Described):
    """An attack from outside, known by its name and the parameters it was given.

    `reference` names a callable. One whose first five arguments are called model, x, y, threat and randomness is the
    attack, and parameters are its further keywords. Any other, such as a frozen dataclass, is called with the
    parameters and returns the attack. The module is also looked for in the current folder. `unit` and `stages` are the
    attack's.
    """

    reference: str
    stated: tuple[tuple[str, object], ...] = ()
    attack: Attack = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attack", _made(self.reference, dict(self.stated)))

    @property
    def info(self) -> AttackInfo:
        stated = dict(self.stated)
        id = spelled("Adaptive", {"attack": self.reference, **stated})
        params = scalars(stated)
        found = AttackInfo.foreign(id, self.reference, label_of(self.reference, params), params, stage_infos(self))
        brought = from_outside(self.attack) is not None and isinstance(getattr(self.attack, "info", None), AttackInfo)
        return found.model_copy(update={"kind": info_of(self.attack).kind}) if brought else found

    @property
    def unit(self) -> int | None:
        return unit_of(self.attack)

    @property
    def stages(self) -> tuple[Attack, ...]:
        stages = stages_of(self.attack)
        return (self,) if stages == (self.attack,) else stages

    @property
    def exhaustive(self) -> "Adaptive":
        found = copy(self)
        object.__setattr__(found, "attack", exhaustive(self.attack))
        return found

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        with crafting(model), torch.enable_grad():
            return self.attack(model, x, y, threat, randomness)


def label_of(reference: str, params: Mapping[str, Parameter]) -> str:
    """What tables call it: with all its parameters, for which ones matter is not known."""
    shown = ",".join(f"{key}={value}" for key, value in params.items())
    return f"adaptive {reference}" + (f":{shown}" if shown else "")


def adaptive(reference: str, stated: Mapping[str, object]) -> Adaptive:
    """The attack that `reference` names, with these parameters; raises `BadInput` where it cannot be had."""
    return Adaptive(reference, tuple(stated.items()))


def parameters_of(reference: str) -> list[str]:
    """The keys that the named callable takes; raises `BadInput` where it cannot be imported."""
    with own("attack", reference) as found:
        return [key for key, parameter in _free(found).items() if parameter.kind not in _VARIABLE]


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _made(reference: str, stated: dict[str, object]) -> Attack:
    with own("attack", reference) as found:
        check_keywords(found, f"attack {reference!r}", len(ARGUMENTS) if _is_attack(found) else 0, stated)
        if _is_attack(found):
            return update_wrapper(partial(found, **stated), found) if stated else found
        attack: Attack = found(**stated)
    if not callable(attack) or not _is_attack(attack):
        raise BadInput(
            f"--attack {reference} returned a {type(attack).__name__}, which is no attack; {SOCKETS['attack'].wanted}"
        )
    return attack


def _is_attack(candidate: Callable[..., Any]) -> bool:
    return list(_parameters(candidate))[: len(ARGUMENTS)] == ARGUMENTS


def _free(found: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = _parameters(found)
    return {key: value for key, value in parameters.items() if not (_is_attack(found) and key in ARGUMENTS)}


def _parameters(found: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(found).parameters
    except (TypeError, ValueError):
        return {}
