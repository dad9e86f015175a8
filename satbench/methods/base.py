"""What a training method is."""

from typing import Protocol

from torch import Tensor, nn

from satbench.seeding import Randomness
from satbench.threat import ThreatModel


class Method(Protocol):
    """An inner maximisation and an objective; a frozen dataclass that holds no model."""

    @property
    def cost(self) -> int:
        """Forward-and-backward passes a sample and update."""

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        """The images to train on, of the shape of `x`, crafted with the model as it stands."""

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        """The scalar to minimise; runs the model in the mode it is in."""
