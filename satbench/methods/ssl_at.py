"""Self-supervised adversarial training (Chen et al. 2020, ICASSP, arXiv 1911.06470), a reconstruction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.base import crafting
from satbench.attacks.gradient import PGD
from satbench.core.parameters import Positive, check_fields
from satbench.methods.base import START, Method, Passes, Step
from satbench.methods.simclr import nt_xent
from satbench.models.features import Encoder


@dataclass(frozen=True)
class SSLAT(Method):
    """NT-Xent between the representations g(x) and g(x') of clean and crafted images, without labels.

    It starts from a trained encoder: `init_from`, or an earlier stage such as `simclr`. x' is the last iterate of PGD
    that ascends 1 - cos(g(x), g(x')). The representation g is what the last linear layer reads; that layer learns
    nothing. Read it out by `satbench readout`, and attack what is read out: `knn-guided` for a kNN.

    temperature: of NT-Xent. steps, step_size: of the attack, as in pgd_at; 10 in the authors' training.

    Read in the authors' code and text: the fine-tuning of a self-supervised encoder so that it tells more of the clean
    image from the crafted one, the kNN read-out, and its attack by guides. Everything else is satbench's. They pretrain
    by AMDIM, compare global with local features by its loss, craft by the attack on the kNN read-out, which takes
    labels, and keep the images alone that it broke.
    """

    temperature: Positive = 0.5
    steps: int = 10
    step_size: float | None = None

    paper = "Chen et al. 2020, ICASSP, arXiv 1911.06470"
    known_from = "reconstruction"
    chosen_by = ("knn_robust", "knn")
    needs_trained = True
    loss_passes = Passes(2, 2)
    labelled = soft_targets = separable = False

    def __post_init__(self) -> None:
        check_fields(self, "ssl_at")
        self._attack()

    @property
    def passes(self) -> Passes:
        return Passes(self.steps + 3, self.steps + 2)

    def begin(self, model: nn.Module, state: dict[str, Tensor], measure: Callable[[], Mapping[str, float]]) -> None:
        for name, figure in measure().items():
            state[f"{START}{name}"] = torch.tensor(figure, dtype=torch.float64)

    def logged(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        return {name: float(figure) for name, figure in state.items()}

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        encoder = Encoder(model)
        with crafting(encoder), torch.no_grad():
            clean = encoder(step.x)

        def distance(z: Tensor) -> Tensor:
            return 1 - functional.cosine_similarity(z, clean)

        return self._attack()(encoder, step.x, step.y, step.threat, step.randomness, distance)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        encoder = Encoder(model)
        return nt_xent(encoder(step.x), encoder(x_adv), self.temperature, step)

    def _attack(self) -> PGD:
        return PGD(steps=self.steps, step_size=self.step_size, keep="last")
