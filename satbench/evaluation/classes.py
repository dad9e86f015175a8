"""Which output of a network each class of a data set is, and whether the network knows the classes at all."""

from dataclasses import replace
from importlib.util import find_spec

import torch

from satbench.attacks.base import crafting
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.data import Images
from satbench.data.cifar10_jpeg import CLASSES as CIFAR10
from satbench.data.imagenet import WNID
from satbench.evaluation.judge import logits_of
from satbench.results.metrics import is_at_chance, wilson
from satbench.zoo import Loaded

SHOWN = 5  # class names in a message
PUBLISHED = {"cifar10": CIFAR10, "cifar10-jpeg": CIFAR10}  # classes of networks trained on these data sets


def with_labels_of(loaded: Loaded, images: Images) -> Images:
    """The images with labels that are outputs of the network, and a note of how the classes were matched.

    Only class folders have names to match. Where the network knows the names of its classes, folders are matched by
    name, and may be some of them. Otherwise folders that are all named by numbers are those outputs. Otherwise, or
    where no name is known to the network, there must be as many folders as outputs, in sorted order. Raises `BadInput`
    where none of this holds.
    """
    folders = images.class_names
    if folders is None:
        return images
    known = _known(loaded, folders)
    outputs = len(known) if known else _outputs(loaded, images)
    if known and (set(folders) & set(known) or len(folders) != outputs):
        unknown = [name for name in folders if name not in known]
        if unknown:
            raise BadInput(
                f"{images.name}: the network knows no class {unknown[0]!r}; {nearest(unknown[0], known)}; rename the "
                "folder, or leave it out"
            )
        labels = [known.index(name) for name in folders]
        note = f"{len(folders)} class folders were matched by name with the network's {outputs} classes"
    elif all(name.isdecimal() and int(name) < outputs for name in folders):
        labels = [int(name) for name in folders]
        note = f"the {len(folders)} class folders are numbers and were taken as the network's outputs"
    elif len(folders) == outputs:
        return images
    else:
        raise BadInput(
            f"{images.name} has {len(folders)} class folders ({_listed(folders)}) but the network has {outputs} outputs"
            f" without names; name each folder by its output, 0 to {outputs - 1}, or give labels in npz:PATH"
        )
    if len(set(labels)) < len(labels):
        raise BadInput(f"{images.name}: two class folders are the same output of the network; merge them")
    if labels == list(range(outputs)):
        return images
    return replace(
        images, y=torch.tensor(labels)[images.y], num_classes=outputs, class_names=None, note=f"{images.name}: {note}"
    )


def chance_note(correct: int, n: int, outputs: int) -> str | None:
    """A warning where the clean accuracy, `correct` of `n`, is not above that of guessing one of the outputs."""
    if not is_at_chance(correct, n, outputs):
        return None
    low, high = wilson(correct, n)
    return (
        f"WARNING: clean accuracy is {correct / n:.1%} (95% interval {low:.1%} to {high:.1%}, n={n}), not above chance "
        f"({1 / outputs:.1%} for {outputs} classes); check that labels and preprocessing are those of the network"
    )


def _known(loaded: Loaded, folders: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names of the network's classes; WordNet ids, which timm lists, for ImageNet networks and folders of them."""
    dataset = (loaded.dataset or "").partition(":")[0]
    if dataset == "imagenet" and all(map(WNID.fullmatch, folders)) and find_spec("timm"):
        from timm.data.imagenet_info import ImageNetInfo

        return tuple(ImageNetInfo("imagenet-1k").label_names())  # type: ignore[no-untyped-call]
    return loaded.class_names or PUBLISHED.get(dataset)


def _outputs(loaded: Loaded, images: Images) -> int:
    _, x, y = next(iter(images.head(1).batches(1)))
    weights = next(loaded.model.parameters(), x)
    with torch.random.fork_rng(devices=[weights.device] if weights.is_cuda else []), crafting(loaded.model):
        return logits_of(loaded.model, x.to(weights.device), torch.zeros_like(y)).shape[1]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
