"""AutoAttack behind cheap attacks."""

from dataclasses import dataclass

from torch import Tensor, nn

from satbench.attacks.autoattack import AutoAttack
from satbench.attacks.base import Attack, Described, describe
from satbench.attacks.foreign import UNIT
from satbench.attacks.gradient import PGD, fgsm
from satbench.attacks.stages import run_stages
from satbench.core.parameters import Count, check_fields
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo


@dataclass(frozen=True, repr=False)
class Cascade(Described):
    """Cheap attacks first, AutoAttack's own last: FGSM, PGD-10 with two restarts, then the four of the standard.

    An image that a cheap attack breaks never costs AutoAttack's several hundred passes; one that stands has been
    through all of AutoAttack standard (Croce & Hein 2020, arXiv 2003.01690), so the rate is at most AutoAttack's, up to
    randomness. `unit` is that of its components.
    """

    unit: Count = UNIT

    def __post_init__(self) -> None:
        check_fields(self, "cascade")

    @property
    def stages(self) -> tuple[Attack, ...]:
        return (fgsm(), PGD(steps=10, restarts=2), *AutoAttack(unit=self.unit).stages)

    @property
    def info(self) -> AttackInfo:
        return describe(self, "cascade", "ensemble", "AutoAttack", "Cascade")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return run_stages(self.stages, model, x, y, threat, randomness)
