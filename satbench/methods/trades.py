"""TRADES (Zhang et al. 2019, arXiv 1901.08573)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import PGD
from satbench.attacks.losses import kl
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step


@dataclass(frozen=True)
class TRADES(Method):
    """Cross-entropy on clean images plus beta times the mean KL divergence of the adversarial from the clean one.

    The attack ascends that divergence from x + 0.001 N(0, 1); the loss has its gradient through both predictions.

    beta, steps: 6 and 10 of the released code for CIFAR-10; for MNIST it has 1 and 40.
    step_size: pixel scale; None means min(eps, 2.5 eps / steps), 2/255 at 8/255 where that code has 0.007 at 0.031.

    That code runs the clean images twice in training mode, before and after the adversarial ones; here they run once,
    which differs in the running statistics alone.
    """

    beta: Positive = 6.0
    steps: int = 10
    step_size: float | None = None

    loss_passes = Passes(2, 2)

    paper = "Zhang et al. 2019, arXiv 1901.08573"
    awp_source = "Wu et al. 2020, arXiv 2004.05884"

    def __post_init__(self) -> None:
        check_fields(self, "trades")
        self._attack()

    @property
    def passes(self) -> Passes:
        return Passes(self.steps + 3, self.steps + 2)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return self._attack()(model, step.x, step.y, step.threat, step.randomness)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        clean = model(step.x)
        return functional.cross_entropy(clean, step.targets) + self.beta * kl(model(x_adv), clean).mean()

    def _attack(self) -> PGD:
        return PGD(steps=self.steps, step_size=self.step_size, loss="kl", init="gaussian", keep="last")
