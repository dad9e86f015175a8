"""Training on clean images, the lower reference row."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.methods.base import Method, Passes, Step


@dataclass(frozen=True)
class Standard(Method):
    """Cross-entropy on the images as they are."""

    crafts = False
    chosen_by = ("clean", "robust")  # what little stands under PGD early on is no merit

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return step.x

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return functional.cross_entropy(model(x_adv), step.targets)
