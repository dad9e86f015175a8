"""Networks that were written after the checks of the trust battery were fixed, and were never used to tune them.

`MASKED` look more robust under PGD than they are, each by another mechanism. `PLAIN` have nothing to hide: their radii
are small enough for PGD to come within 3 points of AutoAttack on most of them. Which of all these numbers are inflated
is measured by benchmarks/trust.py, not stated here.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from trust_networks import (
    THREAT,
    WIDE_THREAT,
    Around,
    Network,
    _training,
    certified,
    fit,
    fresh,
    linear,
    mlp_with,
    plain,
    robust,
)

from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.zoo import load_model

TRACE = 1e-3  # of another network's logits: a gradient that leads nowhere


class Backward(torch.autograd.Function):
    """The identity whose gradient goes through `change`."""

    @staticmethod
    def forward(ctx, x: Tensor, change) -> Tensor:
        ctx.change, ctx.at = change, x.detach()
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.change(grad, ctx.at), None


def with_backward(model: nn.Module, change) -> nn.Module:
    return Around(model, before=lambda x: Backward.apply(x, change))


class Decoy(nn.Module):
    """The logits of one network with the gradient of another."""

    def __init__(self, shown: nn.Module, decoy: nn.Module) -> None:
        super().__init__()
        self.shown, self.decoy = shown, decoy

    def forward(self, x: Tensor) -> Tensor:
        z = self.decoy(x)
        return z + (self.shown(x) - z).detach()


class Nearest(nn.Module):
    """Votes of the nearest training images, or a network's answer to the nearest one, with a trace of its logits."""

    def __init__(self, model: nn.Module, k: int) -> None:
        super().__init__()
        self.model, self.k = model, k
        self.x, self.y = _training(False, 10)

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.detach().flatten(1), self.x.flatten(1)).topk(self.k, largest=False).indices
        trace = TRACE * self.model(x)
        if self.k == 1:
            return self.model(self.x[nearest[:, 0]]).detach() + trace
        return functional.one_hot(self.y[nearest], 10).float().sum(1) + trace


class Winners(nn.Module):
    """Keeps the largest fifth of the units (k-winners-take-all, Xiao et al. 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(max(1, x.shape[1] // 5), dim=1).values[:, -1:]
        return x * (x >= least)


class Votes(nn.Module):
    """Counts the predictions on copies with fixed noise."""

    def __init__(self, model: nn.Module, copies: int, sigma: float) -> None:
        super().__init__()
        self.model = model
        self.noise = sigma * torch.randn(copies, 1, 8, 8, generator=generator(0, "votes"))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stack([self.model(x + one) for one in self.noise])
        return functional.one_hot(z.argmax(2), 10).float().mean(0) + TRACE * z.mean(0)


class Switch(nn.Module):
    """A second network answers where the image lies off the grey levels of a scan."""

    def __init__(self, shown: nn.Module, elsewhere: nn.Module) -> None:
        super().__init__()
        self.shown, self.elsewhere = shown, elsewhere

    def forward(self, x: Tensor) -> Tensor:
        z = self.elsewhere(x)
        sure = z.softmax(1).amax(1, keepdim=True) > 0.6
        return torch.where(sure, 5 * functional.one_hot(z.argmax(1), 10).float() + TRACE * z, self.shown(x))


class Resized(nn.Module):
    """To a random size and back, another one at every call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        side = int(torch.randint(6, 12, ()))
        small = functional.interpolate(x, (side, side), mode="bilinear")
        return self.model(functional.interpolate(small, (8, 8), mode="bilinear"))


def distilled() -> nn.Module:
    """Trained at temperature 100 and used at 1 (Papernot et al. 2016)."""
    model = fresh("mlp", "relu", width=128)
    fit(Around(model, after=lambda z: z / 100), lr=2.0)
    return model.eval().requires_grad_(False)


def binarised(x: Tensor) -> Tensor:
    return (x > 0.5).float() + TRACE * x


def half_detached(x: Tensor) -> Tensor:
    chequered = (torch.arange(8)[:, None] + torch.arange(8)) % 2 == 0
    return torch.where(chequered, x, x.detach())


def in_float16(z: Tensor) -> Tensor:
    return (40 * z).half().log_softmax(1).float()


def rounded_probabilities(z: Tensor) -> Tensor:
    return (100 * z.softmax(1)).round() / 100 + 1e-4 * z.detach()


def striped(grad: Tensor, at: Tensor) -> Tensor:
    return torch.where((50 * at).floor() % 2 == 0, grad, -grad)


def fixed_signs(grad: Tensor, at: Tensor) -> Tensor:
    return grad * (2 * torch.randint(2, at.shape[1:], generator=generator(0, "signs")) - 1)


def noisy(grad: Tensor, at: Tensor) -> Tensor:
    return grad + 5 * grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * torch.randn_like(grad)


def vanishing(grad: Tensor, at: Tensor) -> Tensor:
    return grad * 1e-42


def one_row(grad: Tensor, at: Tensor) -> Tensor:
    return grad * (torch.arange(8)[:, None] == 0)


