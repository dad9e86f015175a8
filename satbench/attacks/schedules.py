"""How the gradient loop moves: step lengths over time, momentum, and APGD's rule, each with its state a sample."""

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from satbench.numerics.threat import Ball

SCHEDULES = ("fixed", "cosine", "apgd")


class Mover(Protocol):
    """Takes one restart from iterate to iterate."""

    def move(self, iteration: int, x_adv: Tensor, grad: Tensor, losses: Tensor) -> Tensor:
        """The iterate after number `iteration`, counted from 0, whose gradient and losses (N,) are given."""

    def keep(self, left: Tensor) -> None:
        """Forget the samples outside `left`, int64 positions in the present batch."""


@dataclass
class Ascent:
    """Steps of one length, or falling to 0 along half a cosine.

    momentum: the decay factor of MI-FGSM (Dong et al. 2018, arXiv 1710.06081), which steps along the decayed sum of the
        gradients so far, each divided by its L1 norm; 0 steps along the gradient itself.
    """

    ball: Ball
    step: float
    steps: int
    cosine: bool = False
    momentum: float = 0.0
    total: Tensor | None = field(default=None, init=False)

    def move(self, iteration: int, x_adv: Tensor, grad: Tensor, losses: Tensor) -> Tensor:
        if self.momentum:
            length = torch.linalg.vector_norm(grad.flatten(1), 1, dim=1).clamp_min(torch.finfo(grad.dtype).tiny)
            share = grad / length.view(-1, 1, 1, 1)
            self.total = share if self.total is None else self.momentum * self.total + share
            grad = self.total
        factor = (1 + math.cos(math.pi * iteration / self.steps)) / 2 if self.cosine else 1.0
        return self.ball.ascend(x_adv, grad, factor * self.step)

    def keep(self, left: Tensor) -> None:
        self.ball.keep(left)
        self.total = None if self.total is None else self.total[left]


@dataclass
class APGD:
    """Auto-PGD (Croce & Hein 2020, arXiv 2003.01690, algorithm 1) for Linf and L2.

    A sample's step starts at 2 eps and is halved at a checkpoint where the loss rose in at most 0.75 of the steps since
    the last one, or where neither step nor best loss changed since; the sample then continues from its best point. Each
    step is mixed with a quarter of the one before.
    """

    ball: Ball
    steps: int

    def __post_init__(self) -> None:
        self.checkpoints = checkpoints(self.steps)
        self.state: dict[str, Tensor] = {}

    def move(self, iteration: int, x_adv: Tensor, grad: Tensor, losses: Tensor) -> Tensor:
        now = self.state
        if iteration == 0:
            never = torch.zeros_like(losses)
            self.state = now = {
                "before": x_adv,
                "best": x_adv.clone(),
                "slope": grad.clone(),
                "loss": losses,
                "highest": losses,
                "checked": losses,
                "rises": never,
                "halved": never == 0,
                "step": x_adv.new_full(losses.shape, 2 * self.ball.eps),
            }
        else:
            now["rises"] = now["rises"] + (losses > now["loss"])
            now["loss"] = losses
            better = (losses > now["highest"]).nonzero()[:, 0]
            now["best"][better], now["slope"][better] = x_adv[better], grad[better]
            now["highest"] = torch.maximum(losses, now["highest"])
        if iteration in self.checkpoints:
            x_adv, grad = self._check(iteration, x_adv, grad)
        moved = self.ball.ascend(x_adv, grad, now["step"].view(-1, 1, 1, 1))
        if iteration:
            moved = torch.lerp(x_adv, moved, 0.75).add_(x_adv, alpha=0.25).sub_(now["before"], alpha=0.25)
            moved = self.ball.project(moved)
        now["before"] = x_adv
        return moved

    def _check(self, iteration: int, x_adv: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        now = self.state
        period = iteration - max(point for point in (0, *self.checkpoints) if point < iteration)
        idle = ~now["halved"] & (now["highest"] <= now["checked"])
        halved = (now["rises"] <= 0.75 * period) | idle
        now["halved"], now["checked"], now["rises"] = halved, now["highest"], torch.zeros_like(now["rises"])
        now["step"] = torch.where(halved, now["step"] / 2, now["step"])
        rows = halved.view(-1, 1, 1, 1)
        return torch.where(rows, now["best"], x_adv), torch.where(rows, now["slope"], grad)

    def keep(self, left: Tensor) -> None:
        self.ball.keep(left)
        self.state = {name: value[left] for name, value in self.state.items()}


def checkpoints(steps: int) -> tuple[int, ...]:
    """The iterations at which APGD looks back: 22, 41, 57, 70, 80, 87, 93 and 99 of 100, in proportion for others."""
    share, period, found = 22, 22, []
    while share <= 100:
        found.append(-(-share * steps // 100))
        period = max(period - 3, 6)
        share += period
    return tuple(sorted(set(found)))
