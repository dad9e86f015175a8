"""Adversarial training for free (Shafahi et al. 2019, arXiv 1904.12843)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.parameters import Count, check_fields
from satbench.methods.base import Method, Passes, Step


@dataclass(frozen=True)
class Free(Method):
    """Cross-entropy at a perturbation that climbs by the gradients of the updates themselves.

    Every batch is updated on `replays` times. The backward pass that moves the weights also moves the perturbation, by
    eps along the sign of the gradient, back inside the ball. The gradient is taken through the clip to [0, 1] in front
    of the network, so a pixel that the perturbation moves out of [0, 1] has none. There is one perturbation for every
    place in the batch, and the next batch starts from it. Linf only.

    replays: 8, the paper's choice for CIFAR-10. An update costs one pass; a run has 1/8 of the usual epochs there.
    """

    replays: Count = 8

    paper = "Shafahi et al. 2019, arXiv 1904.12843"

    def __post_init__(self) -> None:
        check_fields(self, "free")

    crafts = False
    norms = ("Linf",)

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        return {"delta": torch.zeros(batch)}

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        self.refuse(step.threat)
        return step.threat.project(step.x, step.x + self._delta(step)).requires_grad_()

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return functional.cross_entropy(model(x_adv), step.targets)

    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
        assert x_adv.grad is not None
        eps = step.threat.eps
        delta = self._delta(step)
        unclipped = step.x + delta
        inside = (unclipped >= 0) & (unclipped <= 1)
        own = (delta + eps * (x_adv.grad * inside).sign()).clamp(-eps, eps)
        whole = step.processes.everywhere(own, step)
        step.state["delta"][: len(whole)] = whole

    def _delta(self, step: Step) -> Tensor:
        return step.state["delta"][step.start : step.start + len(step.x)]
