"""ResNet and ResNeXt as Smooth Adversarial Training released them (Xie et al. 2020, arXiv 2006.14536).

The stride sits on the 3x3 convolution and strided convolutions pad symmetrically, as in torchvision; the max-pool pads
as TensorFlow's SAME, and each activation site owns its module, unlike there.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from satbench.models.same_padding import MaxPool2dSame

Act = Callable[[], nn.Module]
EXPANSION = 4


def _conv(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    deviation = (2 / (kernel * kernel * after)) ** 0.5
    # a normal cut at two deviations has 0.8796 of its deviation left
    nn.init.trunc_normal_(conv.weight, std=deviation / 0.8796, a=-2 * deviation / 0.8796, b=2 * deviation / 0.8796)
    return conv


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with BN; the last BN starts at zero and has its activation after the sum."""

    def __init__(self, act: Act, before: int, inner: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = _conv(before, inner, 1), nn.BatchNorm2d(inner), act()
        self.conv2, self.bn2, self.act2 = _conv(inner, inner, 3, stride, groups), nn.BatchNorm2d(inner), act()
        self.conv3, self.bn3, self.act3 = _conv(inner, after, 1), nn.BatchNorm2d(after), act()
        nn.init.zeros_(self.bn3.weight)
        self.downsample: nn.Sequential | None = None
        if before != after:
            self.downsample = nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        main = self.act1(self.bn1(self.conv1(x)))
        main = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(main)))))
        kept = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act3(main + kept)
        return out


class ResNet(nn.Module):
    """Four groups of bottlenecks with `width` x 1, 2, 4, 8 planes after a 7x7 stem; state keys as in torchvision.

    `blocks` are the bottlenecks of each group. A 3x3 convolution has `groups` groups and, in the first group of a
    network of width 64, `group_width` channels in each.
    """

    def __init__(
        self,
        act: Act,
        channels: int,
        num_classes: int,
        blocks: Sequence[int],
        groups: int = 1,
        group_width: int = 64,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1 = _conv(channels, width, 7, stride=2), nn.BatchNorm2d(width), act()
        self.maxpool = MaxPool2dSame(kernel=3, stride=2)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            self._group(act, depth, group, width, groups, group_width) for group, depth in enumerate(blocks)
        )
        self.fc = nn.Linear(8 * width * EXPANSION, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    @staticmethod
    def _group(act: Act, depth: int, group: int, width: int, groups: int, group_width: int) -> nn.Sequential:
        planes = width * 2**group
        inner, after = planes * group_width * groups // 64, planes * EXPANSION
        before, stride = (after // 2, 2) if group else (width, 1)
        first = Bottleneck(act, before, inner, after, stride, groups)
        return nn.Sequential(first, *(Bottleneck(act, after, inner, after, 1, groups) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.mean(x, dim=(2, 3)))
        return logits


def _family(name: str, blocks: Sequence[int], groups: int = 1, group_width: int = 64) -> Callable[..., nn.Module]:
    def build(act: Act, channels: int, image_size: int, num_classes: int, width: int = 64) -> nn.Module:
        return ResNet(act, channels, num_classes, blocks, groups, group_width, width)

    build.__doc__ = f"{name} of the SAT release, stride on the 3x3 convolution."
    return build


RESNETS: dict[str, Callable[..., nn.Module]] = {
    "resnet50": _family("ResNet-50", (3, 4, 6, 3)),
    "resnet101": _family("ResNet-101", (3, 4, 23, 3)),
    "resnet152": _family("ResNet-152", (3, 8, 36, 3)),
    "resnext50-32x4d": _family("ResNeXt-50 32x4d", (3, 4, 6, 3), 32, 4),
    "resnext50-32x8d": _family("ResNeXt-50 32x8d", (3, 4, 6, 3), 32, 8),
    "resnext152-32x8d": _family("ResNeXt-152 32x8d", (3, 8, 36, 3), 32, 8),
}
