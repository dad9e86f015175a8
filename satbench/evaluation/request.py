"""From what a caller gives to an `EvaluationSpec`, and to the objects that stand for its names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import info_of, stages_of
from satbench.core.errors import BadInput
from satbench.data import Images, as_images
from satbench.evaluation import sweep
from satbench.evaluation.rebuild import rebuild
from satbench.evaluation.sources import ADDRESS, identified
from satbench.numerics.device import resolve_device
from satbench.numerics.threat import ThreatModel
from satbench.specs.evaluation import EvaluationSpec
from satbench.specs.names import threats as stated_threats
from satbench.zoo import NO_NETWORK, Loaded, from_module, load

Network = str | nn.Module | Loaded
Numbers = str | float | Sequence[str | float]


@dataclass(frozen=True)
class Request:
    """An evaluation with its attacks, in the order of the spec, and with what a caller gave in place of a name."""

    spec: EvaluationSpec
    attacks: tuple[Attack, ...]
    model: nn.Module | Loaded | None = None
    source: nn.Module | Loaded | None = None
    images: Images | None = None

    def networks(self, device: str) -> list[Loaded]:
        """The judged network, and the one to search on if there is another."""
        if self.spec.model is None:
            raise BadInput("the evaluation names no model; give one")
        model = self.spec.model if self.model is None else self.model
        networks = [self._named(identified(_loaded(model, self.spec.checkpoint, device)))]
        source = self.spec.source if self.source is None else self.source
        return networks if source is None else [*networks, identified(_loaded(source, None, device))]

    def _named(self, loaded: Loaded) -> Loaded:
        """It with the name and group that the user gave."""
        changed: dict[str, str | None] = {"group": self.spec.group} if self.spec.group else {}
        if self.spec.name:
            changed |= {"label": self.spec.name, "recipe": None}  # tables call a network by its recipe if it has one
        return loaded.with_info(**changed)


def make_request(
    model: Network | EvaluationSpec,
    attack: str | Attack | Sequence[str | Attack] | None = None,
    norm: str | None = None,
    eps: Numbers | None = None,
    steps: Numbers | None = None,
    restarts: Numbers | None = None,
    threat: str | ThreatModel | Sequence[str | ThreatModel] = (),
    fields: Mapping[str, Any] | None = None,
) -> Request:
    """What `evaluate` was asked for; `fields` are those of the spec, where `dataset` and `source` may be objects.

    Raises `BadInput` for anything that is wrong in itself; no network is loaded and no image read.
    """
    fields = dict(fields or {})
    if isinstance(model, EvaluationSpec):
        if fields or threat or any(one is not None for one in (attack, norm, eps, steps, restarts)):
            raise BadInput("settings are given beside a spec; put them into it")
        return resolved(model)
    attacks = _attacks("pgd" if attack is None else attack, _listed(steps), _listed(restarts))
    source, images = fields.get("source"), fields.get("dataset")
    if images is not None and not isinstance(images, str):
        images = as_images(images)
        fields["dataset"] = images.name
    for field in ("model", "attacks", "threats"):
        if field in fields:
            raise BadInput(f"field {field!r} is given beside the arguments that make it; give attack and threat")
    threats = stated_threats([threat] if isinstance(threat, str | ThreatModel) else threat, norm, _listed(eps))
    stated = {"model": _name(model), "attacks": [info_of(one) for one in attacks], "threats": threats}
    spec = EvaluationSpec(**fields | stated | ({} if source is None else {"source": _name(source)}))
    return Request(
        spec,
        attacks,
        None if isinstance(model, str) else model,
        None if isinstance(source, str) else source,
        images if isinstance(images, Images) else None,
    )


def resolved(spec: EvaluationSpec) -> Request:
    """The spec with infos in place of names, and its attacks, built.

    Raises `BadInput` for an info of an attack that is not satbench's own, because a spec decides what is imported only
    by a name.
    """
    attacks: list[Attack] = []
    for one in spec.attacks:
        if isinstance(one, str):
            attacks += sweep.attacks([one], None, None)
            continue
        built = rebuild(one)
        if built is None:
            raise BadInput(f"attack {one.id} is not satbench's own; name it as package.module:callable")
        attacks.append(built)
    named = _named_once(attacks)
    return Request(spec.model_copy(update={"attacks": tuple(map(info_of, named))}), named)


def _attacks(
    given: str | Attack | Sequence[str | Attack], steps: str | None, restarts: str | None
) -> tuple[Attack, ...]:
    """Attack objects as they are, then names with every value of `steps` and `restarts`."""
    listed = [given] if isinstance(given, str) or callable(given) else list(given)
    attacks: list[Attack] = [one for one in listed if not isinstance(one, str)]
    attacks += sweep.attacks([one for one in listed if isinstance(one, str)], steps, restarts)
    return _named_once(attacks)


def _named_once(attacks: Sequence[Attack]) -> tuple[Attack, ...]:
    """The attacks, each once; raises `BadInput` for an id that would be another one in every process."""
    for stage in (stage for one in attacks for stage in (one, *stages_of(one))):
        if ADDRESS.search(info_of(stage).id):
            raise BadInput(
                f"attack {info_of(stage).id} has a memory address in its repr, which names it in the records; "
                "make it a frozen dataclass, or give a function as package.module:name"
            )
    return tuple(dict.fromkeys(attacks))


def _listed(value: Numbers | None) -> str | None:
    """Numbers as the comma list a command line would hold."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else ",".join(map(str, value))


def _name(model: Network) -> str:
    if not isinstance(model, str | nn.Module | Loaded):
        raise BadInput(f"the model is a {type(model).__name__}; {NO_NETWORK}")
    if isinstance(model, str):
        return model
    return model.info.ref if isinstance(model, Loaded) else type(model).__name__


def _loaded(model: Network, checkpoint: Path | None, device: str) -> Loaded:
    if isinstance(model, str):
        return load(model, checkpoint, device)
    if isinstance(model, Loaded):
        return model
    name = type(model).__name__
    model.to(resolve_device(device))
    return from_module(model, name, name).with_info(in_memory=True)
