"""A small network that several tests measure."""

import torch
from torch import nn

from satbench.data import load_images


def nearest_mean() -> nn.Sequential:
    """Linear: the class whose mean training image of the digits is nearest, which is right on most of them."""
    images = load_images("digits", "train")
    means = torch.stack([images.x[images.y == label].mean(0).flatten() for label in range(10)])
    linear = nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight.copy_(2 * means)
        linear.bias.copy_(-means.square().sum(1))
    return nn.Sequential(nn.Flatten(), linear)
