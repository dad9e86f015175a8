"""What an attack is, and the state a model is in while one is crafted."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, field, fields, is_dataclass
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from satbench.numerics.modes import evaluating
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo, Kind, Parameter, Tier, label_with_counts

AS_BEFORE = "as before"  # in a field's metadata: the value of `later`


class MostPasses(NamedTuple):
    """What an image that stands takes of an attack: forward and backward passes, the most.

    when_broken: the share of them that one that breaks takes, about; 1 where nothing stops early.
    """

    forward: int
    backward: int
    when_broken: float = 0.1


class Attack(Protocol):
    """A frozen dataclass; `info_of` says how the records name it and what a run says of it.

    Called with float images `x` (N, C, H, W) in [0, 1] and labels `y` int64 (N,), it returns images of the same shape
    and dtype inside ball and box; the model's modes, parameters, buffers and `.grad` stay as they were.

    Five optional attributes are read by the evaluation. `info`, the `AttackInfo` of an attack that describes itself, as
    all of satbench's own do; without it the repr is the attack's id and no more is known. `unit`, on an attack that
    draws for whole batches: how many images draw together; without it the images do not depend on each other. `stages`,
    on an ensemble: attacks that are run one after another, each on the images still standing. `exhaustive`, on an
    attack that stops at the first misclassified iterate: the same attack taking all its steps on every image.
    `most_passes(norm, classes)`, the `MostPasses` of an image, for predictions.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness
    ) -> Tensor: ...


class Described(ABC):
    """Base of satbench's own attacks, which are frozen dataclasses without a generated repr: each adds its `info`."""

    @property
    @abstractmethod
    def info(self) -> AttackInfo:
        """How a run describes the attack; `describe` makes it."""

    def __repr__(self) -> str:
        return self.info.id


def later(as_before: Parameter, default: Any = MISSING) -> Any:
    """The field of a parameter that an attack gets after records of it exist; `default` is by default `as_before`.

    The attack's id shows it only where it is not `as_before`, the value that keeps the attack as it was, so old
    records keep their name and a default that changes the attack renames it.
    """
    return field(default=as_before if default is MISSING else default, metadata={AS_BEFORE: as_before})


def describe(attack: Any, name: str, kind: Kind, tier: Tier, label: str, effort: int = 0) -> AttackInfo:
    """The info of a dataclass whose fields are its parameters; one called `attack` is what it is built around.

    A field called `name` is no parameter: `name`, as the command line spells it, says it already.
    """
    values = {one.name: getattr(attack, one.name) for one in fields(attack)}
    before = {one.name: one.metadata[AS_BEFORE] for one in fields(attack) if AS_BEFORE in one.metadata}
    unset = tuple(key for key, as_before in before.items() if values[key] == as_before)
    wraps = info_of(values["attack"]) if "attack" in values else None
    return AttackInfo(
        id=spelled(type(attack).__name__, {key: value for key, value in values.items() if key not in unset}, wraps),
        name=name,
        params=scalars({key: value for key, value in values.items() if key not in ("name", "attack")}),
        unset=unset,
        kind=kind,
        tier=tier,
        effort=effort,
        label=label,
        wraps=wraps,
        stages=stage_infos(attack),
    )


def info_of(attack: Attack) -> AttackInfo:
    """How a run describes an attack.

    satbench's own describe themselves. One from outside without an `info` is foreign and named by its repr. One that
    brings its `info` gets its name and its tier here, because its strength was not checked.
    """
    found = getattr(attack, "info", None)
    if _is_own(type(attack)) and isinstance(found, AttackInfo):
        return found
    owner = attack if isinstance(attack, FunctionType) else type(attack)
    name = f"{owner.__module__}:{owner.__qualname__}"
    if isinstance(found, AttackInfo):
        return found.model_copy(update={"name": name, "tier": "another attack", "wraps": None})
    held: list[str] = [one.name for one in fields(attack)] if is_dataclass(attack) else []
    params = scalars({key: getattr(attack, key) for key in held})
    return AttackInfo.foreign(
        repr(attack), name, label_with_counts(owner.__name__, params), params, stage_infos(attack)
    )


