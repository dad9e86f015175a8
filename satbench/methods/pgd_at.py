"""PGD adversarial training (Madry et al. 2018, arXiv 1706.06083).

With a smooth activation this is Smooth Adversarial Training (Xie et al. 2020, arXiv 2006.14536), whose own recipe takes
a single step of length eps from a random start: `steps=1`.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import PGD
from satbench.seeding import Randomness
from satbench.threat import ThreatModel


@dataclass(frozen=True)
class PGDAT:
    """Cross-entropy on the last iterate of PGD, crafted in eval mode from a random start.

    steps: 10 as in the released code of Rice et al. 2020 (arXiv 2002.11569).
    step_size: pixel scale; None means min(eps, 2.5 eps / steps), the released SAT code's max(step, eps / steps) for one
        step and 2/255 for ten steps at 8/255.
    """

    steps: int = 10
    step_size: float | None = None
    init: str = "uniform"

    def __post_init__(self) -> None:
        self._attack()

    @property
    def cost(self) -> int:
        return self.steps + 1

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return self._attack()(model, x, y, threat, randomness)

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        return functional.cross_entropy(model(x_adv), y)

    def _attack(self) -> PGD:
        return PGD(steps=self.steps, step_size=self.step_size, init=self.init, keep="last")
