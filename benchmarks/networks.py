"""The networks and images that the races run on, and how a race is timed.

scikit-learn's digits, upsampled to 32x32. Networks are trained on one thread, a minute or two each, and kept below
`build/benchmarks`, which git ignores; remove the folder to train anew.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from satbench.data import load_images
from satbench.data.images import ImageSet, image_set
from satbench.methods.base import Method, Step
from satbench.methods.pgd_at import PGDAT
from satbench.methods.standard import Standard
from satbench.models import ModelSpec, build_model
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.training.step import Learner

CACHE = Path(__file__).resolve().parents[1] / "build" / "benchmarks"
SIDE, BATCH = 32, 64
TRAINING = ThreatModel("Linf", 16 / 255)


def silu() -> nn.Module:
    """Six conv-BN-SiLU of width 16, three of them at half or a quarter of the side; 8.6 MFLOP a forward pass."""
    layers: list[nn.Module] = []
    for number, stride in enumerate((1, 1, 2, 1, 2, 1)):
        layers += [nn.Conv2d(16 if number else 1, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def cnn() -> nn.Module:
    """Four convolutions with ReLU and no batch norm, the last three with stride 2; 4.4 MFLOP a forward pass."""
    layers: list[nn.Module] = []
    for before, after, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 2), (32, 64, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, 10))


def preact18() -> nn.Module:
    """PreActResNet-18 of width 16 with SiLU; 70 MFLOP a forward pass."""
    return build_model(ModelSpec("preact-resnet18", "silu", 10, 1, SIDE, (0.3,), (0.38,), {"width": 16}))


# peak learning rate, and epochs enough for an accuracy that an attack can be measured by
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Method, float, int]] = {
    "silu": (silu, PGDAT(steps=3), 0.05, 24),
    "cnn": (cnn, PGDAT(steps=3), 0.01, 24),
    "preact18": (preact18, PGDAT(steps=2), 0.05, 8),
    "silu-undefended": (silu, Standard(), 0.05, 12),
}


def digits(split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    images = load_images("digits", split)
    x = functional.interpolate(images.x, size=(SIDE, SIDE), mode="bilinear").clamp(0, 1)
    return x[:n].contiguous(), images.y[:n]


def as_images(x: Tensor, y: Tensor) -> ImageSet:
    """Images for `satbench.evaluate`, in this order."""
    return image_set("digits", "test", x.numpy(), y.numpy(), [str(row) for row in range(len(x))])


def trained(name: str) -> nn.Module:
    """In eval mode, with parameters that still want gradients, as a user has it."""
    build, method, peak_lr, epochs = NETWORKS[name]
    torch.manual_seed(0)
    model, path = build(), CACHE / f"{name}.safetensors"
    if path.is_file():
        model.load_state_dict(load_file(path))
        return model.eval()
    x, y = digits("train")
    optimizer = torch.optim.SGD(model.parameters(), lr=0, momentum=0.9, nesterov=True, weight_decay=5e-4)
    learner, shuffle = Learner(model, optimizer, method), generator(0, "order")
    total, number = epochs * len(x) // BATCH, 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=shuffle).split(BATCH)[: len(x) // BATCH]:
            lr = peak_lr * min(4 * (number + 1) / total, 4 / 3 * (1 - number / total))
            learner.update(Step.of(x[rows], y[rows], TRAINING, generator(0, "attack", number)), max(lr, 0))
            number += 1
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return model.eval()


@dataclass
class Passes:
    """Rows that went forward and backward through a network, seen by hooks."""

    forward: int = 0
    backward: int = 0


def count(model: nn.Module, run: Callable[[], object]) -> Passes:
    """Passes of `model` while `run` goes on, and of copies that `run` makes of it, for a hook is copied along."""
    seen = Passes()

    def look(module: nn.Module, given: tuple[Tensor, ...], logits: Tensor) -> None:
        seen.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(lambda grad: setattr(seen, "backward", seen.backward + len(grad)))

    hook = model.register_forward_hook(look)
    run()
    hook.remove()
    return seen


def race(
    contenders: dict[str, Callable[[], object]],
    rounds: int,
    warm_up: bool = True,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds on `clock` of every contender in every round, in turns, the order reversed every other round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-1 if warm_up else 0, rounds):
        for name in sorted(contenders, key=list(contenders).index, reverse=bool(number % 2)):
            started = clock()
            contenders[name]()
            if number >= 0:
                seconds[name].append(clock() - started)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> str:
    """How many times faster, round by round: the median with its extremes."""
    ratios = [one / other for one, other in zip(slower, faster, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
