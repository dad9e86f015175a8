"""MART, misclassification-aware adversarial training (Wang et al. 2020, ICLR, openreview rklOg6EFwS)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import PGD
from satbench.attacks.losses import kl
from satbench.core.errors import BadInput
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step


@dataclass(frozen=True)
class MART(Method):
    """Boosted cross-entropy on adversarial images plus a divergence that weighs more where the clean image is missed.

    With p of the clean and p' of the adversarial image: the mean of
    -log p'_y - log(1.0001 - max_{c != y} p'_c + 1e-12) + beta KL(p || p') (1.0000001 - p_y), its gradient through every
    factor. The constants are the released code's. PGD on the cross-entropy from x + 0.001 N(0, 1) crafts the images.

    beta, steps: 5 and 10 of that code for ResNet-18; 6 for WRN-34-10.
    step_size: pixel scale; None means min(eps, 2.5 eps / steps), 2/255 at 8/255 where that code has 0.007 at 0.031.

    Raises `BadInput` for soft targets, which have no p_y.
    """

    beta: Positive = 5.0
    steps: int = 10
    step_size: float | None = None

    loss_passes = Passes(2, 2)
    soft_targets = False

    paper = "Wang et al. 2020, ICLR"
    awp_source = "Wu et al. 2020, arXiv 2004.05884"

    def __post_init__(self) -> None:
        check_fields(self, "mart")
        self._attack()

    @property
    def passes(self) -> Passes:
        return Passes(self.steps + 2, self.steps + 2)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return self._attack()(model, step.x, step.y, step.threat, step.randomness)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        if step.targets.is_floating_point():
            raise BadInput("mart is defined for hard labels and was given soft ones; leave out label smoothing")
        clean, logits = model(step.x), model(x_adv)
        true = step.y[:, None]
        runner_up = functional.softmax(logits, dim=1).scatter(1, true, -1).amax(1)
        boosted = functional.cross_entropy(logits, step.y, reduction="none") - (1.0001 - runner_up + 1e-12).log()
        missed = 1.0000001 - functional.softmax(clean, dim=1).gather(1, true)[:, 0]
        return (boosted + self.beta * kl(logits, clean) * missed).mean()

    def _attack(self) -> PGD:
        return PGD(steps=self.steps, step_size=self.step_size, init="gaussian", keep="last")
