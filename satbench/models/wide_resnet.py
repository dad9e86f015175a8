"""Wide ResNets for small images (Zagoruyko and Komodakis 2016, arXiv 1605.07146), as adversarial training uses them.

Without dropout, and initialised as in the code of TRADES (Zhang et al. 2019, arXiv 1901.08573).
"""

from torch import nn

from satbench.core.errors import BadInput
from satbench.models.preact_resnet import Act, preact_network

STEM = 16


def wide_resnet(
    act: Act, channels: int, image_size: int, num_classes: int, depth: int = 34, width: int = 10
) -> nn.Module:
    """WRN-`depth`-`width`: three groups of (`depth` - 4) / 6 pre-activation blocks with `width` x 16, 32, 64 filters.

    The strides are 1, 2, 2 after a 3x3 stem of 16 filters and stride 1, whatever the side. Raises `BadInput` for a
    depth that is not 6 n + 4.
    """
    if depth < 10 or depth % 6 != 4:
        raise BadInput(f"wide-resnet has no depth {depth}; give 6 n + 4, such as 16, 28 or 34")
    blocks = (depth - 4) // 6
    groups = [(blocks, width * STEM * 2**i, 2 if i else 1) for i in range(3)]
    stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
    net = preact_network(act, stem, groups, num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    return net
