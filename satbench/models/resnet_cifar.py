"""ResNet-18 for small images, with activations after the batch norms (He et al. 2015, arXiv 1512.03385), as MART's."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Act = Callable[[], nn.Module]


class BasicBlock(nn.Module):
    """conv-BN-act, conv-BN, the shortcut added, act; a projected shortcut is a 1x1 convolution with BN."""

    def __init__(self, act: Act, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, filters, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(filters), act()
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(filters), act()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or before != filters:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        main = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        kept = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act2(main + kept)
        return out


class ResNet18(nn.Module):
    """A 3x3 stem of stride 1 and four groups of two blocks with `width` x 1, 2, 4, 8 filters and strides 1, 2, 2, 2."""

    def __init__(self, act: Act, channels: int, num_classes: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1, self.act1 = nn.BatchNorm2d(width), act()
        blocks: list[nn.Module] = []
        before = width
        for group in range(4):
            filters = width * 2**group
            blocks += [BasicBlock(act, before, filters, 2 if group else 1), BasicBlock(act, filters, filters, 1)]
            before = filters
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.act1(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(torch.mean(x, dim=(2, 3)))
        return logits


def resnet18_cifar(act: Act, channels: int, image_size: int, num_classes: int, width: int = 64) -> nn.Module:
    """ResNet-18 with activations after the batch norms, stem of stride 1; any side of at least 8."""
    return ResNet18(act, channels, num_classes, width)
