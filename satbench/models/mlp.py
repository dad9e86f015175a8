"""Fully connected network on flattened pixels."""

from collections.abc import Callable

from torch import nn


def mlp(
    act: Callable[[], nn.Module], channels: int, image_size: int, num_classes: int, width: int = 256, depth: int = 2
) -> nn.Module:
    """`depth` hidden layers of `width` units, each followed by its own activation; no normalisation."""
    layers: list[nn.Module] = [nn.Flatten()]
    units = channels * image_size * image_size
    for _ in range(depth):
        layers += [nn.Linear(units, width), act()]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, num_classes))
