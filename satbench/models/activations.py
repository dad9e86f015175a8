"""The activation functions that torch lacks, and modules of all of `core.tables.ACTIVATIONS`."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import check_keywords, located
from satbench.core.tables import ACTIVATIONS
from satbench.specs.activation import parse_activation


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


class PSiLU(nn.Module):
    """x sigmoid(|alpha| x), with one learnable scalar alpha of shape (1,) that starts at `alpha`.

    The parametric SiLU of Dai, Mahloujifar & Mittal 2021 (arXiv 2110.05626). Each site of a network owns one module,
    so each learns an alpha of its own; in the paper one is shared by the whole network. The absolute value is that of
    the code the authors gave RobustBench for `PSSiLU`; for this function it was read in an unnamed copy of their code.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.alpha.abs().to(x.dtype) * x)


class PSSiLU(nn.Module):
    """x (sigmoid(|alpha| x) - |beta|) / (1 - |beta|), with two learnable scalars of shape (1,), one pair a site.

    The parametric shifted SiLU of Dai, Mahloujifar & Mittal 2021 (arXiv 2110.05626), with the absolute values and the
    starting values 1 and 1e-8 of RobustBench's `paf_wide_resnet.py`, which holds the authors' network; |beta| has no
    slope at 0. There one pair is shared by the whole network. Whether the authors decay the scalars was not verified.
    """

    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__()
        if not beta < 1:
            raise BadInput(f"beta of activation 'pssilu' is {beta:g}; give a number below 1")
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))
        self.beta = nn.Parameter(torch.tensor([float(beta)]))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.abs().to(x.dtype), self.beta.abs().to(x.dtype)
        return x * (torch.sigmoid(alpha * x) - beta) / (1 - beta)


def tanh_gelu() -> nn.Module:
    """GELU by the tanh formula, as the SAT release computes it."""
    return nn.GELU(approximate="tanh")


def parametric_softplus(alpha: float) -> nn.Module:
    """log(1 + exp(alpha x)) / alpha."""
    return nn.Softplus(beta=alpha)


def activation(text: str) -> Callable[[], nn.Module]:
    """A factory of fresh modules for an activation as it is spelled, such as `silu` or `celu:alpha=2`.

    One of the user's own is `package.module:callable:key=value`. Raises `BadInput` for an unknown name or parameter,
    for a value that is no positive number, and for code of the user's own that gives no module.
    """
    name, given = parse_activation(text)
    if plugins.is_reference(name):
        return _own(name, given)
    known = ACTIVATIONS[name]
    return partial(located(known.where), **{**known.parameters, **given})


def _own(reference: str, given: Mapping[str, float]) -> Callable[[], nn.Module]:
    with plugins.own("activation", reference) as build, torch.random.fork_rng(devices=[]):
        check_keywords(build, f"activation {reference!r}", 0, given)
        first = build(**given)
    if not isinstance(first, nn.Module):
        wanted = plugins.SOCKETS["activation"].wanted
        raise BadInput(f"activation {reference} returned a {type(first).__name__}; {wanted}")
    return partial(build, **given)
