"""The activation functions under comparison: parameters, smoothness, and how an activation is spelled.

`celu`, or `celu:alpha=2` with parameters. The canonical spelling of an activation leaves out parameters at their
defaults, sorts the others by name, and writes each number as Python does, whole ones without a point.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import check_keywords, find, keywords, nearest


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


def parametric_softplus(alpha: float) -> nn.Module:
    """log(1 + exp(alpha x)) / alpha."""
    return nn.Softplus(beta=alpha)


@dataclass(frozen=True)
class Activation:
    """One row of `ACTIVATIONS`: `make` gives a fresh module for one site.

    `smoothness` is the number of continuous derivatives at every point: 0 for a kink, `math.inf` for a smooth function.
    `defaults` are the keyword parameters of `make`, positive numbers; smoothness is stated for the defaults.
    """

    make: Callable[..., nn.Module]
    smoothness: float
    formula: str
    defaults: Mapping[str, float] = field(default_factory=dict)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(nn.ReLU, 0, "max(x, 0)"),
    "silu": Activation(nn.SiLU, math.inf, "x sigmoid(x)"),
    "gelu": Activation(partial(nn.GELU, approximate="tanh"), math.inf, "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))"),
    "gelu_exact": Activation(nn.GELU, math.inf, "x Phi(x)"),
    "softplus": Activation(nn.Softplus, math.inf, "log(1 + exp(x))"),
    "parametric_softplus": Activation(parametric_softplus, math.inf, "log(1 + exp(alpha x)) / alpha", {"alpha": 10.0}),
    "leaky_relu": Activation(nn.LeakyReLU, 0, "max(x, 0) + negative_slope min(x, 0)", {"negative_slope": 0.01}),
    "elu": Activation(nn.ELU, 1, "x for x >= 0, alpha (exp(x) - 1) below; C0 unless alpha = 1", {"alpha": 1.0}),
    "celu": Activation(
        nn.CELU, 1, "x for x >= 0, alpha (exp(x / alpha) - 1) below; C1 for every alpha", {"alpha": 1.0}
    ),
    "mish": Activation(nn.Mish, math.inf, "x tanh(log(1 + exp(x)))"),
    "smoothrelu": Activation(SmoothReLU, 1, "x - log(1 + r^2 x) / r^2 for x >= 0, 0 below; r learnable, one a site"),
    "psilu": Activation(PSiLU, math.inf, "x sigmoid(|alpha| x); alpha learnable, one a site", {"alpha": 1.0}),
    "pssilu": Activation(
        PSSiLU,
        math.inf,
        "x (sigmoid(|alpha| x) - |beta|) / (1 - |beta|); alpha and beta learnable, a pair a site",
        {"alpha": 1.0, "beta": 1e-8},
    ),
}


def activation(text: str) -> Callable[[], nn.Module]:
    """A factory of fresh modules for an activation as it is spelled, such as `silu` or `celu:alpha=2`.

    One of the user's own is `package.module:callable:key=value`. Raises `BadInput` for an unknown name or parameter,
    for a value that is no positive number, and for code of the user's own that gives no module.
    """
    name, given = _parse(text)
    if plugins.is_reference(name):
        return _own(name, given)
    row = ACTIVATIONS[name]
    return partial(row.make, **{**row.defaults, **given})


def canonical(text: str) -> str:
    """The one spelling of an activation, so that equal ones have equal names; raises as `activation` does.

    One of the user's own is not imported, so that its defaults are not known and nothing is left out.
    """
    name, given = _parse(text)
    defaults = {} if plugins.is_reference(name) else ACTIVATIONS[name].defaults
    words = [f"{key}={_spelled(value)}" for key, value in sorted(given.items()) if value != defaults.get(key)]
    return ":".join([name, *([",".join(words)] if words else [])])


def _parse(text: str) -> tuple[str, dict[str, float]]:
    name, tail = plugins.spelled(text, ACTIVATIONS)
    given = keywords(tail, f"activation {text!r}", "celu:alpha=2")
    if plugins.is_reference(name):
        return name, {key: _number(text, key, value) for key, value in given.items()}
    defaults = find(ACTIVATIONS, name, "activation").defaults
    for key in given:
        if key not in defaults:
            hint = nearest(key, defaults) if defaults else "it takes none"
            raise BadInput(f"unknown parameter {key!r} of activation {name!r}; {hint}")
    return name, {key: _positive(text, key, value) for key, value in given.items()}


def _own(reference: str, given: Mapping[str, float]) -> Callable[[], nn.Module]:
    with plugins.own("activation", reference) as build, torch.random.fork_rng(devices=[]):
        check_keywords(build, f"activation {reference!r}", 0, given)
        first = build(**given)
    if not isinstance(first, nn.Module):
        wanted = plugins.SOCKETS["activation"].wanted
        raise BadInput(f"activation {reference} returned a {type(first).__name__}; {wanted}")
    return partial(build, **given)


def _positive(text: str, key: str, value: str) -> float:
    number = _number(text, key, value)
    if number <= 0:
        raise BadInput(f"activation {text!r}: {key} is {value!r}; give a positive number, such as 2 or 1/3")
    return number


def _number(text: str, key: str, value: str) -> float:
    numerator, slash, denominator = value.partition("/")
    try:
        number = float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"activation {text!r}: {key} is {value!r}; give a positive number, such as 2 or 1/3")
    return number


def _spelled(number: float) -> str:
    return repr(int(number)) if number.is_integer() and number < 1e15 else repr(number)
