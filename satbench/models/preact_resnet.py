"""Pre-activation ResNets for small images (He et al. 2016, arXiv 1603.05027)."""

from collections.abc import Callable

from torch import Tensor, nn

Act = Callable[[], nn.Module]


class PreActBlock(nn.Module):
    """BN-act-conv twice plus the shortcut; a projected shortcut starts after the first BN and activation."""

    def __init__(self, act: Act, before: int, filters: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.act1 = nn.BatchNorm2d(before), act()
        self.conv1 = nn.Conv2d(before, filters, 3, stride=stride, padding=1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(filters), act()
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        projected = stride != 1 or before != filters
        self.shortcut = nn.Conv2d(before, filters, 1, stride=stride, bias=False) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        ready = self.act1(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(ready)
        out: Tensor = self.conv2(self.act2(self.bn2(self.conv1(ready)))) + kept
        return out


def preact_resnet18(act: Act, channels: int, image_size: int, num_classes: int, width: int = 64) -> nn.Module:
    """Four groups of two blocks with `width` x 1, 2, 4, 8 filters and strides 1, 2, 2, 2, ending in BN and activation.

    The 3x3 stem has stride 1 up to 48 pixels a side and stride 2 above, where the full resolution would cost four
    times the passes. Global average pooling accepts any side of at least 8.
    """
    stem_stride = 1 if image_size <= 48 else 2
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)]
    before = width
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        layers += [PreActBlock(act, before, filters, stride), PreActBlock(act, filters, filters, 1)]
        before = filters
    head = [nn.BatchNorm2d(before), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    return nn.Sequential(*layers, *head)
