"""What the methods have in common that keep soft labels of every training image."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from satbench.attacks.gradient import PGD
from satbench.core.errors import BadInput
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step

Base = Annotated[
    Literal["pgd_at", "trades"], Field(description="pgd_at or trades; its source joins it to no other method")
]
TABLE = "soft labels"


@dataclass(frozen=True)
class SoftLabels(Method):
    """A table in the state, float32 (N, K), with one row of class weights for every training image, 0 at first.

    A step leaves the new rows (n, K) of its images in `kept["row"]`, and `after_update` writes them.

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

    def mean_passes(self, epochs: float) -> Passes:
        """Without the clean pass that pgd_at takes from `start_epoch` on, in the epochs before."""
        whole, waited = self.passes, min(self.start_epoch, epochs) / epochs
        return Passes(whole.forward - (waited if self.base == "pgd_at" else 0), whole.backward)

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        return {TABLE: torch.zeros(images, classes)}

    def rows(self, step: Step) -> Tensor:
        """Of the images of the step, (n, K), before its update."""
        return step.state[TABLE][step.index]

    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
        parts = [part.kept["row"] for part, _ in step.split(step.x) if "row" in part.kept]
        if parts:
            step.state[TABLE][step.batch_index] = step.processes.everywhere(torch.cat(parts), step)

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
