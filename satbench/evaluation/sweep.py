"""Turns what a command line spells into attacks and threats; comma lists become their product."""

import itertools
from collections.abc import Sequence
from typing import Any

from satbench.attacks import Attack, attack_parameters, build_attack
from satbench.core.errors import BadInput
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import ModelInfo
from satbench.specs.evaluation import EvaluationSpec
from satbench.specs.names import numbers, parse_attack


def threats_of(spec: EvaluationSpec, model: ModelInfo) -> list[ThreatModel]:
    """The threats of a spec for this network."""
    stated = (
        trained_threat(model, one) if isinstance(one, str) else ThreatModel(one.norm, one.eps) for one in spec.threats
    )
    return list(dict.fromkeys(stated))


def trained_threat(model: ModelInfo, norm: str) -> ThreatModel:
    """The radius that a network was trained for in this norm; raises `BadInput` where it was not."""
    trained = model.trained_for
    if trained is None or trained.norm != ThreatModel(norm, 0).norm:
        raise BadInput(
            f"model {model.reference!r} does not say which {norm} radius it was trained for; give --eps, such as 8/255"
        )
    return ThreatModel(norm, trained.eps)


def attacks(names: Sequence[str], steps: str | None, restarts: str | None) -> list[Attack]:
    """The named attacks, once for each of `steps` and `restarts` (comma lists) where an attack has them.

    A name may carry parameters, `pgd:loss=margin`; one that it states itself is not swept. Raises `BadInput` for an
    unknown name, key or value, and for steps or restarts that no named attack takes.
    """
    swept = {"steps": numbers(steps, "steps"), "restarts": numbers(restarts, "restarts")}
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
