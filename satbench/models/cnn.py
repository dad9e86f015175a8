"""A small convolutional network for laptops."""

from collections.abc import Callable

from torch import nn


def cnn_small(
    act: Callable[[], nn.Module], channels: int, image_size: int, num_classes: int, width: int = 16
) -> nn.Module:
    """Three 3x3 conv-BN-activation stages of `width`, 2 `width`, 4 `width` filters, the later two with stride 2.

    Global average pooling makes it independent of `image_size`, which only has to be at least 4.
    """
    layers: list[nn.Module] = []
    before = channels
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        layers += [
            nn.Conv2d(before, filters, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            act(),
        ]
        before = filters
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))
