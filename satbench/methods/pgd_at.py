"""PGD adversarial training (Madry et al. 2018, arXiv 1706.06083).

With a smooth activation this is Smooth Adversarial Training (Xie et al. 2020, arXiv 2006.14536), whose own recipe takes
a single step of length eps from a random start: `steps=1`. `steps=1, init="zero"` is FGSM training (Goodfellow et al.
2015, arXiv 1412.6572).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import PGD
from satbench.core.parameters import Count, FromZero, check_fields
from satbench.methods.base import Method, Passes, Step


def _in_order(pairs: Sequence[tuple[float, int]]) -> Sequence[tuple[float, int]]:
    epochs = [epoch for epoch, _ in pairs]
    if epochs != sorted(set(epochs)):
        raise ValueError("an epoch comes twice or too late")
    return pairs


EarlyStop = Annotated[
    Sequence[Annotated[tuple[FromZero, Count], Field(strict=False)]],
    AfterValidator(_in_order),
    Field(description="pairs of an epoch and a count from 1, in the order of the epochs, such as [[0, 1], [60, 2]]"),
]


@dataclass(frozen=True)
class PGDAT(Method):
    """Cross-entropy on the last iterate of PGD, crafted in eval mode from a random start.

    steps: 10 as in the released code of Rice et al. 2020 (arXiv 2002.11569).
    step_size: pixel scale; None means min(eps, 2.5 eps / steps), the released SAT code's max(step, eps / steps) for one
        step and 2/255 for ten steps at 8/255.
    early_stop: pairs of an epoch and the `patience` of PGD from there on, such as ((0, 1), (60, 2), (100, 3)) in the
        released code of Pang et al. 2021 (arXiv 2010.00467); before the first pair every image takes all steps.
    """

    steps: int = 10
    step_size: float | None = None
    init: str = "uniform"
    early_stop: EarlyStop = ()

    paper = "Madry et al. 2018, arXiv 1706.06083"
    awp_source = "Wu et al. 2020, arXiv 2004.05884"

    def __post_init__(self) -> None:
        self._attack(None)
        check_fields(self, "pgd_at")
        object.__setattr__(self, "early_stop", tuple((epoch, count) for epoch, count in self.early_stop))

    @property
    def passes(self) -> Passes:
        return Passes(self.steps + 1, self.steps + 1)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        counts = [count for epoch, count in self.early_stop if epoch <= step.epoch]
        attack = self._attack(counts[-1] if counts else None)
        return attack(model, step.x, step.y, step.threat, step.randomness)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return functional.cross_entropy(model(x_adv), step.targets)

    def _attack(self, patience: int | None) -> PGD:
        return PGD(steps=self.steps, step_size=self.step_size, init=self.init, keep="last", patience=patience)
