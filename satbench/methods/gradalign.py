"""GradAlign (Andriushchenko & Flammarion 2020, arXiv 2007.02617)."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.base import batch_statistics
from satbench.attacks.gradient import usable
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step
from satbench.methods.single_step import gradient_at
from satbench.numerics.modes import evaluating
from satbench.numerics.seeding import uniform


@dataclass(frozen=True)
class GradAlign(Method):
    """Cross-entropy after FGSM, plus lam times (1 - cosine) of the input gradients at the image and at a point near it.

    FGSM takes its step of length eps from the image itself. The point is uniform in the ball and not cut at the box.
    Only its gradient is differentiated. Images where either gradient is zero do not count. Linf only.

    lam: 0.2, what the paper's 0.02 * 10 ** (255 eps / 8) gives at 8/255; 2 at 16/255.

    Both gradients are taken of one network: with the same weights, in eval mode, with running or batch statistics as
    `attack_bn_mode` says, and before the update moves the running ones. The released code takes both in training mode
    and moves the running statistics with each; here they move once an update. It takes the first through max(min(x, 1),
    0), which at pixels of exactly 0 or 1 passes a share that depends on torch's version; here it is passed whole. The
    logits near the image see two backward passes, one for the gradient and one through it.
    """

    lam: Positive = 0.2

    loss_passes = Passes(2, 3)
    second_order = two_modes = True
    norms = ("Linf",)

    paper = "Andriushchenko and Flammarion 2020, arXiv 2007.02617"

    def __post_init__(self) -> None:
        check_fields(self, "gradalign")

    @property
    def passes(self) -> Passes:
        return Passes(3, 4)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        self.refuse(step.threat)
        eps = step.threat.eps
        gradient = gradient_at(model, step.x, step.y)
        step.kept["gradient"] = gradient
        step.kept["near"] = step.x + eps * (2 * uniform(step.x, step.randomness) - 1)
        return usable(step.threat.ascend(step.x, step.x, gradient, eps), gradient)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        misalignment = self._misalignment(model, step)  # before the pass that moves running statistics
        return functional.cross_entropy(model(x_adv), step.targets) + self.lam * misalignment

    def _misalignment(self, model: nn.Module, step: Step) -> Tensor:
        near = step.kept["near"].detach().requires_grad_()
        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            if step.batch_statistics:
                stack.enter_context(batch_statistics(model))
            loss = functional.cross_entropy(model(near), step.y, reduction="sum")
        (slope,) = torch.autograd.grad(loss, near, create_graph=True)
        at, by = step.kept["gradient"].flatten(1), slope.flatten(1)
        steep = (torch.linalg.vector_norm(at, dim=1) > 0) & (torch.linalg.vector_norm(by, dim=1) > 0)
        at, by = at[steep], by[steep]
        cosine = (at * by).sum(1) / (torch.linalg.vector_norm(at, dim=1) * torch.linalg.vector_norm(by, dim=1))
        misalignment: Tensor = (1 - cosine).sum() / max(len(cosine), 1)
        return misalignment
