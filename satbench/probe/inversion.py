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
    by steps of normalised length inside [0, 1]. `residual` is the first term at the end. Terzi et al. 2021
    (arXiv 2007.11259) invert representations; start, step length, steps and weight are ours.
    """
    with torch.no_grad():
        wanted = features_of(model, x)
    scale = wanted.square().sum(1).clamp_min(1e-12)
    longest = LONGEST * math.sqrt(math.prod(x.shape[1:]))
    point = uniform(x, streams)
    for step in range(STEPS):
        point.requires_grad_()
        with torch.enable_grad():
            off = (features_of(model, point) - wanted).square().sum(1) / scale
            total = off + SMOOTHNESS * variation(point)
        (slope,) = torch.autograd.grad(total.sum(), point)
        direction = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        length = longest * (1 - step / STEPS)
        point = (point.detach() - length * direction).clamp(0, 1)
    with torch.no_grad():
        residual = (features_of(model, point) - wanted).square().sum(1) / scale
    return Inversion(point, (point - x).flatten(1).double().square().mean(1), residual.double())


def variation(x: Tensor) -> Tensor:
    """The mean absolute difference of pixels that touch by a side, of each image (N, C, H, W), (N,); anisotropic TV."""
    down, right = (x[:, :, 1:] - x[:, :, :-1]).abs(), (x[..., 1:] - x[..., :-1]).abs()
    apart = torch.cat([down.flatten(1), right.flatten(1)], dim=1)
    return apart.sum(1) / max(1, apart.shape[1])
