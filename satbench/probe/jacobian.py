"""How strongly the representation of an image depends on its pixels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.core.errors import BadInput
from satbench.models.features import features_of
from satbench.numerics.seeding import PerSample, uniform

VECTORS = 16  # random vectors an image, a backward pass each


@dataclass(frozen=True)
class Jacobian:
    """Estimates of |J|_F^2, float64 (N, V), one for each random vector, and |z|^2, float64 (N,), of each image."""

    estimates: Tensor
    length: Tensor

    @property
    def squared(self) -> Tensor:
        """|J|_F^2 of each image, float64 (N,)."""
        return self.estimates.mean(1)

    @property
    def error(self) -> Tensor:
        """The standard error of `squared` that the choice of random vectors leaves, float64 (N,)."""
        vectors = self.estimates.shape[1]
        return self.estimates.std(1) / math.sqrt(vectors)

    @property
    def relative(self) -> Tensor:
        """|J|_F^2 / |z|^2, float64 (N,), which does not change when the representation is scaled; NaN where z is 0."""
        return torch.where(self.length > 0, self.squared / self.length, torch.nan)


def jacobian(model: nn.Module, x: Tensor, streams: PerSample, vectors: int = VECTORS) -> Jacobian:
    """The squared Frobenius norm of the Jacobian J = dz/dx of the representation z of images `x` (N, C, H, W).

    Hutchinson's estimator of the trace of J J^T (Hutchinson 1990, Communications in Statistics 19:433): the mean of
    |J^T v|^2 over vectors v of random signs, without bias. z is `features_of` the model. Divided by s^2 it is the trace
    of the Fisher information about x of z with Gaussian noise of deviation s (Terzi et al. 2021, arXiv 2007.11259).
    Raises `BadInput` where there is no representation, or no gradient from it to the image.
    """
    point = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        z = features_of(model, point)
    if not z.requires_grad:
        raise BadInput("the network's representation has no gradient to its image; give a differentiable network")
    estimates = []
    for _ in range(vectors):
        signs = (2 * uniform(z, streams) - 1).sign()
        (slope,) = torch.autograd.grad(z, point, signs, retain_graph=True)
        estimates.append(slope.flatten(1).double().square().sum(1))
    return Jacobian(torch.stack(estimates, dim=1), z.detach().double().square().sum(1))
