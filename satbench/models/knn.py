"""The k nearest neighbours of a representation, in the place of a classification layer."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.errors import BadInput
from satbench.core.parameters import Count, check
from satbench.models.classifier import Classifier, Readout


def check_neighbours(k: int, images: int) -> None:
    """Raise `BadInput` for a `k` that is no whole number from 1 to the number of stored representations."""
    check("k of a kNN read-out", k, Count)
    if k > images:
        raise BadInput(f"k={k} of a kNN read-out is more than the {images} representations that it stores; give less")


class KNN(nn.Module):
    """Votes of the `k` nearest of `images` stored representations, by class, float (N, K).

    bank: float32 (M, D). labels: int64 (M,). Distances are Euclidean; every neighbour has one vote, and of classes with
    equal votes argmax takes the first, as scikit-learn does. Votes have no gradient.
    Raises `BadInput` as `check_neighbours` does.
    """

    bank: Tensor
    labels: Tensor

    def __init__(self, k: int, images: int, width: int, classes: int) -> None:
        super().__init__()
        check_neighbours(k, images)
        self.k, self.classes = k, classes
        self.register_buffer("bank", torch.zeros(images, width))
        self.register_buffer("labels", torch.zeros(images, dtype=torch.int64))
        self.register_buffer("neighbours", torch.tensor(k))  # k decides votes, so a digest of the tensors covers it

    def forward(self, z: Tensor) -> Tensor:
        # by matrix products a distance would depend on the other rows of the batch
        gaps = torch.cdist(z.detach().to(self.bank), self.bank, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = self.labels[gaps.topk(self.k, largest=False).indices]
        return functional.one_hot(nearest, self.classes).sum(1).to(z.dtype)


def install(model: Classifier, readout: Readout) -> KNN:
    """Put an empty `KNN` in the place of a linear layer of the network, in place.

    Raises `BadInput` where the network has no such layer.
    """
    layer = dict(model.named_modules()).get(readout.layer)
    if not isinstance(layer, nn.Linear):
        raise BadInput(f"a kNN read-out takes the place of the layer {readout.layer!r}, which is no linear layer here")
    knn = KNN(readout.k, readout.images, layer.in_features, model.spec.num_classes)
    model.set_submodule(readout.layer, knn)
    return knn


def with_knn(model: Classifier, layer: nn.Linear, bank: Tensor, labels: Tensor, k: int) -> Classifier:
    """A copy of the network that votes by kNN over `bank` (M, D) and `labels` (M,) in the place of `layer`.

    In eval mode, on the device of the bank. Raises `BadInput` as `check_neighbours` does.
    """
    name = next(name for name, module in model.named_modules() if module is layer)
    made = copy.deepcopy(model)
    readout = Readout(layer=name, k=k, images=len(bank))
    made.spec = replace(model.spec, readout=readout)
    knn = install(made, readout)
    knn.bank.copy_(bank)
    knn.labels.copy_(labels)
    return made.to(bank.device).eval()
