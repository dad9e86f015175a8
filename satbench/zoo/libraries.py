"""Networks of other model collections by name: `timm:NAME` and `torchvision:NAME`, with [0, 1] images to logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.models.classifier import Classifier, ModelSpec
from satbench.models.weights import load_strictly, read_weights

ITS_OWN = "its own"  # the activation of a network that is not built here


def from_timm(name: str, checkpoint: Path | None) -> Classifier:
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
    spec = ModelSpec(
        architecture=f"timm:{name}",
        activation=ITS_OWN,
        num_classes=net.num_classes,
        channels=settings["input_size"][0],
        image_size=settings["input_size"][-1],
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )
    return Classifier(net, spec).eval()


def from_torchvision(name: str, checkpoint: Path | None) -> Classifier:
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
    spec = ModelSpec(
        architecture=f"torchvision:{name}",
        activation=ITS_OWN,
        num_classes=len(weights.meta["categories"]),
        channels=len(settings.mean),
        image_size=settings.crop_size[0],
        mean=tuple(settings.mean),
        std=tuple(settings.std),
    )
    return Classifier(net, spec).eval()


def class_names(kind: str, name: str) -> tuple[str, ...] | None:
    """The classes of a collection's published weights, where the collection names them."""
    if kind != "torchvision":
        return None
    from torchvision import models

    return tuple(models.get_model_weights(name).DEFAULT.meta["categories"])


def _fetched(ref: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The collections fetch weights with clients of their own, whose errors have no common class."""
    try:
        return build()
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--model {ref}: its weights cannot be fetched ({reason}); give them by --checkpoint") from error


LIBRARIES = {"timm": from_timm, "torchvision": from_torchvision}
