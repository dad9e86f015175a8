"""Networks of other model collections by name: `timm:NAME` and `torchvision:NAME`, with [0, 1] images to logits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from satbench.errors import BadInput
from satbench.lookup import nearest
from satbench.models.weights import load_strictly, read_weights

IMAGENET_CLASSES = 1000


class Normalised(nn.Module):
    """The network behind the per-channel statistics that its collection feeds it."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class Foreign:
    """A network of another collection in eval mode, the side it was trained at, and whether it knows ImageNet."""

    model: nn.Module
    image_size: int
    imagenet: bool


def from_timm(name: str, checkpoint: Path | None) -> Foreign:
    """The timm network `name`, with its published weights unless `checkpoint` gives others."""
    try:
        import timm
    except ModuleNotFoundError:
        raise BadInput(f"--model timm:{name} needs the package timm; run pip install 'satbench[timm]'") from None
    if not timm.is_model(name):
        raise BadInput(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")
    net: Any = _fetched(f"timm:{name}", lambda: timm.create_model(name, pretrained=checkpoint is None))
    settings = net.pretrained_cfg
    if checkpoint is not None:
        load_strictly(net, read_weights(checkpoint), checkpoint)
    model = Normalised(net, settings["mean"], settings["std"]).eval()
    return Foreign(model, settings["input_size"][-1], net.num_classes == IMAGENET_CLASSES)


def from_torchvision(name: str, checkpoint: Path | None) -> Foreign:
    """The torchvision classifier `name`, with its default weights unless `checkpoint` gives others."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise BadInput(f"torchvision has no classifier {name!r}; {nearest(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    settings = weights.transforms()
    chosen = weights if checkpoint is None else None
    net = _fetched(f"torchvision:{name}", lambda: models.get_model(name, weights=chosen))
    if checkpoint is not None:
        load_strictly(net, read_weights(checkpoint), checkpoint)
    model = Normalised(net, settings.mean, settings.std).eval()
    return Foreign(model, settings.crop_size[0], len(weights.meta["categories"]) == IMAGENET_CLASSES)


def _fetched(ref: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The collections fetch weights with clients of their own, whose errors have no common class."""
    try:
        return build()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--model {ref}: its weights cannot be fetched ({reason}); give them by --checkpoint") from error


LIBRARIES = {"timm": from_timm, "torchvision": from_torchvision}
