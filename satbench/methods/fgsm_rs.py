"""Fast adversarial training, FGSM from a random start (Wong et al. 2020, arXiv 2001.03994)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import usable
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step
from satbench.methods.single_step import gradient_at


@dataclass(frozen=True)
class FGSMRS(Method):
    """Cross-entropy after one step from a start that is uniform in the ball, back inside ball and box.

    step_over_eps: length of the step in radii; 1.25 is the released code's 10/255 at 8/255.
    """

    step_over_eps: Positive = 1.25

    paper = "Wong et al. 2020, arXiv 2001.03994"

    def __post_init__(self) -> None:
        check_fields(self, "fgsm_rs")

    @property
    def passes(self) -> Passes:
        return Passes(2, 2)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        start = step.threat.random_start(step.x, step.randomness)
        gradient = gradient_at(model, start, step.y)
        return usable(step.threat.ascend(step.x, start, gradient, self.step_over_eps * step.threat.eps), gradient)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return functional.cross_entropy(model(x_adv), step.targets)
