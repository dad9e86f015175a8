"""Read-outs of a trained representation, in the place of its last layer: a linear layer, or the nearest neighbours."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from satbench.attacks import parse_attack
from satbench.core.errors import BadInput
from satbench.core.files import atomic_file
from satbench.core.lookup import pick
from satbench.core.plugins import check_allowed
from satbench.data import Images, is_own_data, training_splits
from satbench.models.classifier import Classifier
from satbench.models.features import represented
from satbench.models.knn import check_neighbours, with_knn
from satbench.models.weights import Provenance, load_model_file, save_model
from satbench.numerics.device import resolve_device
from satbench.numerics.modes import evaluating
from satbench.probe.transfer import linear_readout
from satbench.zoo import load
from satbench.zoo.loading import weights_file

AT_ONCE = 256  # images
NEIGHBOURS = 75  # of Chen et al. 2020, ICASSP, arXiv 1911.06470


def knn(net: Classifier, images: Images, device: torch.device, k: int = NEIGHBOURS) -> Classifier:
    """A copy of the network that votes by the `k` nearest representations of the images; see `models.knn`.

    Raises `BadInput` for a `k` that is no whole number from 1 to the number of images.
    """
    check_neighbours(k, len(images))
    return with_knn(net, *_of_images(net, images, device), k)


def linear(net: Classifier, images: Images, device: torch.device) -> Classifier:
    """A copy of the network whose last layer is fitted to the images' labels, all others frozen.

    By logistic regression on standardised features, see `probe.transfer.linear_readout`. Raises `BadInput` for a last
    layer without bias.
    """
    layer, z, y = _of_images(net, images, device)
    if layer.bias is None:
        raise BadInput("the network's last layer has no bias, which a linear read-out needs; read it out by knn")
    made = copy.deepcopy(net).eval()
    weight, bias = linear_readout(z.double(), y, net.spec.num_classes)
    fitted = made.get_submodule(next(name for name, module in net.named_modules() if module is layer))
    with torch.no_grad():
        fitted.get_parameter("weight").copy_(weight)
        fitted.get_parameter("bias").copy_(bias)
    return made


READOUTS: dict[str, Callable[..., Classifier]] = {"linear": linear, "knn": knn}


def write_readout(
    ref: str, readout: str, out: Path, device: str = "auto", data_dir: Path | None = None
) -> tuple[Classifier, Provenance]:
    """Write a file of the network `ref` with another last layer, made of its own training images.

    ref: as for `satbench eval`, of a network that satbench trained. readout: "linear", or "knn" with the number of
    neighbours, "knn:k=75". The file is measured as any other; its name and digest are those of the read-out.
    Raises `BadInput` for another network or read-out, for training images that are no longer the same, and for a file
    that is there already.
    """
    if out.suffix != ".safetensors" or out.exists():
        raise BadInput(f"--out {out}: give the name of a new .safetensors file")
    loaded = load(ref, device=device)
    file = weights_file(loaded.info)
    origin = None if file is None else load_model_file(file)[1]
    if not isinstance(loaded.model, Classifier) or not isinstance(origin, Provenance):
        raise BadInput(f"{ref} is no network that satbench trained, whose training images are known; give a run folder")
    name, params = parse_attack(readout)
    images = _trained_on(ref, origin, loaded.model, data_dir)
    made = pick(READOUTS, name, "read-out", loaded.model, images, resolve_device(device), **params)
    said = name if made.spec.readout is None else f"knn:k={made.spec.readout.k}"
    origin = origin.model_copy(
        update={
            "label": f"{origin.label} {said}",
            "recipe": f"{origin.recipe} [readout={said}]",
            **{key: _other(getattr(origin, key), said) for key in ("config", "family")},
        }
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as temporary:
        save_model(temporary, made, origin)
    return made, origin


def _of_images(net: Classifier, images: Images, device: torch.device) -> tuple[nn.Linear, Tensor, Tensor]:
    """The last layer, the representations (M, D) of the images in eval mode, and their labels, on the device."""
    with evaluating(net), torch.no_grad():
        parts = [represented(net, x.to(device)) for _, x, _ in images.batches(AT_ONCE)]
    return parts[0].layer, torch.cat([part.features for part in parts]), images.y.to(device)


def _trained_on(ref: str, origin: Provenance, net: Classifier, data_dir: Path | None) -> Images:
    """The training images, as decoded or, where the training changed whole files, in files."""
    if is_own_data(origin.dataset):
        check_allowed(origin.dataset, ref)
    for in_files in (False, True):
        side, channels = net.spec.image_size, net.spec.channels
        images, _ = training_splits(
            origin.dataset, side, data_dir, origin.val, origin.train_n, in_files=in_files, channels=channels
        )
        if images.fingerprint == origin.train_digest:
            return images
    raise BadInput(f"{ref}: the training images of {origin.dataset} are not those that it was trained on")


def _other(digest: str, said: str) -> str:
    """A digest of the same form for the read-out of a training."""
    return hashlib.sha256(f"{digest} {said}".encode()).hexdigest()[: len(digest)]
