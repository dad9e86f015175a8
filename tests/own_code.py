"""One example of everything that can be plugged in, as a user would write it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from satbench.methods import Method, Passes, Step
from satbench.training import TrainConfig
from satbench.training.evaluators import Evaluator, Look, Values


class Swish(nn.Module):
    """x sigmoid(beta x), with a constant that is in no state dict."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = torch.tensor(beta)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


def net(activation, *, channels: int, image_size: int, num_classes: int, width: int = 4, norm: str = "batch"):
    kind = {"batch": nn.BatchNorm2d, "none": nn.Identity}[norm]
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), kind(width), activation(), nn.Flatten(),
        nn.Linear(width * image_size**2, num_classes),
    )  # fmt: skip


def two_outputs(activation, *, channels: int, image_size: int, num_classes: int):
    return nn.Sequential(activation(), nn.Flatten(), nn.Linear(channels * image_size**2, 2))


def without_shape(activation):
    return nn.Sequential(nn.Flatten(), activation(), nn.Linear(64, 3))


class Halved(nn.Module):
    """An activation that changes the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2]


def plain_net(activation=nn.ReLU, width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), activation(), nn.Linear(width, 3))


@dataclass(frozen=True)
class Counting(Method):
    """Training on clean images, with a scaled loss and a memory of how often every image was seen."""

    scale: float = 1.0

    crafts = False
    awp_source = "this test"

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        return {"seen": torch.zeros(images)}

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return step.x

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return self.scale * functional.cross_entropy(model(x_adv), step.targets)

    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
        step.state["seen"][step.batch_index] += 1


@dataclass(frozen=True)
class Confidence(Evaluator):
    """The largest probability of every image."""

    scale: float = 1.0

    is_rate = False

    @property
    def names(self) -> tuple[str, ...]:
        return ("confidence",)

    def values(self, look: Look) -> Values:
        found = []
        for _, x, _ in look.images.batches(64):
            with torch.no_grad():
                found.append(look.judged(x.to(look.device)).softmax(1).amax(1).cpu())
        return {"confidence": self.scale * torch.cat(found).numpy()}


def brighten(x: Tensor, numbers: Tensor, most: float = 0.5) -> Tensor:
    return (x + most * numbers[:, 63].to(x).view(-1, 1, 1, 1)).clamp(0, 1)


def tripled(x: Tensor, numbers: Tensor, by: float = 3) -> Tensor:
    return x * by


def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % 3
    x = np.random.default_rng(n).random((n, 1, 8, 8)) * 0.6
    x[np.arange(n), 0, 2 * y] += 0.4
    return x.astype(np.float32), y


def data(split: str, n: int = 60, form: str = "arrays"):
    x, y = rows({"train": n, "test": 12}[split])
    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return {"arrays": (x, y), "tensors": tensors, "loader": DataLoader(tensors, batch_size=7, shuffle=True)}[form]


def recipe(epochs: int = 1, activation: str = "silu") -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "recipe": "own",
            "dataset": "own_code:data",
            "model": "own_code:net:width=3",
            "activation": activation,
            "method": "pgd_at:steps=1",
            "threat": {"eps": 0.1},
            "epochs": epochs,
            "batch_size": 16,
            "optimizer": {"lr": 0.05},
            "measure": {"evaluators": ["clean", "pgd:steps=1"]},
        }
    )


def sign(model, x: Tensor, y: Tensor, threat, randomness, steps: int = 1) -> Tensor:
    """A step along the sign of the loss."""
    x = x.detach().clone().requires_grad_(True)
    functional.cross_entropy(model(x), y).backward()
    assert x.grad is not None
    return (x + threat.eps * x.grad.sign()).clamp(0, 1).detach()


def nothing(*args: object, **params: object) -> None:
    return None


def broken(*args: object, **params: object) -> None:
    raise KeyError("half done")


@dataclass(frozen=True)
class Unfinished(Counting):
    """A method whose loss raises."""

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        raise KeyError("half done")


@dataclass(frozen=True)
class Doubtful(Confidence):
    """An evaluator that raises."""

    def values(self, look: Look) -> Values:
        raise ArithmeticError("no figure\nof a network")
