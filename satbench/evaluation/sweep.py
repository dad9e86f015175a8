"""Turns what a command line spells into attacks and threats; comma lists become their product."""

import itertools
from collections.abc import Sequence
from typing import Any

from satbench.attacks import Attack, attack_parameters, build_attack, parse_attack
from satbench.errors import BadInput
from satbench.results.schema import ModelInfo
from satbench.threat import ThreatModel

DEFAULT_NORM = "Linf"


def threats(threat: Sequence[str | ThreatModel], norm: str | None, eps: str | None) -> list[ThreatModel]:
    """The threats that are stated, without repeats; none where `threat` and `eps` are left out.

    threat: such as "Linf:8/255". norm, eps: comma lists, of which every norm is taken at every radius. Raises
    `BadInput` for a bad norm or radius, and where both ways are used.
    """
    if threat and (norm is not None or eps is not None):
        raise BadInput("--threat is given together with --norm or --eps; give one or the other")
    if threat:
        return list(dict.fromkeys(one if isinstance(one, ThreatModel) else _threat(one) for one in threat))
    radii = ["0"] if eps is None else _items(eps, "eps")
    pairs = itertools.product(_items(norm or DEFAULT_NORM, "norm"), radii)
    found = list(dict.fromkeys(ThreatModel.parse(one, radius) for one, radius in pairs))
    return found if eps is not None else []


def trained_threats(model: ModelInfo, norm: str | None) -> list[ThreatModel]:
    """What `trained_threat` gives for each norm of a comma list."""
    return [trained_threat(model, one) for one in dict.fromkeys(_items(norm or DEFAULT_NORM, "norm"))]


def trained_threat(model: ModelInfo, norm: str) -> ThreatModel:
    """The radius that a network was trained for in this norm; raises `BadInput` where it was not."""
    trained = model.trained_for
    if trained is None or trained.norm != ThreatModel(norm, 0).norm:
        raise BadInput(
            f"model {model.ref!r} does not say which {norm} radius it was trained for; give --eps, such as 8/255"
        )
    return ThreatModel(norm, trained.eps)


def _threat(text: str) -> ThreatModel:
    norm, colon, eps = text.partition(":")
    if not colon:
        raise BadInput(f"--threat {text!r} is not NORM:EPS; write Linf:8/255")
    return ThreatModel.parse(norm.strip(), eps.strip())


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