def stage_infos(attack: Attack) -> tuple[AttackInfo, ...]:
    """The infos of an ensemble's stages; none of an attack alone."""
    stages = stages_of(attack)
    return tuple(map(info_of, stages)) if len(stages) > 1 else ()


def spelled(name: str, values: Mapping[str, object], wraps: AttackInfo | None = None) -> str:
    """`Name(key=value, ...)`, the form of satbench's own ids; a wrapped attack is shown by its id."""
    shown = {key: repr(value) for key, value in values.items()} | ({"attack": wraps.id} if wraps else {})
    return f"{name}({', '.join(f'{key}={text}' for key, text in shown.items())})"


def scalars(values: Mapping[str, object]) -> dict[str, Parameter]:
    """The values as JSON can hold them; any but a finite number, a text, a truth value or None by its repr."""
    return {key: value if _is_scalar(value) else repr(value) for key, value in values.items()}  # type: ignore[misc]


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))


def unit_of(attack: Attack) -> int | None:
    """How many images draw their random numbers together; None when each draws its own."""
    return getattr(attack, "unit", None)


def stages_of(attack: Attack) -> tuple[Attack, ...]:
    """The attacks of an ensemble in order, or the attack alone."""
    stages: tuple[Attack, ...] = getattr(attack, "stages", (attack,))
    return stages


def exhaustive(attack: Attack) -> Attack:
    """The attack without its early stop, or the attack itself where it has none."""
    found: Attack = getattr(attack, "exhaustive", attack)
    return found


def most_passes_of(attack: Attack, norm: str, classes: int) -> MostPasses:
    """What an image that stands takes of an attack that is no ensemble.

    One that does not say it is taken for a gradient attack of its `effort` in steps, of 500 where it has none.
    """
    for layer in layers(attack):
        found = getattr(layer, "most_passes", None)
        if found is not None:
            passes: MostPasses = found(norm, classes)
            return passes
    steps = info_of(attack).effort or 500
    return MostPasses(steps + 1, steps, 1.0)


def from_outside(attack: Attack) -> type | FunctionType | None:
    """The class or function of an attack that is not satbench's own, out of whatever wraps it; None for its own."""
    inner: Any = attack
    while isinstance(inner, partial) or _is_own(type(inner)):
        wrapped = inner.func if isinstance(inner, partial) else getattr(inner, "attack", None)
        if wrapped is None:
            return None
        inner = wrapped
    owner: type | FunctionType = inner if isinstance(inner, FunctionType) else type(inner)
    return None if _is_own(owner) else owner


def outside_modules(attack: Attack) -> set[str]:
    """The modules outside satbench that make an attack what it is: of its class, and of the callable that built it."""
    owner = from_outside(attack)
    found = set() if owner is None else {owner.__module__}
    for part in layers(attack):
        reference = getattr(part, "reference", None)  # of a callable that made it, `package.module:callable`
        if isinstance(reference, str):
            found.add(reference.partition(":")[0])
    return found


def layers(attack: Attack) -> Iterator[object]:
    """The attack, the one that it wraps, and so on."""
    inner: Any = attack
    while inner is not None:
        yield inner
        inner = inner.func if isinstance(inner, partial) else getattr(inner, "attack", None)


def _is_own(owner: type | FunctionType) -> bool:
    return owner.__module__.partition(".")[0] == "satbench"


@contextmanager
def crafting(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode with frozen parameters, and everything back afterwards, also after an error."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter, required in wanted:
            parameter.requires_grad_(required)


def uses_batch_statistics(model: nn.Module) -> bool:
    """Whether a batch norm of the model, in its present mode, normalises by the batch that it sees."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return any(norm.training or norm.running_mean is None for norm in norms)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norms normalise by the batch they see; running statistics and the count of their batches stay."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    try:
        yield
    finally:
        for norm, mean, variance, batches in kept:
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, batches
