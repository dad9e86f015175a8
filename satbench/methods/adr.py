"""Annealing self-distillation rectification, ADR (Wu et al. 2024, ICLR, arXiv 2305.12118)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.losses import kl
from satbench.core.parameters import Count, Positive, Share, ShareBelow1
from satbench.methods.base import Passes, Step, second_network, weights_of
from satbench.methods.extension import Extension

TEACHER = "teacher"


@dataclass(frozen=True)
class ADR(Extension):
    """The base method with labels that a teacher rectifies, an exponential moving average of the network itself.

    Before an image is attacked, its label becomes q = l p + (1 - l) one-hot, with the teacher's clean prediction
    p = softmax(logits / T) in eval mode and l = interpolation - (max p - p_y), cut to [0, 1]: the more the teacher
    prefers a wrong class, the less it weighs. For base

    - "pgd_at", attack and update have the cross-entropy of the crafted image with q;
    - "trades", the attack is that of TRADES, and q replaces the label in its clean cross-entropy.

    After every update, teacher <- decay teacher + (1 - decay) network, running statistics included; it starts as the
    network with which the run or the stage begins.

    temperature, end_temperature; interpolation, end_interpolation: T and the largest l go from the first to the second
        value as half a cosine over `end_epoch` epochs of the run or the stage, taken in the middle of each update, and
        stay there.
    beta: of TRADES; None means 6. steps, step_size: of the attack, as in pgd_at and trades.

    Read in the authors' released code; the defaults are those of its ResNet-18 on CIFAR-10, for both bases, with 200
    epochs. With AWP it has end_temperature 1.5, end_interpolation 0.85 and gamma 0.005. It crafts images in training
    mode (`attack_bn_mode=train`), and its TRADES starts from uniform noise in [0, 0.001], here from 0.001 N(0, 1).
    Its "WA" measures the teacher. `averaging=ema` with averaging.warmup=0 comes close to it: there the first updates
    weigh more, and the running statistics are the network's.
    """

    temperature: Positive = 2.5
    end_temperature: Positive = 2.0
    interpolation: Share = 0.7
    end_interpolation: Share = 0.95
    end_epoch: Count = 200
    decay: ShareBelow1 = 0.995

    called = "adr"
    paper = awp_source = "Wu et al. 2024, ICLR, arXiv 2305.12118"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base == "trades":
            object.__setattr__(self, "loss_passes", Passes(2, 2))

    @property
    def passes(self) -> Passes:
        crafting = self.steps + 1 + (self.base == "trades")
        return Passes(crafting + self.loss_passes.forward, self.steps + self.loss_passes.backward)

    def annealed(self, epoch: float) -> tuple[float, float]:
        """T and the largest l after `epoch` epochs."""
        left = (1 + math.cos(math.pi * min(1.0, epoch / self.end_epoch))) / 2
        return (
            self.end_temperature + left * (self.temperature - self.end_temperature),
            self.end_interpolation + left * (self.interpolation - self.end_interpolation),
        )

    def begin(self, model: nn.Module, state: dict[str, Tensor], measure: Callable[[], Mapping[str, float]]) -> None:
        state |= weights_of(model, TEACHER)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        step.kept["label"] = label = self._rectified(step)

        def objective(logits: Tensor) -> Tensor:
            return functional.cross_entropy(logits, label, reduction="none")

        soft = objective if self.base == "pgd_at" else None
        return self._attack()(model, step.x, step.y, step.threat, step.randomness, soft)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        self.refuse_soft(step.targets)
        label = step.kept["label"]
        if self.base == "pgd_at":
            return functional.cross_entropy(model(x_adv), label)
        clean = model(step.x)
        return functional.cross_entropy(clean, label) + self.divergence * kl(model(x_adv), clean).mean()

    @torch.no_grad()
    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
        for name, tensor in model.state_dict().items():
            average = step.state[f"{TEACHER}.{name}"]
            if average.is_floating_point():
                average.lerp_(tensor, 1 - self.decay)
            else:
                average.copy_(tensor)

    def _rectified(self, step: Step) -> Tensor:
        temperature, most = self.annealed(step.epoch)
        p = (second_network(step, TEACHER, step.x) / temperature).softmax(1)
        true = p.gather(1, step.y[:, None])
        share = (most - (p.amax(1, keepdim=True) - true)).clamp(0, 1)
        return share * p + (1 - share) * functional.one_hot(step.y, p.shape[1])
