"""N-FGSM (de Jorge et al. 2022, arXiv 2202.01181)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import usable
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step
from satbench.methods.single_step import gradient_at
from satbench.numerics.seeding import uniform


@dataclass(frozen=True)
class NFGSM(Method):
    """Cross-entropy after noise and one step on top of it, both cut at the box and neither at the ball.

    A pixel may move by (k + step_over_eps) eps. Linf only.

    k, step_over_eps: half-width of the uniform noise and length of the step in radii, 2 and 1 in the released code;
        k = 4 there for WRN-28-10 on CIFAR-10 at 16/255, 3 for SVHN at 12/255.
    """

    k: Positive = 2.0
    step_over_eps: Positive = 1.0

    paper = "de Jorge et al. 2022, arXiv 2202.01181"

    def __post_init__(self) -> None:
        check_fields(self, "n_fgsm")

    norms = ("Linf",)

    @property
    def passes(self) -> Passes:
        return Passes(2, 2)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        self.refuse(step.threat)
        eps = step.threat.eps
        noisy = (step.x + self.k * eps * (2 * uniform(step.x, step.randomness) - 1)).clamp(0, 1)
        gradient = gradient_at(model, noisy, step.y)
        return usable((noisy + self.step_over_eps * eps * gradient.sign()).clamp(0, 1), gradient)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return functional.cross_entropy(model(x_adv), step.targets)
