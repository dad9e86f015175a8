"""What the adversary may do: a norm ball around the image, cut by the pixel box [0, 1]."""

import math

import torch
from torch import Tensor

from satbench.core.eps import NORMS, Threat, parse_eps
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.numerics.seeding import Randomness, normal, uniform

ORDERS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}
TOLERANCE = 1e-5  # relative slack for attacks that project in float32; ball and box both


class ThreatModel(Threat):
    """A threat with its geometry: an `eps`-ball of `norm` ("Linf", "L2" or "L1") in the pixel scale of [0, 1].

    Images are float tensors (N, C, H, W). Raises `BadInput` for an unknown norm or an eps that `parse_eps` refuses.
    """

    def __init__(self, norm: str, eps: float | str) -> None:
        if norm not in NORMS:
            raise BadInput(f"unknown norm {norm!r}; {nearest(norm, NORMS)}")
        super().__init__(norm=norm, eps=parse_eps(eps, norm))

    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """The length of each perturbation in this threat's norm, float64 (N,); see `distance`."""
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
        else:
            sided = (2 * uniform(x, randomness) - 1).clamp(-1 + 1e-6, 1 - 1e-6)
            direction = -sided.sign() * torch.log1p(-sided.abs())  # Laplace: uniform on the L1 sphere once normalised
        length = _length(direction, self.norm).to(x.dtype).view(-1, 1, 1, 1)
        return self.around(x).add(radius * direction / length.clamp_min(1e-12))

    def ascend(self, x: Tensor, x_adv: Tensor, grad: Tensor, step: float) -> Tensor:
        """One step up the gradient inside ball and box; see `Ball.ascend`."""
        return self.around(x).ascend(x_adv, grad, step)


class Ball:
    """Ball and box around some images; what depends on the images alone is computed once."""

    def __init__(self, threat: ThreatModel, x: Tensor) -> None:
        self.norm, self.eps = threat.norm, threat.eps
        self.longest = _longest(threat, x)
        self.fixed: tuple[Tensor, ...] = (x,)
        if self.norm == "Linf":
            self.fixed = (x - self.eps).clamp_(0, 1), (x + self.eps).clamp_(0, 1)

    def keep(self, left: Tensor) -> None:
        """Forget the images outside `left`, int64 positions."""
        self.fixed = tuple(part[left] for part in self.fixed)

    def add(self, delta: Tensor) -> Tensor:
        """The images plus perturbations (N, C, H, W), scaled into the ball and clipped to the box; L2 and L1.

        No result is farther away than eps, whatever was rounded: `_longest` leaves room for the rounding of an L2 sum,
        and in L1, where that room would be D instead of sqrt(D) roundings, every pixel is rounded towards its image.
        """
        (x,) = self.fixed
        scale = (self.longest / _length(delta, self.norm).clamp_min(1e-12)).clamp_max(1)
        scale = scale.to(delta.dtype).view(-1, 1, 1, 1)
        if self.norm == "L2":
            return torch.addcmul(x, delta, scale).clamp_(0, 1)
        delta = delta * scale
        x_adv = (x + delta).clamp_(0, 1)
        return torch.where((x_adv - x).abs() > delta.abs(), torch.nextafter(x_adv, x), x_adv)

    def project(self, x_adv: Tensor) -> Tensor:
        """A point of ball and box near `x_adv`: projected onto the ball, then clipped to the box.

        Clipping moves every pixel towards the image, so the result stays in the ball. For L2 and L1 it is a feasible
        point, not always the nearest one of the intersection.
        """
        if self.norm == "Linf":
            return x_adv.clamp(*self.fixed)
        (x,) = self.fixed
        delta = x_adv - x
        if self.norm == "L1":
            delta = _project_l1(delta.flatten(1), self.longest).view_as(x)
        return self.add(delta)

    def ascend(self, x_adv: Tensor, grad: Tensor, step: float | Tensor) -> Tensor:
        """Move `x_adv` by `step`, a number or (N, 1, 1, 1), along `grad`, staying in ball and box.

        Linf: along the sign. L2: along the normalised gradient. Both are projected afterwards. L1: towards the point of
        ball and box with the largest inner product with the gradient, and no further than that point; a Frank-Wolfe
        step of fixed length (Frank & Wolfe 1956), which needs no projection but for rounding.
        """
        if self.norm == "Linf":
            return grad.sign().mul_(step).add_(x_adv).clamp_(*self.fixed)
        if self.norm == "L2":
            length = torch.linalg.vector_norm(grad.flatten(1), dim=1).view(-1, 1, 1, 1).clamp_min(1e-12)
            return self.project(torch.addcmul(x_adv, grad, step / length))
        delta = x_adv - self.fixed[0]
        towards = (self._best_vertex(grad) - delta) * (grad != 0).flatten(1).any(1).view(-1, 1, 1, 1)
        share = (step / _length(towards, "L1").view(-1, 1, 1, 1).clamp_min(1e-12)).clamp_max(1).to(delta.dtype)
        return self.add(delta + share * towards)

    def _best_vertex(self, grad: Tensor) -> Tensor:
        """The perturbation in L1 ball and box of largest inner product: pixels are filled in order of |grad|."""
        (x,) = self.fixed
        slope, start = grad.flatten(1), x.flatten(1)
        room = torch.where(slope > 0, 1 - start, start) * (slope != 0)
        order = slope.abs().argsort(dim=1, descending=True)
        ordered = room.gather(1, order)
        left = (self.longest - (ordered.cumsum(1) - ordered)).clamp_min(0)
        moved = torch.zeros_like(start).scatter(1, order, torch.minimum(ordered, left))
        return (moved * slope.sign()).view_as(x)


def distance(norm: str, x: Tensor, x_adv: Tensor) -> Tensor:
    """The length of each perturbation in `norm`, float64 (N,): float32 differences, summed in float64.

    Summed in float32 it would be off by 1.5e-5 for images of 600 x 600 pixels.
    """
    return _length(x_adv.float() - x.float(), norm)


def _length(delta: Tensor, norm: str) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(delta.flatten(1), ord=ORDERS[norm], dim=1, dtype=torch.float64)
    return length


def _longest(threat: ThreatModel, x: Tensor) -> float:
    """The length to which a perturbation is scaled so that adding it to `x`, rounded, stays within eps.

    Scale, product and (in L1) comparison are rounded by a relative finfo.eps / 2 each, which 2 finfo.eps cover. A pixel
    of the sum, at most 1, is rounded by at most finfo.eps / 4, which has the L2 length sqrt(D) finfo.eps / 4.
    """
    rounding = torch.finfo(x.dtype).eps
    sums = math.sqrt(math.prod(x.shape[1:])) * rounding / 4 if threat.norm == "L2" else 0.0
    return max(threat.eps * (1 - 2 * rounding) - sums, 0.0)


def _project_l1(delta: Tensor, eps: float) -> Tensor:
    """The nearest point of the L1 ball, rows of (N, D); Duchi et al. 2008, figure 1."""
    magnitude = delta.abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1, dtype=torch.float64) - eps
    rank = torch.arange(1, delta.shape[1] + 1, device=delta.device)
    support = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    shift = (excess.gather(1, support - 1) / support).clamp_min(0).to(delta.dtype)
    return delta.sign() * (magnitude - shift).clamp_min(0)
