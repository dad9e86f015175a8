"""Pre-activation ResNets for small images (He et al. 2016, arXiv 1603.05027)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

Act = Callable[[], nn.Module]
Block = Callable[[Act, int, int, int], nn.Module]  # activation, filters before and after, stride
EXPANSION = 4


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


class PreActBottleneck(nn.Module):
    """BN-act-conv thrice, 1x1, 3x3 and 1x1 to `after` filters from a quarter of them; shortcut as in `PreActBlock`."""

    def __init__(self, act: Act, before: int, after: int, stride: int) -> None:
        super().__init__()
        inner = after // EXPANSION
        self.bn1, self.act1 = nn.BatchNorm2d(before), act()
        self.conv1 = nn.Conv2d(before, inner, 1, bias=False)
        self.bn2, self.act2 = nn.BatchNorm2d(inner), act()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn3, self.act3 = nn.BatchNorm2d(inner), act()
        self.conv3 = nn.Conv2d(inner, after, 1, bias=False)
        projected = stride != 1 or before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False) if projected else None

    def forward(self, x: Tensor) -> Tensor:
        ready = self.act1(self.bn1(x))
        kept = x if self.shortcut is None else self.shortcut(ready)
        main = self.conv2(self.act2(self.bn2(self.conv1(ready))))
        out: Tensor = self.conv3(self.act3(self.bn3(main))) + kept
        return out


def preact_network(
    act: Act, stem: nn.Conv2d, groups: Sequence[tuple[int, int, int]], num_classes: int, block: Block = PreActBlock
) -> nn.Sequential:
    """The stem, groups of blocks, BN and activation, global average pooling, and one linear layer.

    A group is (how many blocks, filters that each gives, stride of the first). Any side of at least 8 will do.
    """
    layers: list[nn.Module] = [stem]
    before = stem.out_channels
    for blocks, filters, stride in groups:
        layers += [block(act, before, filters, stride), *(block(act, filters, filters, 1) for _ in range(blocks - 1))]
        before = filters
    head = [nn.BatchNorm2d(before), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    return nn.Sequential(*layers, *head)


def _family(depth: int, blocks: Sequence[int], block: Block = PreActBlock, factor: int = 1) -> Callable[..., nn.Module]:
    """Groups with `factor` x `width` x 1, 2, 4, 8 filters and strides 1, 2, 2, 2.

    The 3x3 stem has stride 1 up to 48 pixels a side and stride 2 above, where the full resolution would cost four
    times the passes.
    """

    def build(act: Act, channels: int, image_size: int, num_classes: int, width: int = 64) -> nn.Module:
        stem = nn.Conv2d(channels, width, 3, stride=1 if image_size <= 48 else 2, padding=1, bias=False)
        groups = [(count, factor * width * 2**i, 2 if i else 1) for i, count in enumerate(blocks)]
        return preact_network(act, stem, groups, num_classes, block)

    build.__doc__ = f"PreActResNet-{depth}, stem of stride 1 up to 48 pixels a side and 2 above."
    return build


PREACT_RESNETS: dict[str, Callable[..., nn.Module]] = {
    "preact-resnet18": _family(18, (2, 2, 2, 2)),
    "preact-resnet34": _family(34, (3, 4, 6, 3)),
    "preact-resnet50": _family(50, (3, 4, 6, 3), PreActBottleneck, EXPANSION),
}
