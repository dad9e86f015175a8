"""A method added as CONTRIBUTING.md says, as a plugin of pytest: its file and the lines in the tables.

It is correct and unlike the others where they agree: its attack begins in the second epoch, so that it takes fewer
passes before than it states; its loss is no cross-entropy; it takes hard labels and says so in its own words; it is
defined for Linf and L2.
"""

from dataclasses import dataclass

import tiny_training
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks import PGD
from satbench.core.errors import BadInput
from satbench.methods import METHODS, Method, Passes, Step
from satbench.recipes import RECIPES
from satbench.training import TrainConfig


@dataclass(frozen=True)
class LateBrier(Method):
    """The Brier score (Brier 1950), on clean images in the first `start` epochs and on those of PGD afterwards."""

    steps: int = 3
    start: float = 1

    norms = ("Linf", "L2")
    soft_targets = False

    @property
    def passes(self) -> Passes:
        return Passes(self.steps + 1, self.steps + 1)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        if step.epoch < self.start:
            return step.x
        return PGD(steps=self.steps, keep="last")(model, step.x, step.y, step.threat, step.randomness)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        if step.targets.ndim > 1:
            raise BadInput("the Brier score wants a hard label for every image; leave out label smoothing")
        probabilities = model(x_adv).softmax(1)
        return (probabilities - functional.one_hot(step.targets, probabilities.shape[1])).square().sum(1).mean()


def digits_late_brier() -> TrainConfig:
    """The Brier score on the digits.

    Command: `satbench train digits-late-brier`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: measured.
    """
    return RECIPES["digits-pgd-at"]().with_values({"recipe": "digits-late-brier", "method": "late_brier"})


def cifar10_late_brier() -> TrainConfig:
    """The Brier score on CIFAR-10.

    Command: `satbench train cifar10-late-brier`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return RECIPES["cifar10-pgd-at"]().with_values({"recipe": "cifar10-late-brier", "method": "late_brier"})


METHODS["late_brier"] = LateBrier
RECIPES["digits-late-brier"] = digits_late_brier
RECIPES["cifar10-late-brier"] = cifar10_late_brier
tiny_training.WAYS["late_brier"] = {"method": "late_brier"}
