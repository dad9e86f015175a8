"""What every attack must leave as it found it, and networks to find that out with."""

import logging
import random
import sys
import warnings
from typing import Any

import numpy as np
import sympy  # noqa: F401 - torch imports it at a first backward(), and it then adds a filter for its own warnings
import torch
from torch import Tensor, nn

from satbench.numerics.seeding import PerSample, generator
from satbench.numerics.threat import ThreatModel

EPS = {"Linf": 0.1, "L2": 0.6, "L1": 3.0}


def streams(count: int, seed: int = 0, first: int = 0) -> PerSample:
    return PerSample.of(seed, [f"sample-{first + i}" for i in range(count)], "attack")


def mixed_model(classes: int = 4, channels: int = 2, side: int = 6) -> nn.Module:
    """Convolution, BN, dropout; in training mode but for one part, one parameter frozen, `.grad` filled on one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(4 * (side - 2) ** 2, classes),
        )  # fmt: skip
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[5].bias.requires_grad_(False)
    model[3].eval()
    return model


def images(model: nn.Module, count: int = 4, shape: tuple[int, int, int] = (2, 6, 6)) -> tuple[Tensor, Tensor]:
    """Images, some pixels on the edge of the box, labelled as the model sees them in eval mode."""
    x = (torch.rand(count, *shape, generator=torch.Generator().manual_seed(3)) * 1.2 - 0.1).clamp(0, 1)
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    for module, mode in modes:
        module.training = mode
    return x, y


def wrong(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images the model misclassifies in eval mode, bool (N,)."""
    model.eval()
    with torch.no_grad():
        return model(x).argmax(1) != y


class Failing(nn.Module):
    """Raises on its `allowed + 1`-th pass."""

    def __init__(self, inner: nn.Module, allowed: int) -> None:
        super().__init__()
        self.inner, self.allowed, self.passes = inner, allowed, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes > self.allowed:
            raise RuntimeError("out of passes")
        logits: Tensor = self.inner(x)
        return logits


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about the model and the process that an attack must leave as it found it."""
    root = logging.getLogger()
    return {
        "modes": [module.training for module in model.modules()],
        "tensors": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "wanted": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
        "python": random.getstate(),
        "trace": sys.gettrace(),
        "grad mode": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "logging": (
            root.level,
            list(root.handlers),
            logging.getLogger("auto-attack").level,
            logging.root.manager.disable,
        ),
        "warnings": list(warnings.filters),
    }


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return torch.equal(found, wanted)
    if isinstance(wanted, np.ndarray):
        return np.array_equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert [key for key in before if not same(after[key], before[key])] == []


def assert_contract(attack: Any, threat: ThreatModel, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Shape, dtype, ball, box, equal runs, an untouched process; returns the examples."""
    given, before = (x.clone(), y.clone()), state(model)
    x_adv: Tensor = attack(model, x, y, threat, streams(len(x)))
    assert_unchanged(before, state(model))
    assert torch.equal(x, given[0])
    assert torch.equal(y, given[1])
    assert not x.requires_grad
    assert x.grad is None
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert x_adv.data_ptr() != x.data_ptr()
    assert threat.contains(x, x_adv).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    torch.manual_seed(99)
    np.random.seed(99)
    with torch.no_grad():
        assert torch.equal(attack(model, x, y, threat, streams(len(x))), x_adv)
    first = attack(model, x, y, threat, generator(7))
    assert torch.equal(attack(model, x, y, threat, generator(7)), first)
    assert torch.equal(attack(model, x, y, ThreatModel(threat.norm, 0), streams(len(x))), x)
    assert attack(model, x[:0], y[:0], threat, streams(0)).shape == (0, *x.shape[1:])
    return x_adv
