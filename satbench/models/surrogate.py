"""ReLU forward, a smooth derivative backward: the ablation of Smooth Adversarial Training (arXiv 2006.14536)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.errors import BadInput

ALPHA = 10.0  # of parametric softplus, log(1 + exp(alpha x)) / alpha


class _Surrogate(torch.autograd.Function):
    """Its backward is made of differentiable steps, so the second derivative is that of parametric softplus too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.relu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(ALPHA * x)


class SurrogateReLU(nn.ReLU):
    """max(x, 0), bit for bit ReLU's, with the derivatives of log(1 + exp(10 x)) / 10: the first is sigmoid(10 x).

    Source: Xie et al. 2020 (arXiv 2006.14536), alpha 10. In-place as `nn.ReLU` is, at the price of a copy.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.inplace:
            return _apply(x)
        return x.copy_(_apply(x.clone()))


def _apply(x: Tensor) -> Tensor:
    out: Tensor = _Surrogate.apply(x)
    return out


def relus(model: nn.Module) -> list[nn.ReLU]:
    """Every `nn.ReLU` of the model, but not what only inherits from it; raises `BadInput` where there is none."""
    found = [module for module in model.modules() if type(module) in (nn.ReLU, SurrogateReLU)]
    if not found:
        raise BadInput(
            "the network has no nn.ReLU whose derivative could be replaced; the surrogate is for ReLU networks"
        )
    return found  # type: ignore[return-value]


@contextmanager
def surrogate_derivative(model: nn.Module) -> Iterator[None]:
    """Let every `nn.ReLU` of `model` compute as `SurrogateReLU` in the passes that begin inside, on any thread.

    Outputs, state-dict keys, hooks and modes stay as they are, and nothing is left behind, also after an error; a
    graph recorded inside keeps the surrogate's derivative. ReLUs called as functions keep their own. Raises `BadInput`
    for a network without `nn.ReLU`.
    """
    before = [(module, type(module)) for module in relus(model)]
    for module, _ in before:
        module.__class__ = SurrogateReLU
    try:
        yield
    finally:
        for module, kind in before:
            module.__class__ = kind