MASKED: dict[str, Network] = {
    "decoy gradient": Network(lambda: Decoy(robust(), linear()), threat=WIDE_THREAT),
    "decoy gradient, standard": Network(lambda: Decoy(plain(), fit(fresh("cnn-small", "silu", width=8)))),
    "logits times 1e-6": Network(lambda: Around(robust(), after=lambda z: 1e-6 * z), threat=WIDE_THREAT),
    "nearest-image gate": Network(lambda: Nearest(plain(), 1)),
    "nearest neighbours with a trace": Network(lambda: Nearest(plain(), 5)),
    "k winners take all": Network(lambda: mlp_with(act=Winners)),
    "k winners take all, trained": Network(lambda: mlp_with(act=Winners, eps=0.1)),
    "fixed votes with a trace": Network(lambda: Votes(plain(), 16, 0.1)),
    "switch on confidence": Network(lambda: Switch(plain(), robust())),
    "random resize": Network(lambda: Resized(plain())),
    "distilled at 100": Network(distilled),
    "binarised with a trace": Network(lambda: Around(plain(), before=binarised)),
    "half of the pixels detached": Network(lambda: Around(plain(), before=half_detached)),
    "log-softmax in float16": Network(lambda: Around(plain(), after=in_float16)),
    "rounded probabilities": Network(lambda: Around(plain(), after=rounded_probabilities)),
    "stripes of turned gradients": Network(lambda: with_backward(plain(), striped)),
    "fixed signs of gradients": Network(lambda: with_backward(robust(), fixed_signs), threat=WIDE_THREAT),
    "noise in the backward pass": Network(lambda: with_backward(plain(), noisy)),
    "vanishing gradients": Network(lambda: with_backward(plain(), vanishing)),
    "gradient of one row": Network(lambda: with_backward(robust(), one_row), threat=WIDE_THREAT),
}


def trained(architecture: str, activation: str, **params: int) -> nn.Module:
    return fit(fresh(architecture, activation, **params), eps=0.1, epochs=6)


def standard(architecture: str, activation: str, **params: int) -> nn.Module:
    return fit(fresh(architecture, activation, **params), epochs=6)


LINF, SMALL = ThreatModel("Linf", 0.04), ThreatModel("Linf", 0.02)
L2, SMALL_L2, L1 = ThreatModel("L2", 0.3), ThreatModel("L2", 0.15), ThreatModel("L1", 1.0)

PLAIN: dict[str, Network] = {
    "trained mlp, relu": Network(lambda: trained("mlp", "relu", width=128), threat=LINF),
    "trained mlp, silu": Network(lambda: trained("mlp", "silu", width=128), threat=LINF),
    "trained mlp, elu": Network(lambda: trained("mlp", "elu", width=128), threat=LINF),
    "trained mlp, smoothrelu": Network(lambda: trained("mlp", "smoothrelu", width=128), threat=LINF),
    "trained mlp, gelu, L2": Network(lambda: trained("mlp", "gelu", width=96), threat=L2),
    "trained mlp, softplus, L2": Network(lambda: trained("mlp", "softplus", width=96), threat=L2),
    "trained mlp, relu, L1": Network(lambda: trained("mlp", "relu", width=96), threat=L1),
    "trained cnn, relu": Network(lambda: trained("cnn-small", "relu", width=6), threat=SMALL),
    "trained cnn, silu, L2": Network(lambda: trained("cnn-small", "silu", width=6), threat=SMALL_L2),
    "standard mlp, silu": Network(lambda: standard("mlp", "silu", width=128), threat=SMALL),
    "standard mlp, gelu": Network(lambda: standard("mlp", "gelu", width=128), threat=SMALL),
    "standard mlp, elu": Network(lambda: standard("mlp", "elu", width=128), threat=THREAT),
    "standard mlp, softplus": Network(lambda: standard("mlp", "softplus", width=128), threat=LINF),
    "standard mlp, relu, L2": Network(lambda: standard("mlp", "relu", width=96), threat=SMALL_L2),
    "standard mlp, gelu, L2": Network(lambda: standard("mlp", "gelu", width=96), threat=L2),
    "standard cnn, relu": Network(lambda: standard("cnn-small", "relu", width=6), threat=SMALL),
    "tanh mlp": Network(lambda: mlp_with(act=nn.Tanh), threat=LINF),
    "sigmoid mlp": Network(lambda: mlp_with(act=nn.Sigmoid, lr=0.5), threat=LINF),
    "linear, small radius": Network(linear, threat=SMALL),
    "certified, small radius": Network(certified, threat=LINF),
    "digits-relu, small radius": Network(lambda: load_model("digits-relu"), threat=LINF),
    "digits-silu, L2": Network(robust, threat=L2),
    "digits-smoothrelu, L1": Network(lambda: load_model("digits-smoothrelu"), threat=L1),
    "offset of 1e4": Network(lambda: Around(robust(), after=lambda z: z + 1e4), threat=LINF),
    "two classes, large radius": Network(
        lambda: fit(fresh("mlp", "relu", classes=2, width=64), eps=0.1, classes=2), threat=WIDE_THREAT, classes=2
    ),
}
