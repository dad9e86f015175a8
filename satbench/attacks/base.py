"""What an attack is, and the state a model is in while one is crafted."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from satbench.seeding import Randomness
from satbench.threat import ThreatModel


class Attack(Protocol):
    """A frozen dataclass whose repr is its identity in the records.

    Called with float images `x` (N, C, H, W) in [0, 1] and labels `y` int64 (N,), it returns images of the same shape
    and dtype inside ball and box; the model's modes, parameters, buffers and `.grad` stay as they were.

    Three optional attributes are read by the evaluation. `unit`, on an attack that draws for whole batches: how many
    images draw together; without it the images do not depend on each other. `stages`, on an ensemble: attacks that are
    run one after another, each on the images still standing. `exhaustive`, on an attack that stops at the first
    misclassified iterate: the same attack taking all its steps on every image.
    """

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness
    ) -> Tensor: ...


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
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode, and every module back in its own mode afterwards, also after an error."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


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
    """Let batch norms in eval mode normalise by the batch they see, and leave their running statistics untouched."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, mean, variance in kept:
            norm.running_mean, norm.running_var = mean, variance
