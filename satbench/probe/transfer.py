"""What a linear layer on top of a frozen representation learns of another data set."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from satbench.core.errors import BadInput
from satbench.data import Images

STRENGTH = 1.0  # inverse of the L2 penalty, scikit-learn's C and its default
AT_ONCE = 256  # images whose pixels are read together
MOST_STEPS = 1000
SETTLED = 1e-6  # largest entry of the gradient of the mean loss


def linear_transfer(represent: Callable[[Tensor], Tensor], train: Images, test: Images, batch_size: int) -> Tensor:
    """Which test images a linear readout of the frozen representation classifies correctly, bool (N,).

    Multinomial logistic regression is trained on `represent` of the training images, every feature standardised by
    their mean and deviation, so that the scale of a representation does not decide. Equal settings for all networks.
    Raises `BadInput` where test labels are missing from the training images or the fit does not converge.
    """
    absent = set(test.y.tolist()) - set(train.y.tolist())
    if absent:
        raise BadInput(f"the training images of {train.name} have no label {min(absent)}, which its test images have")
    z, y = _represented(represent, train, batch_size)
    weight, bias = linear_readout(z, y, int(y.max()) + 1)
    shown, labels = _represented(represent, test, batch_size)
    return ((shown @ weight.T + bias).argmax(1) == labels).cpu()


def linear_readout(z: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and bias (K,) of `logistic_regression` on standardised features, for the features as they are.

    z: float64 (N, D). y: int64 (N,).
    """
    mean, spread = z.mean(0), z.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1)
    weight, bias = logistic_regression((z - mean) / spread, y, classes)
    weight = weight / spread
    return weight, bias - weight @ mean


def pixel_transfer(train: Images, test: Images) -> np.ndarray:
    """Which test images a linear readout of the pixels themselves classifies correctly, bool (N,); see above."""
    return linear_transfer(lambda x: x.flatten(1), train, test, AT_ONCE).numpy()


def logistic_regression(z: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (K, D) and bias (K,) that minimise cross-entropy with an L2 penalty on the weights; float64.

    z: (N, D). y: int64 (N,). The minimum of `STRENGTH` * sum of losses + |W|^2 / 2, as scikit-learn's
    `LogisticRegression` defines it, found by L-BFGS.
    """
    weight = torch.zeros(classes, z.shape[1], dtype=torch.float64, device=z.device, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, device=z.device, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=MOST_STEPS, tolerance_grad=SETTLED, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        with torch.enable_grad():
            penalty = weight.square().sum() / (2 * STRENGTH * len(z))
            total = functional.cross_entropy(z @ weight.T + bias, y) + penalty
        weight.grad, bias.grad = torch.autograd.grad(total, (weight, bias))
        return total.detach()

    search.step(loss)  # type: ignore[no-untyped-call]
    loss()
    assert weight.grad is not None
    assert bias.grad is not None
    if not max(float(weight.grad.abs().max()), float(bias.grad.abs().max())) <= 10 * SETTLED:
        raise BadInput(f"a linear readout did not converge in {MOST_STEPS} steps; give a smaller target data set")
    return weight.detach(), bias.detach()


def _represented(represent: Callable[[Tensor], Tensor], images: Images, batch_size: int) -> tuple[Tensor, Tensor]:
    parts = []
    with torch.no_grad():
        for _, x, y in images.batches(batch_size):
            z = represent(x).double()
            parts.append((z, y.to(z.device)))
    return torch.cat([z for z, _ in parts]), torch.cat([y for _, y in parts])
