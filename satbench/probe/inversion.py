"""Images that a network represents as it represents given ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.models.features import features_of
from satbench.numerics.seeding import PerSample, uniform

STEPS = 300
LONGEST = 0.1  # first step, as a root mean square over pixels; the length falls linearly to 0
SMOOTHNESS = 0.01  # weight of the total variation


@dataclass(frozen=True)
class Inversion:
    """Reconstructions `x` (N, C, H, W) in [0, 1], their mean squared error and their residual, float64 (N,)."""

    x: Tensor
    error: Tensor
    residual: Tensor


def invert(model: nn.Module, x: Tensor, streams: PerSample) -> Inversion:
    """Search, from uniform noise, images with the representation of `x` (N, C, H, W) in [0, 1].

    Descends |z' - z|^2 / |z|^2 + `SMOOTHNESS` * TV(x'), with TV the mean absolute difference of neighbouring pixels,
    by steps of normalised length inside [0, 1], and returns the iterate of the smallest sum. `residual` is the first
    term alone. Terzi et al. 2021 (arXiv 2007.11259) invert representations; step length, steps and weight are ours.
    """
    with torch.no_grad():
        wanted = features_of(model, x)
    scale = wanted.square().sum(1).clamp_min(1e-12)
    point = uniform(x, streams)
    best, lowest, residual = point, torch.full_like(scale, torch.inf), torch.full_like(scale, torch.inf)
    for step in range(STEPS + 1):
        moving = point.clone().requires_grad_()
        with torch.enable_grad():
            off = (features_of(model, moving) - wanted).square().sum(1) / scale
            total = off + SMOOTHNESS * variation(moving)
        (slope,) = torch.autograd.grad(total.sum(), moving)
        off, total = off.detach(), total.detach()
        better = total < lowest
        best = torch.where(better.view(-1, 1, 1, 1), point, best)
        lowest, residual = torch.where(better, total, lowest), torch.where(better, off, residual)
        length = LONGEST * (1 - step / STEPS) * math.sqrt(math.prod(x.shape[1:]))
        direction = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        point = (point - length * direction).clamp(0, 1)
    error = (best - x).flatten(1).double().square().mean(1)
    return Inversion(best, error, residual.double())


def variation(x: Tensor) -> Tensor:
    """The mean absolute difference of pixels that touch by a side, of each image (N, C, H, W), (N,); anisotropic TV."""
    down, right = (x[:, :, 1:] - x[:, :, :-1]).abs(), (x[..., 1:] - x[..., :-1]).abs()
    apart = torch.cat([down.flatten(1), right.flatten(1)], dim=1)
    return apart.sum(1) / max(1, apart.shape[1])
