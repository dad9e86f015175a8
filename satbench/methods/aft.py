"""Adversarial fine-tuning with a dynamically regulated adversary (Hou et al. 2022, arXiv 2204.13232), a reconstruction.

Only the abstract was to be had: the aim, robustness without giving up standard accuracy, a start from a trained
standard network, and an attack that costs little. Every formula and number below is satbench's.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.base import batch_statistics
from satbench.attacks.gradient import PGD
from satbench.attacks.losses import kl
from satbench.core.errors import BadInput
from satbench.core.parameters import FromZero, Share, check_fields
from satbench.methods.base import START, Method, Passes, Step, second_network, weights_of
from satbench.methods.pgd_at import EarlyStop
from satbench.numerics.threat import ThreatModel

ANCHOR = "anchor"


@dataclass(frozen=True)
class AFT(Method):
    """(1 - mix) CE(f(x), y) + mix CE(f(x'), y) + anchor KL(f_0(x) || f(x)), with f_0 the network as the stage found it.

    It starts from a trained network: `init_from`, or an earlier stage of the run. x' is the last iterate of PGD, of
    which an image takes no more steps once it has been misclassified `early_stop` times, inside `scale` times the
    radius. After every epoch the scale falls by `down` where clean validation accuracy is more than `budget` below that
    of f_0, and rises by `up` elsewhere; so every epoch has to be measured. The network is measured at the full radius.
    The log has the scale of every epoch.

    mix: 1 is adversarial fine-tuning alone. budget: a share of the images. start, least: of the scale.
    early_stop: pairs of an epoch of the stage and the patience of PGD from there on, as in `pgd_at`.
    batch_norm: whose running statistics move, those of "clean" images alone or of "both" halves.
    """

    mix: Share = 0.5
    anchor: FromZero = 0.0
    steps: int = 10
    step_size: float | None = None
    early_stop: EarlyStop = ((0, 1), (2, 2), (4, 3))
    start: Share = 0.25
    least: Share = 0.1
    up: Share = 0.1
    down: Share = 0.05
    budget: Share = 0.01
    batch_norm: Literal["clean", "both"] = "clean"

    reads = ("clean",)
    needs_trained = True

    paper = "Hou et al. 2022, arXiv 2204.13232"
    known_from = "reconstruction"

    def __post_init__(self) -> None:
        check_fields(self, "aft")
        self._attack(None)
        if not 0 < self.least <= self.start:
            raise BadInput(f"least={self.least:g} of aft is not above 0 and up to start={self.start:g}")
        object.__setattr__(self, "early_stop", tuple((epoch, count) for epoch, count in self.early_stop))

    @property
    def loss_passes(self) -> Passes:  # type: ignore[override]
        clean = 1 if self.mix < 1 else 0
        anchor = 1 if self.anchor else 0
        return Passes(1 + max(clean, anchor) + anchor, 1 + max(clean, anchor))

    @property
    def two_modes(self) -> bool:  # type: ignore[override]
        return self.batch_norm == "clean" and (self.mix < 1 or self.anchor > 0)

    @property
    def passes(self) -> Passes:
        loss = self.loss_passes
        return Passes(self.steps + loss.forward, self.steps + loss.backward)

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        return {"scale": torch.tensor(self.start)}

    def begin(self, model: nn.Module, state: dict[str, Tensor], measure: Callable[[], Mapping[str, float]]) -> None:
        for name, figure in measure().items():
            state[f"{START}{name}"] = torch.tensor(figure, dtype=torch.float64)
        if self.anchor:
            state |= weights_of(model, ANCHOR)

    def after_epoch(self, state: dict[str, Tensor], figures: Mapping[str, float]) -> None:
        scale, drop = float(state["scale"]), float(state[f"{START}clean"]) - figures["clean"]
        state["scale"].fill_(max(self.least, scale - self.down) if drop > self.budget else min(1.0, scale + self.up))

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        counts = [count for epoch, count in self.early_stop if epoch <= step.epoch]
        threat = ThreatModel(step.threat.norm, step.threat.eps * float(step.state["scale"]))
        return self._attack(counts[-1] if counts else None)(model, step.x, step.y, threat, step.randomness)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        has_clean = self.mix < 1 or self.anchor > 0
        with batch_statistics(model) if has_clean and self.batch_norm == "clean" else nullcontext():
            loss = self.mix * functional.cross_entropy(model(x_adv), step.targets)
        if not has_clean:
            return loss
        clean = model(step.x)
        loss = loss + (1 - self.mix) * functional.cross_entropy(clean, step.targets)
        if self.anchor:
            loss = loss + self.anchor * kl(clean, second_network(step, ANCHOR, step.x)).mean()
        return loss

    def logged(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(tensor) for name, tensor in state.items() if name == "scale" or name.startswith(START)}

    def _attack(self, patience: int | None) -> PGD:
        return PGD(steps=self.steps, step_size=self.step_size, keep="last", patience=patience)
