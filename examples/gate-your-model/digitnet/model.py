"""The network, its preprocessing and its weights."""

from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("weights.safetensors")
MEAN = 0.305  # of the pixels of the training images
STD = 0.376


class Digitnet(nn.Module):
    """Maps images (N, 1, 8, 8) in [0, 1] to logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = (images - MEAN) / STD
        x = F.silu(self.first(x))
        x = F.silu(self.second(x))
        return self.last(F.avg_pool2d(x, 2).flatten(1))


def load() -> nn.Module:
    """The network with the weights that are shipped."""
    network = Digitnet()
    network.load_state_dict(load_file(WEIGHTS))
    return network
