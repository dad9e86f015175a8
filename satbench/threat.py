"""What the adversary may do: a norm ball around the image, cut by the pixel box [0, 1]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from satbench.eps import NORMS, format_eps, parse_eps
from satbench.errors import BadInput
from satbench.lookup import nearest
from satbench.seeding import Randomness, normal, uniform

TOLERANCE = 1e-5  # relative slack on a distance recomputed in float32; ball and box both


@dataclass(frozen=True)
class ThreatModel:
    """An `eps`-ball of `norm` ("Linf", "L2" or "L1") in the pixel scale of [0, 1].

    Images are float tensors (N, C, H, W). Raises `BadInput` for an unknown norm or an eps that `parse_eps` refuses.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise BadInput(f"unknown norm {self.norm!r}; {nearest(self.norm, NORMS)}")
        object.__setattr__(self, "eps", parse_eps(repr(float(self.eps)), self.norm))

    @classmethod
    def parse(cls, norm: str, eps: str) -> "ThreatModel":
        """The threat as a command line spells it, such as ("Linf", "8/255")."""
        if norm not in NORMS:
            raise BadInput(f"unknown norm {norm!r}; {nearest(norm, NORMS)}")
        return cls(norm, parse_eps(eps, norm))

    def __str__(self) -> str:
        return f"{self.norm} {format_eps(self.eps)}"

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """How far each image moved, float (N,), in this threat's norm."""
        return distance(self.norm, x, x_adv)

    def contains(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Which rows are finite and inside ball and box up to `TOLERANCE`, bool (N,)."""
        flat = x_adv.flatten(1)
        in_box = (flat >= -TOLERANCE).all(1) & (flat <= 1 + TOLERANCE).all(1)
        in_ball = self.distance(x, x_adv) <= self.eps * (1 + TOLERANCE) + 1e-6
        return flat.isfinite().all(1) & in_box & in_ball

    def around(self, x: Tensor) -> "Ball":
        """Ball and box around `x`, for many steps."""
        return Ball(self, x)

    def project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """A point of ball and box near `x_adv`; see `Ball.project`."""
        return self.around(x).project(x_adv)

    def random_start(self, x: Tensor, randomness: Randomness) -> Tensor:
        """Images uniform in the ball, then clipped to the box."""
        if self.norm == "Linf":
            return (x + self.eps * (2 * uniform(x, randomness) - 1)).clamp(0, 1)
        dimension = math.prod(x.shape[1:])
        radius = self.eps * uniform(x[:, :1, :1, :1], randomness).pow(1 / dimension)
        if self.norm == "L2":
            direction = normal(x, randomness)
            length = _length(direction, "L2")
        else:
            sided = (2 * uniform(x, randomness) - 1).clamp(-1 + 1e-6, 1 - 1e-6)
            direction = -sided.sign() * torch.log1p(-sided.abs())  # Laplace: uniform on the L1 sphere once normalised
            length = _length(direction, "L1")
        return (x + radius * direction / length.clamp_min(1e-12).view(-1, 1, 1, 1)).clamp(0, 1)

    def ascend(self, x: Tensor, x_adv: Tensor, grad: Tensor, step: float) -> Tensor:
        """One step up the gradient inside ball and box; see `Ball.ascend`."""
        return self.around(x).ascend(x_adv, grad, step)


class Ball:
    """Ball and box around some images; what depends on the images alone is computed once."""

    def __init__(self, threat: ThreatModel, x: Tensor) -> None:
        self.norm, self.eps = threat.norm, threat.eps
        self.fixed: tuple[Tensor, ...] = (x,)
        if self.norm == "Linf":
            self.fixed = (x - self.eps).clamp_(0, 1), (x + self.eps).clamp_(0, 1)

    def keep(self, left: Tensor) -> None:
        """Forget the images outside `left`, int64 positions."""
        self.fixed = tuple(part[left] for part in self.fixed)

    def project(self, x_adv: Tensor) -> Tensor:
        """A point of ball and box near `x_adv`: projected onto the ball, then clipped to the box.

        Clipping moves every pixel towards the image, so the result stays in the ball. For L2 and L1 it is a feasible
        point, not always the nearest one of the intersection.
        """
        if self.norm == "Linf":
            return x_adv.clamp(*self.fixed)
        (x,) = self.fixed
        delta = (x_adv - x).flatten(1)
        if self.norm == "L2":
            delta = delta * (self.eps / _length(delta, "L2")[:, None].clamp_min(1e-12)).clamp_max(1)
        else:
            delta = _project_l1(delta, self.eps)
        return (x + delta.view_as(x)).clamp(0, 1)

    def ascend(self, x_adv: Tensor, grad: Tensor, step: float | Tensor) -> Tensor:
        """Move `x_adv` by `step`, a number or (N, 1, 1, 1), where `grad` says, staying in ball and box.

        Linf: along the sign. L2: along the normalised gradient. Both are projected afterwards. L1: towards the point of
        ball and box that a linear function with this gradient prefers, and no further than that point; a Frank-Wolfe
        step of fixed length (Frank & Wolfe 1956), which needs no projection.
        """
        if self.norm == "Linf":
            return grad.sign().mul_(step).add_(x_adv).clamp_(*self.fixed)
        if self.norm == "L2":
            length = _length(grad, "L2").view(-1, 1, 1, 1).clamp_min(1e-12)
            return self.project(x_adv + step * grad / length)
        towards = (self._best_vertex(grad) - x_adv) * (grad != 0).flatten(1).any(1).view(-1, 1, 1, 1)
        share = (step / _length(towards, "L1").view(-1, 1, 1, 1).clamp_min(1e-12)).clamp_max(1)
        return (x_adv + share * towards).clamp(0, 1)

    def _best_vertex(self, grad: Tensor) -> Tensor:
        """The point of L1 ball and box with the largest inner product: pixels are filled in order of |grad|."""
        (x,) = self.fixed
        slope, start = grad.flatten(1), x.flatten(1)
        room = torch.where(slope > 0, 1 - start, start) * (slope != 0)
        order = slope.abs().argsort(dim=1, descending=True)
        ordered = room.gather(1, order)
        left = (self.eps - (ordered.cumsum(1) - ordered)).clamp_min(0)
        moved = torch.zeros_like(start).scatter(1, order, torch.minimum(ordered, left))
        return (start + moved * slope.sign()).view_as(x)


def distance(norm: str, x: Tensor, x_adv: Tensor) -> Tensor:
    """How far each image moved in `norm`, float32 (N,)."""
    return _length(x_adv.float() - x.float(), norm)


def _length(delta: Tensor, norm: str) -> Tensor:
    order = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}[norm]
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)
    return length


def _project_l1(delta: Tensor, eps: float) -> Tensor:
    """The nearest point of the L1 ball, rows of (N, D); Duchi et al. 2008, figure 1."""
    magnitude = delta.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - eps
    rank = torch.arange(1, delta.shape[1] + 1, device=delta.device)
    support = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    shift = (excess.gather(1, support - 1) / support).clamp_min(0)
    return delta.sign() * (magnitude - shift).clamp_min(0)
