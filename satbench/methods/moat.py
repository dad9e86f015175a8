"""Multi-stage optimisation based adversarial training (Wang et al. 2021, arXiv 2106.15357), a reconstruction.

The abstract says that training periodically takes benign, single-step and multi-step examples stage by stage, so that
the multi-step ones keep the cheap ones from overfitting catastrophically. Lengths, mixtures and attacks of the stages
were not to be had: those below are satbench's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.errors import BadInput
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import Method, Passes, Step
from satbench.methods.fgsm_rs import FGSMRS
from satbench.methods.pgd_at import PGDAT
from satbench.methods.standard import Standard

Stages = Annotated[
    Sequence[Annotated[tuple[Positive, str], Field(strict=False)]],
    Field(min_length=1, description="pairs of a length above 0 and kinds of examples, such as 4:single+2:multi"),
]


@dataclass(frozen=True)
class MOAT(Method):
    """Cross-entropy on the examples of the present stage; the stages repeat until the run ends.

    stages: pairs of a length and the kinds of examples, joined by & where updates take them in turn: "benign", "single"
        (RS-FGSM) and "multi" (PGD). 4:single+2:multi costs 4 passes an image on average, forward and backward counted
        as one; 1:benign+3:single+2:multi costs 3.8; 2:benign&single+2:single+2:single&multi mixes within stages.
    unit: of the lengths, "epochs" or "updates".
    steps, step_size: of PGD, as in `pgd_at`.
    """

    stages: Stages = ((4, "single"), (2, "multi"))
    unit: Literal["epochs", "updates"] = "epochs"
    steps: int = 7
    step_size: float | None = None

    paper = "Wang et al. 2021, arXiv 2106.15357"
    known_from = "reconstruction"

    def __post_init__(self) -> None:
        check_fields(self, "moat")
        object.__setattr__(self, "stages", tuple((length, kinds) for length, kinds in self.stages))
        known = self._known()
        for kind in (kind for _, kinds in self.stages for kind in kinds.split("&")):
            if kind not in known:
                raise BadInput(f"unknown examples {kind!r} in stages of moat; known: {', '.join(known)}, joined by &")

    def refuse_length(self, epochs: float, updates: int) -> None:
        there = epochs if self.unit == "epochs" else updates
        if (before := sum(length for length, _ in self.stages[:-1])) >= there:
            raise BadInput(
                f"moat reaches its last stage, {self.stages[-1][1]}, after {before:g} {self.unit}, and the run, or its "
                f"stage, has {there:g}; give more epochs, or shorter lengths in method.stages"
            )

    @property
    def passes(self) -> Passes:
        each = [method.passes for _, methods in self._stages() for method in methods]
        return Passes(max(one.forward for one in each), max(one.backward for one in each))

    def mean_passes(self, epochs: float) -> Passes:
        period = sum(length for length, _ in self.stages)
        periods, rest = divmod(epochs if self.unit == "epochs" else period, period)
        forward = backward = total = 0.0
        for length, methods in self._stages():
            share = periods * length + min(length, max(0.0, rest))
            rest -= length
            forward += share * sum(one.passes.forward for one in methods) / len(methods)
            backward += share * sum(one.passes.backward for one in methods) / len(methods)
            total += share
        return Passes(forward / total, backward / total)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return self.taken_by(step).perturb(model, step)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return functional.cross_entropy(model(x_adv), step.targets)

    def taken_by(self, step: Step) -> Method:
        """The method that crafts the examples of an update, a function of its number and epoch alone."""
        at = step.epoch if self.unit == "epochs" else float(step.number)
        at %= sum(length for length, _ in self.stages)
        for length, methods in self._stages():
            if at < length:
                return methods[step.number % len(methods)]
            at -= length
        return methods[step.number % len(methods)]  # where a sum of lengths was rounded

    def _stages(self) -> list[tuple[float, list[Method]]]:
        known = self._known()
        return [(length, [known[kind] for kind in kinds.split("&")]) for length, kinds in self.stages]

    def _known(self) -> dict[str, Method]:
        return {"benign": Standard(), "single": FGSMRS(), "multi": PGDAT(self.steps, self.step_size)}
