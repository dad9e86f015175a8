"""Wide ResNets: published sizes, refused depths, the start of the weights."""

import math

import pytest
import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.models import ARCHITECTURES, ModelSpec, build_model

pytestmark = pytest.mark.numeric

# depth, width: millions of parameters for CIFAR-10; tables of arXiv 1605.07146, and 34-10 as adversarial training
# states it (the code of TRADES also holds a group that it never uses)
PUBLISHED = {
    (40, 1): "0.6",
    (40, 2): "2.2",
    (40, 4): "8.9",
    (28, 10): "36.5",
    (28, 12): "52.5",
    (22, 8): "17.2",
    (22, 10): "26.8",
    (16, 8): "11.0",
    (16, 10): "17.1",
    (34, 10): "46.16",
}


def spec(**params: int) -> ModelSpec:
    return ModelSpec("wide-resnet", "relu", 10, 3, 32, (0.5,) * 3, (0.25,) * 3, params)


def size(**params: int) -> int:
    with torch.device("meta"):
        net = ARCHITECTURES["wide-resnet"](nn.ReLU, channels=3, image_size=32, num_classes=10, **params)
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("depth", "width"), PUBLISHED)
def test_it_has_the_published_size(depth: int, width: int) -> None:
    published = PUBLISHED[depth, width]
    assert f"{size(depth=depth, width=width) / 1e6:.{len(published.partition('.')[2])}f}" == published


def test_28_10_has_the_size_of_other_implementations_and_34_10_is_the_default() -> None:
    """36,479,194 in osmr/imgclsmob, which asserts it."""
    assert size(depth=28, width=10) == 36_479_194
    assert size() == size(depth=34, width=10)


@pytest.mark.parametrize("depth", [1, 4, 9, 11, 12, 30, 32])
def test_a_depth_that_makes_no_three_groups_is_refused(depth: int) -> None:
    with pytest.raises(BadInput, match=f"wide-resnet has no depth {depth}; give 6 n \\+ 4, such as 16, 28 or 34"):
        build_model(spec(depth=depth))


def test_convolutions_start_normal_with_the_deviation_of_their_fan_out_and_the_head_without_bias() -> None:
    torch.manual_seed(0)
    net = build_model(spec(depth=10, width=4)).net
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 10  # of 3x3 seven, and three shortcuts
    for conv in convolutions:
        wanted = math.sqrt(2 / (conv.kernel_size[0] ** 2 * conv.out_channels))
        assert conv.weight.std().item() == pytest.approx(wanted, rel=6 / math.sqrt(2 * conv.weight.numel()))
    assert not net[-1].bias.any()
