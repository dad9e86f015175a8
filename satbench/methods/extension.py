"""What methods have in common that extend PGD training or TRADES by other labels or a further term."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from satbench.attacks.gradient import PGD
from satbench.core.errors import BadInput
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method

Base = Annotated[
    Literal["pgd_at", "trades"], Field(description="pgd_at or trades; its source joins it to no other method")
]


@dataclass(frozen=True)
class Extension(Method):
    """A method around another one.

    base: "pgd_at" or "trades", the method that is extended; beta: of TRADES, None means 6; steps, step_size: of the
        attack, as in pgd_at and trades.
    """

    base: Base = "pgd_at"
    beta: Positive | None = None
    steps: int = 10
    step_size: float | None = None

    called: ClassVar[str]  # in the table of methods
    soft_targets = False

    def __post_init__(self) -> None:
        check_fields(self, self.called)
        self._attack()
        if self.beta is not None and self.base != "trades":
            raise BadInput(
                f"beta of {self.called} is the weight of TRADES' divergence; leave it out or set base=trades"
            )

    @property
    def divergence(self) -> float:
        """The weight of TRADES' divergence."""
        return 6.0 if self.beta is None else self.beta

    def refuse_soft(self, targets: Tensor) -> None:
        """Raise `BadInput` for soft targets, which no source has under its own."""
        if targets.is_floating_point():
            raise BadInput(
                f"{self.called} is defined for hard labels and was given soft ones; leave out label smoothing"
            )

    def _attack(self) -> PGD:
        if self.base == "trades":
            return PGD(steps=self.steps, step_size=self.step_size, loss="kl", init="gaussian", keep="last")
        return PGD(steps=self.steps, step_size=self.step_size, keep="last")
