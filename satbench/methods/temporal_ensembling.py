"""Adversarial training with temporal ensembling (Dong et al. 2022, ICLR, arXiv 2106.01606)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.attacks.base import crafting
from satbench.attacks.losses import ce, kl
from satbench.core.errors import BadInput
from satbench.core.parameters import Index, Positive, ShareBelow1
from satbench.methods.base import Passes, Step
from satbench.methods.soft_labels import SoftLabels


@dataclass(frozen=True)
class TemporalEnsembling(SoftLabels):
    """The base method with a squared distance of the prediction from an average of past ones in attack and loss.

    The row P of an image starts at 0. From `start_epoch` on, before the image is attacked,
    P <- momentum P + (1 - momentum) p_clean, with the clean prediction in eval mode; the target t is P over its sum.
    With MSE the mean over images and classes, the attack ascends and the update descends, for base

    - "pgd_at": CE(p_adv, y) + w MSE(p_adv, t);
    - "trades": the attack beta KL(p_clean || p_adv) + w MSE(p_adv, t), the update
      CE(p_clean, y) + beta KL(p_clean || p_adv) + w MSE(p_clean, t).

    start_epoch, end_epoch, weight: before start_epoch passes over the data w is 0; in the epochs e from there to
        end_epoch it is weight exp(-5 (1 - (e - start_epoch) / (end_epoch - start_epoch))^2), constant in each; then it
        is weight. MSE is a mean over classes: 300 is 30 times a squared L2 distance for 10 classes, 3 times for 100.
    beta: of TRADES; None means 6. steps, step_size: of the attack, as in pgd_at and trades.

    Read in the authors' released code, also the defaults: it counts epochs from 1 and has 90 and 150, which is 89 and
    149 here. The start of its attack is not cut at the box before the first gradient; here it is.
    """

    start_epoch: Index = 89
    end_epoch: Index = 149
    weight: Positive = 300.0
    momentum: ShareBelow1 = 0.9

    called = "te"
    paper = "Dong et al. 2022, ICLR, arXiv 2106.01606"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch <= self.start_epoch:
            raise BadInput(f"end_epoch of te is {self.end_epoch}; give more than start_epoch, {self.start_epoch}")
        if self.base == "trades":
            object.__setattr__(self, "loss_passes", Passes(2, 2))

    @property
    def passes(self) -> Passes:
        return Passes(self.steps + 1 + self.loss_passes.forward, self.steps + self.loss_passes.backward)

    def ramp(self, epoch: float) -> float:
        """The weight w after `epoch` passes over the data."""
        if epoch < self.start_epoch:
            return 0.0
        left = 1 - (math.floor(epoch) - self.start_epoch) / (self.end_epoch - self.start_epoch)
        return self.weight * math.exp(-5 * max(left, 0.0) ** 2)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        w = self.ramp(step.epoch)
        if w == 0:
            return self._attack()(model, step.x, step.y, step.threat, step.randomness)
        with crafting(model), torch.no_grad():
            clean = model(step.x)
        row = self.momentum * self.rows(step) + (1 - self.momentum) * clean.softmax(1)
        step.kept["row"] = row

        def objective(logits: Tensor) -> Tensor:
            first = ce(logits, step.y) if self.base == "pgd_at" else self.divergence * kl(logits, clean)
            return first + w * _distance(logits, row)

        return self._attack()(model, step.x, step.y, step.threat, step.randomness, objective)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        self.refuse_soft(step.targets)
        fitted = model(step.x if self.base == "trades" else x_adv)
        losses = ce(fitted, step.y)
        if self.base == "trades":
            losses = losses + self.divergence * kl(model(x_adv), fitted)
        if "row" in step.kept:
            losses = losses + self.ramp(step.epoch) * _distance(fitted, step.kept["row"])
        return losses.mean()


def _distance(logits: Tensor, row: Tensor) -> Tensor:
    """The squared distance of each prediction from its row over the sum of the row, a mean over classes, (n,)."""
    return (logits.softmax(1) - row / row.sum(1, keepdim=True)).square().mean(1)
