"""Two published networks and the images they were measured on, kept outside the repository.

They lie in the folder that SATBENCH_ANCHORS names, else in ../shared/data/anchors beside the repository: the MNIST test
files and state dicts of two small networks.
"""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from satbench.data import ImageSet, load_images
from satbench.data.images import image_set

FOLDER = Path(os.environ.get("SATBENCH_ANCHORS") or Path(__file__).parents[2] / "shared" / "data" / "anchors")
MEAN, STD = (0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616)


class Normalised(nn.Module):
    """CIFAR's channel statistics taken off before the network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


def mnist_network() -> nn.Module:
    """An FGSM-trained CNN for MNIST at Linf 0.3."""
    return _network("mnist_fgsm_cnn.pth", channels=1, units=1568)


def mnist_images(n: int) -> ImageSet:
    """The first `n` test images of MNIST."""
    return load_images(f"mnist:{FOLDER}", "test").head(n)


def cifar_network() -> nn.Module:
    """An adversarially trained CNN for CIFAR-10, trained at Linf 4/255."""
    return Normalised(_network("cifar_cnn_a_adv4.pth", channels=3, units=2048)).eval()


def cifar_images() -> ImageSet:
    """200 test images of CIFAR-10."""
    pixels, labels = np.load(FOLDER / "X_sdp.npy"), np.load(FOLDER / "y_sdp.npy")
    ids = [f"sdp/{i:03d}" for i in range(len(pixels))]
    return image_set("cifar10-sdp", "test", pixels.transpose(0, 3, 1, 2), labels.astype(np.int64), ids)


def _network(file: str, channels: int, units: int) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(units, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    net.load_state_dict(torch.load(FOLDER / file, map_location="cpu", weights_only=True))
    return net.eval()
