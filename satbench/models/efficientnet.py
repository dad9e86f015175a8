"""EfficientNet B0 to B7 (Tan and Le 2019, arXiv 1905.11946) and L1, as Smooth Adversarial Training released them.

Convolutions pad as TensorFlow's SAME, and BN has eps 1e-5 where other EfficientNets have 1e-3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.models.same_padding import Conv2dSame

Act = Callable[[], nn.Module]


@dataclass(frozen=True)
class Stage:
    """A row of the paper's table 1: how often a block repeats, and its sizes before scaling."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    before: int
    after: int


STAGES = (
    Stage(1, 3, 1, 1, 32, 16),
    Stage(2, 3, 2, 6, 16, 24),
    Stage(2, 5, 2, 6, 24, 40),
    Stage(3, 3, 2, 6, 40, 80),
    Stage(3, 5, 1, 6, 80, 112),
    Stage(4, 5, 2, 6, 112, 192),
    Stage(1, 3, 1, 6, 192, 320),
)
HEAD = 1280
LAST_SURVIVAL = 0.8  # of the residual branches in training, falling linearly from 1 with depth


def _scaled(filters: int, width: float) -> int:
    """The multiple of 8 nearest to `filters * width`, never more than a tenth below it."""
    wanted = filters * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class ConvNorm(nn.Sequential):
    """A SAME convolution without bias, then BN, then `act` unless that is None."""

    conv: Conv2dSame
    bn: nn.BatchNorm2d

    def __init__(self, act: Act | None, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = Conv2dSame(before, after, kernel, stride, groups=groups, bias=False)
        nn.init.normal_(self.conv.weight, std=(2 * groups / (kernel * kernel * after)) ** 0.5)
        self.bn = nn.BatchNorm2d(after)
        if act is not None:
            self.act = act()


class MBConv(nn.Module):
    """Expansion (unless 1), depthwise convolution, squeeze and excitation, projection; plus the input where it fits."""

    def __init__(self, act: Act, stage: Stage, survival: float) -> None:
        from torchvision.ops import SqueezeExcitation, StochasticDepth  # takes a second to import

        super().__init__()
        inner = stage.before * stage.expansion
        self.expand = ConvNorm(act, stage.before, inner, 1) if stage.expansion != 1 else None
        self.depthwise = ConvNorm(act, inner, inner, stage.kernel, stage.stride, groups=inner)
        self.squeeze = SqueezeExcitation(inner, max(1, stage.before // 4), activation=act, scale_activation=nn.Sigmoid)
        self.project = ConvNorm(None, inner, stage.after, 1)
        self.residual = stage.stride == 1 and stage.before == stage.after
        self.drop = StochasticDepth(1 - survival, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else self.expand(x)
        out: Tensor = self.project(self.squeeze(self.depthwise(inner)))
        return self.drop(out) + x if self.residual else out


class EfficientNet(nn.Module):
    """The seven stages scaled by `width` and `depth`, between a 3x3 stem of stride 2 and a 1x1 head."""

    def __init__(
        self, act: Act, channels: int, num_classes: int, width: float = 1.0, depth: float = 1.0, dropout: float = 0.2
    ) -> None:
        super().__init__()
        plan = []
        for stage in STAGES:
            before, after = _scaled(stage.before, width), _scaled(stage.after, width)
            plan.append(Stage(1, stage.kernel, stage.stride, stage.expansion, before, after))
            repeat = Stage(1, stage.kernel, 1, stage.expansion, after, after)
            plan += [repeat] * (math.ceil(depth * stage.repeats) - 1)
        head = _scaled(HEAD, width)
        self.stem = ConvNorm(act, channels, plan[0].before, 3, stride=2)
        drops = [(1 - LAST_SURVIVAL) * block / len(plan) for block in range(len(plan))]
        self.blocks = nn.Sequential(*(MBConv(act, stage, 1 - drop) for stage, drop in zip(plan, drops, strict=True)))
        self.head = ConvNorm(act, plan[-1].after, head, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(head, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(self.dropout(torch.mean(features, dim=(2, 3))))
        return logits


def _family(name: str, width: float, depth: float, dropout: float) -> Callable[..., nn.Module]:
    def build(act: Act, channels: int, image_size: int, num_classes: int) -> nn.Module:
        return EfficientNet(act, channels, num_classes, width, depth, dropout)

    build.__doc__ = f"EfficientNet-{name} of the SAT release, TensorFlow's SAME padding."
    return build


EFFICIENTNETS: dict[str, Callable[..., nn.Module]] = {
    "efficientnet-b0": _family("B0", 1.0, 1.0, 0.2),
    "efficientnet-b1": _family("B1", 1.0, 1.1, 0.2),
    "efficientnet-b2": _family("B2", 1.1, 1.2, 0.3),
    "efficientnet-b3": _family("B3", 1.2, 1.4, 0.3),
    "efficientnet-b4": _family("B4", 1.4, 1.8, 0.4),
    "efficientnet-b5": _family("B5", 1.6, 2.2, 0.4),
    "efficientnet-b6": _family("B6", 1.8, 2.6, 0.5),
    "efficientnet-b7": _family("B7", 2.0, 3.1, 0.5),
    "efficientnet-l1": _family("L1", 3.9, 3.7, 0.5),
}
