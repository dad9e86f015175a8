"""Training on clean images, the lower reference row."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.seeding import Randomness
from satbench.threat import ThreatModel


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on the images as they are."""

    @property
    def cost(self) -> int:
        return 1

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return x

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(model(x_adv), y)
