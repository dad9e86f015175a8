"""The activation functions under comparison, each with how smooth it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.lookup import find


class SmoothReLU(nn.Module):
    """x - log(1 + beta x) / beta for x >= 0 and 0 below, with beta = r^2 and one learnable scalar r.

    The derivative is beta x / (1 + beta x) for x > 0 and 0 below, so the first derivative is continuous; as beta grows
    the function tends to ReLU. Each site of a network owns one module: the scalar is never shared. Source: Xie et al.
    2020 (arXiv 2006.14536); r starts at 20 and has shape (1,) as in the released code.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.tensor([20.0]))

    def forward(self, x: Tensor) -> Tensor:
        beta = self.root.square().to(x.dtype)  # else float32 under autocast
        positive = functional.relu(x)
        return positive - torch.log1p(beta * positive) / beta


@dataclass(frozen=True)
class Activation:
    """One row of `ACTIVATIONS`: `make()` gives a fresh module for one site.

    `smoothness` is the number of continuous derivatives at every point: 0 for a kink, `math.inf` for a smooth function.
    """

    make: Callable[[], nn.Module]
    smoothness: float
    formula: str


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(nn.ReLU, 0, "max(x, 0)"),
    "silu": Activation(nn.SiLU, math.inf, "x sigmoid(x)"),
    "gelu": Activation(partial(nn.GELU, approximate="tanh"), math.inf, "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))"),
    "gelu_exact": Activation(nn.GELU, math.inf, "x Phi(x)"),
    "softplus": Activation(nn.Softplus, math.inf, "log(1 + exp(x))"),
    "parametric_softplus": Activation(partial(nn.Softplus, beta=10.0), math.inf, "log(1 + exp(10 x)) / 10"),
    "elu": Activation(nn.ELU, 1, "x for x >= 0, exp(x) - 1 below"),
    "celu": Activation(nn.CELU, 1, "x for x >= 0, exp(x) - 1 below; other than ELU it stays C1 for every alpha"),
    "mish": Activation(nn.Mish, math.inf, "x tanh(log(1 + exp(x)))"),
    "smoothrelu": Activation(SmoothReLU, 1, "x - log(1 + r^2 x) / r^2 for x >= 0, 0 below; r learnable, one a site"),
}


def activation(name: str) -> Callable[[], nn.Module]:
    """A factory of fresh modules for the named activation; raises `BadInput` for an unknown name."""
    return find(ACTIVATIONS, name, "activation").make
