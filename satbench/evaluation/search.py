"""On which network an attack searches: a faster copy of the judged one, or another network altogether."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from satbench.attacks import Attack
from satbench.attacks.base import Described, describe, exhaustive, info_of, stages_of, unit_of
from satbench.evaluation.executor import Search
from satbench.models.search_copy import search_copy
from satbench.models.surrogate import relus, surrogate_derivative
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import ModelInfo, SearchInfo
from satbench.specs.attack import AttackInfo
from satbench.specs.evaluation import SearchForm

BF16, SURROGATE = "bf16", "surrogate"
TRANSFER = "transfer"
PROBE = 16  # images on which a copy must agree with its original


@dataclass(frozen=True, repr=False)
class Searched(Described):
    """An attack whose id says that it searched on something else than a copy of the judged network."""

    attack: Attack

    @property
    def exhaustive(self) -> Attack:
        return replace(self, attack=exhaustive(self.attack))

    @property
    def unit(self) -> int | None:
        return unit_of(self.attack)

    @property
    def stages(self) -> tuple[Attack, ...]:
        return stages_of(self.attack)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return self.attack(model, x, y, threat, randomness)


@dataclass(frozen=True, repr=False)
class Bf16(Searched):
    """Searched in bfloat16, which can only be weaker; judged in float32 like every attack."""

    @property
    def info(self) -> AttackInfo:
        inner = info_of(self.attack)
        return describe(self, BF16, inner.kind, inner.tier, f"{inner.label}, bf16 search", inner.effort)


@dataclass(frozen=True, repr=False)
class Surrogate(Searched):
    """Searched with the derivative of parametric softplus in place of every ReLU's; judged as the network is."""

    @property
    def info(self) -> AttackInfo:
        inner = info_of(self.attack)
        label = f"{inner.label}, surrogate search"
        return describe(self, SURROGATE, inner.kind, "another attack", label, inner.effort)

    @property
    def stages(self) -> tuple[Attack, ...]:
        return tuple(Surrogate(stage) for stage in stages_of(self.attack))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        with surrogate_derivative(model):
            return super().__call__(model, x, y, threat, randomness)


# what changes more than a rounding is part of the attack's identity
LABELLED: dict[str, Callable[[Attack], Searched]] = {BF16: Bf16, SURROGATE: Surrogate}


@dataclass(frozen=True, repr=False)
class Transfer(Searched):
    """Searched on the network `source`, label@digest, knowing nothing of the judged one.

    The evaluation runs it without early stop and judges every iterate, see `executor.Executor`.
    """

    source: str = field(kw_only=True)

    @property
    def info(self) -> AttackInfo:
        inner = info_of(self.attack)
        label = f"{inner.label} from {self.source.rpartition('@')[0] or self.source}"
        return describe(self, TRANSFER, "transfer", "attack from another model", label, inner.effort)


WRAPPERS: dict[str, Callable[..., Searched]] = {**LABELLED, TRANSFER: Transfer}  # by the names in their infos


def source_name(info: ModelInfo) -> str:
    """How `Transfer` names the network that it searched on: label and the start of the digest."""
    return f"{info.label}@{info.short}"


def search_on(model: nn.Module, probe: Tensor, form: SearchForm, another: bool) -> Search:
    """Where to search when `model` is given and `form` is asked for.

    `probe` are images (N, C, H, W) on which a copy must give the model's logits. `another` says that it is not the
    judged network. Raises `BadInput` for a network that cannot be searched so.
    """
    if form == "plain":
        return Search(model, SearchInfo(form=form, copied=False, note="the network as it is"), is_copy=False)
    if form == SURROGATE:
        relus(model)
    precision: Literal["bf16", "float32"] = "bf16" if form == BF16 else "float32"
    copy = search_copy(model, probe, precision)
    info = SearchInfo(
        form=form,
        precision=precision,
        copied=copy.private,
        folded=len(copy.folded),
        channels_last=copy.channels_last,
        note=f"{copy.how}, surrogate derivative of ReLU" if form == SURROGATE else copy.how,
    )
    return Search(copy.module, info, is_copy=copy.private and not another)
