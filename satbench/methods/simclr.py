"""Contrastive learning of representations, SimCLR (Chen, Kornblith et al. 2020, ICML, arXiv 2002.05709)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step
from satbench.models.features import Encoder


@dataclass(frozen=True)
class SimCLR(Method):
    """NT-Xent between the representations of two augmentations of every image, without labels.

    The representation is what the last linear layer reads; that layer learns nothing. Read it out by kNN or by a
    linear layer that is trained afterwards: `satbench readout`. The augmentation is that of the config.

    temperature: 0.5, the authors' for CIFAR-10.

    The authors compare the outputs of a projection head of two layers, which they throw away afterwards; here the
    representations themselves are compared. Their augmentation also changes colours.
    """

    temperature: Positive = 0.5

    paper = "Chen, Kornblith et al. 2020, ICML, arXiv 2002.05709"
    known_from = "paper"
    chosen_by = ("knn",)
    crafts = False
    loss_passes = Passes(2, 2)
    views = 2
    labelled = soft_targets = separable = False

    def __post_init__(self) -> None:
        check_fields(self, "simclr")

    @property
    def passes(self) -> Passes:
        return self.loss_passes

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return step.x

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        encoder = Encoder(model)
        return nt_xent(encoder(x_adv), encoder(step.views[0]), self.temperature, step)


def nt_xent(first: Tensor, second: Tensor, temperature: float, step: Step) -> Tensor:
    """The normalised temperature-scaled cross-entropy of two representations (n, D) of each image, a scalar.

    With N images in the whole batch of all processes, each of its 2 N representations is to be told from 2 N - 2 others
    by its cosine with the one of the same image, divided by the temperature. The loss is that of the whole batch; its
    gradient, averaged over the processes by their shares, is that of one process.
    """
    z = functional.normalize(torch.cat([_of_all(first, step), _of_all(second, step)]))
    total = len(z) // 2
    scores = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    loss = functional.cross_entropy(scores, torch.arange(len(z), device=z.device).roll(total))
    return loss.detach() + (loss - loss.detach()) * (total / len(first))


def _of_all(z: Tensor, step: Step) -> Tensor:
    """The rows of the whole batch, with gradient for those of this process."""
    whole = step.processes.everywhere(z.detach(), step)
    return torch.cat([whole[: step.start], z, whole[step.start + len(z) :]])
