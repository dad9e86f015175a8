"""Turns what a command line spells into attacks and threats; comma lists become their product."""

import itertools
from collections.abc import Sequence
from typing import Any

from satbench.attacks import Attack, attack_parameters, build_attack, parse_attack
from satbench.core.errors import BadInput
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import ModelInfo
from satbench.specs.evaluation import EvaluationSpec

DEFAULT_NORM = "Linf"


def threats(threat: Sequence[str | ThreatModel], norm: str | None, eps: str | None) -> list[str | ThreatModel]:
    """The threats that are stated, as a spec takes them: norms alone where `threat` and `eps` are left out.

    norm, eps: comma lists, of which every norm is taken at every radius. Raises `BadInput` where both ways are used.
    """
    if threat and (norm is not None or eps is not None):
        raise BadInput("--threat is given together with --norm or --eps; give one or the other")
    if threat:
        return list(threat)
    norms = _items(norm or DEFAULT_NORM, "norm")
    return list(norms) if eps is None else [":".join(pair) for pair in itertools.product(norms, _items(eps, "eps"))]


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
            f"model {model.ref!r} does not say which {norm} radius it was trained for; give --eps, such as 8/255"
        )
    return ThreatModel(norm, trained.eps)


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
