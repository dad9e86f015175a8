"""The one gradient that the single-step methods follow."""

from torch import Tensor, nn

from satbench.attacks.base import crafting
from satbench.attacks.gradient import input_gradient
from satbench.attacks.losses import ce


def gradient_at(model: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """Of each image's own cross-entropy, at float images (n, C, H, W) and like them; the model as in any attack."""
    point = images.detach().requires_grad_()
    with crafting(model):
        return input_gradient(ce(model(point), y), point)
