"""Networks of other model collections by name: `timm:NAME` and `torchvision:NAME`, with [0, 1] images to logits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.models.classifier import Classifier, ModelSpec
from satbench.models.weights import load_strictly, read_weights
from satbench.zoo.published import at_url, on_hub

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # of timm's repositories, the first in nearly all
ITS_OWN = "its own"  # the activation of a network that is not built here


def from_timm(name: str, checkpoint: Path | None) -> Classifier:
    """The timm network `name`, with its published weights unless `checkpoint` gives others."""
    try:
        import timm
    except ModuleNotFoundError:
        raise BadInput(f"--model timm:{name} needs the package timm; run pip install 'satbench[timm]'") from None
    if not timm.is_model(name):
        raise BadInput(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")
    net: Any
    if checkpoint is None:
        with _fetching(f"timm:{name}"):
            tensors = read_weights(_published_by_timm(name))
            net = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
        del net.pretrained_cfg["state_dict"]
    else:
        net = timm.create_model(name, pretrained=False)
        load_strictly(net, read_weights(checkpoint), checkpoint)
    settings = net.pretrained_cfg
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
    if checkpoint is None:
        with _fetching(f"torchvision:{name}"):
            tensors = read_weights(at_url(weights.url))
        with _given(weights, tensors):
            net = models.get_model(name, weights=weights)
    else:
        net = models.get_model(name, weights=None)
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


def _published_by_timm(name: str) -> Path:
    """The file of a timm network's published weights."""
    import timm

    published = timm.get_pretrained_cfg(name)
    if published is not None and published.hf_hub_id:
        return on_hub(published.hf_hub_id, *([published.hf_hub_filename] if published.hf_hub_filename else HUB_FILES))
    if published is not None and isinstance(published.url, str) and published.url:
        return at_url(published.url)
    raise BadInput(f"timm publishes no weights of {name!r}; give them by --checkpoint")


@contextmanager
def _given(weights: Any, tensors: dict[str, Tensor]) -> Iterator[None]:
    """Let torchvision's builders take these tensors for `weights`; they would unpickle a file of torch.hub's folder.

    A builder also sets what belongs to the weights, such as the input transformation of GoogLeNet.
    """
    weights.get_state_dict = lambda **_: tensors
    try:
        yield
    finally:
        del weights.get_state_dict


@contextmanager
def _fetching(ref: str) -> Iterator[None]:
    """The collections fetch weights with clients of their own, whose errors have no common class."""
    try:
        yield
    except BadInput:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"--model {ref}: its weights cannot be fetched ({reason}); give them by --checkpoint") from error


LIBRARIES = {"timm": from_timm, "torchvision": from_torchvision}
