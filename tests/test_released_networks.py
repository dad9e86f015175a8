"""The architectures of the SAT release against other implementations, and their sizes against the release's."""

from functools import cache

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from satbench.models import ACTIVATIONS, ARCHITECTURES, ModelSpec, build_model, empty_model
from satbench.models.activations import SmoothReLU, activation
from satbench.models.classifier import Classifier
from satbench.models.efficientnet import EfficientNet, MBConv
from satbench.models.resnet import ResNet
from satbench.models.same_padding import Conv2dSame, MaxPool2dSame, same_padding
from satbench.zoo.card import ReleasedCard
from satbench.zoo.convert import variables
from satbench.zoo.registry import read_cards

pytestmark = pytest.mark.numeric

CARDS = {name: card for name, card in read_cards().items() if isinstance(card, ReleasedCard)}

# parameters without SmoothReLU's scalars, and graph variables with BN statistics, as the release's graph code makes
# them; where the variables were not counted there, the formula below does
SIZES = {
    "resnet50": (25_557_032, 267),
    "resnet101": (44_549_160, 522),
    "resnet152": (60_192_808, 777),
    "resnext50-32x4d": (25_028_904, 267),
    "resnext50-32x8d": (48_021_800, 267),
    "resnext152-32x8d": (122_372_392, 777),
    "efficientnet-b0": (5_288_548, 311),
    "efficientnet-b1": (7_794_184, None),
    "efficientnet-b2": (9_109_994, None),
    "efficientnet-b3": (12_233_232, None),
    "efficientnet-b4": (19_341_616, None),
    "efficientnet-b5": (30_389_784, None),
    "efficientnet-b6": (43_040_704, None),
    "efficientnet-b7": (66_347_960, 1037),
    "efficientnet-l1": (272_630_564, 1189),
}
SITES = 49  # of activations in a ResNet-50: one in the stem, three in each of 16 blocks
# repeats of the seven stages, from the paper's depth coefficients
REPEATS = {
    "efficientnet-b0": (1, 2, 2, 3, 3, 4, 1),
    "efficientnet-b1": (2, 3, 3, 4, 4, 5, 2),
    "efficientnet-b2": (2, 3, 3, 4, 4, 5, 2),
    "efficientnet-b3": (2, 3, 3, 5, 5, 6, 2),
    "efficientnet-b4": (2, 4, 4, 6, 6, 8, 2),
    "efficientnet-b5": (3, 5, 5, 7, 7, 9, 3),
    "efficientnet-b6": (3, 6, 6, 8, 8, 11, 3),
    "efficientnet-b7": (4, 7, 7, 10, 10, 13, 4),
    "efficientnet-l1": (4, 8, 8, 12, 12, 15, 4),
}


def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with weights and BN statistics that leave nothing at its initial value."""
    source = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=source)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.2, generator=source)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=source)
    return model.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_there_are_24_released_cards() -> None:
    assert len(CARDS) == 24
    assert {card.architecture for card in CARDS.values()} == set(SIZES)


@cache
def empty(name: str) -> Classifier:
    """The network of a card without memory for its weights; it is not changed."""
    return empty_model(CARDS[name].spec)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", CARDS)
def test_parameters_and_variables_are_those_of_the_release(name: str) -> None:
    card = CARDS[name]
    extra = SITES if card.activation == "smoothrelu" else 0
    model = empty(name)
    parameters, count = SIZES[card.architecture]
    assert sum(p.numel() for p in model.parameters()) == parameters + extra == card.parameters
    if count is None:
        repeats = REPEATS[card.architecture]
        # a block: three convolutions of which the first stage lacks one, a BN after each, two SE layers with bias
        count = 5 + 7 + repeats[0] * (2 + 8 + 4) + sum(repeats[1:]) * (3 + 12 + 4)
    found = variables(model.net, card.scope)
    assert len(found) == len({one.name for one in found}) == len({one.key for one in found}) == count + extra
    assert {f"net.{one.key}" for one in found} == {
        key for key in model.state_dict() if key.startswith("net.") and not key.endswith("num_batches_tracked")
    }


def test_the_formula_for_variables_gives_the_known_counts() -> None:
    for name in ("efficientnet-b0", "efficientnet-b7", "efficientnet-l1"):
        repeats = REPEATS[name]
        assert 12 + 14 * repeats[0] + 19 * sum(repeats[1:]) == SIZES[name][1]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", REPEATS)
def test_efficientnet_repeats_its_blocks(name: str) -> None:
    with torch.device("meta"):
        net = ARCHITECTURES[name](nn.SiLU, channels=3, image_size=64, num_classes=1000)
    blocks = [block for block in net.modules() if isinstance(block, MBConv)]
    widths = [block.project.conv.out_channels for block in blocks]
    starts = [i for i in range(len(blocks)) if i == 0 or widths[i] != widths[i - 1]]
    assert tuple(b - a for a, b in zip(starts, [*starts[1:], len(blocks)], strict=True)) == REPEATS[name]


@pytest.mark.one_in(4)
@pytest.mark.parametrize("side", [64, 65, 96, 97])
def test_resnext_is_torchvisions_but_for_the_pool(side: int) -> None:
    """torchvision pads its pool symmetrically, which is SAME on odd sides only; on even ones ceil_mode is."""
    ours = drawn(ResNet(nn.ReLU, 3, 10, (2, 1, 1, 1), groups=32, group_width=4))
    theirs = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, [2, 1, 1, 1], num_classes=10, groups=32, width_per_group=4
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    after_stem = -(-side // 2)
    theirs.maxpool = nn.MaxPool2d(3, 2, padding=1) if after_stem % 2 else nn.MaxPool2d(3, 2, ceil_mode=True)
    x = noise(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("side", [64, 65, 95, 100])
@pytest.mark.parametrize("name", ["b0", "b2"])
def test_efficientnet_is_timms_with_another_eps(name: str, side: int) -> None:
    ours = drawn(ARCHITECTURES[f"efficientnet-{name}"](nn.SiLU, channels=3, image_size=side, num_classes=1000))
    theirs = timm.create_model(f"tf_efficientnet_{name}", bn_eps=1e-5).eval()
    assert len(theirs.state_dict()) == len(ours.state_dict())
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = noise(1, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", range(1, 12))
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_covers_every_cell_with_the_fewest_windows(side: int, kernel: int, stride: int) -> None:
    before, after = same_padding(side, kernel, stride)
    windows = (before + side + after - kernel) // stride + 1
    assert windows == -(-side // stride)
    assert 0 <= after - before <= 1
    if kernel >= stride:
        assert (windows - 1) * stride + kernel == before + side + after or before + after == 0


@pytest.mark.parametrize("side", [7, 8, 9, 10])
def test_a_padded_cell_never_wins_the_pool(side: int) -> None:
    x = -1 - noise(1, 2, side, side + 1).abs()
    pooled = MaxPool2dSame(3, 2)(x)
    (top, _), (left, _) = same_padding(side, 3, 2), same_padding(side + 1, 3, 2)
    for row in range(pooled.shape[2]):
        for column in range(pooled.shape[3]):
            a, b = row * 2 - top, column * 2 - left
            window = x[0, :, max(a, 0) : a + 3, max(b, 0) : b + 3]
            assert torch.equal(pooled[0, :, row, column], window.amax(dim=(1, 2)))


@pytest.mark.parametrize(("height", "width"), [(8, 9), (9, 8), (7, 7), (8, 8)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_a_same_convolution_is_one_over_a_padded_image(height: int, width: int, kernel: int, stride: int) -> None:
    conv = Conv2dSame(2, 4, kernel, stride, groups=2, bias=False)
    x = noise(1, 2, height, width)
    (top, bottom), (left, right) = same_padding(height, kernel, stride), same_padding(width, kernel, stride)
    padded = torch.zeros(1, 2, top + height + bottom, left + width + right)
    padded[..., top : top + height, left : left + width] = x
    torch.testing.assert_close(conv(x), functional.conv2d(padded, conv.weight, stride=stride, groups=2))


@pytest.mark.left_out
def test_every_norm_of_the_release_has_eps_1e_5() -> None:
    for name in CARDS:
        norms = [module for module in empty(name).modules() if isinstance(module, nn.BatchNorm2d)]
        assert norms
        assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}


def test_no_activation_site_shares_its_module() -> None:
    spec = ModelSpec("resnet50", "smoothrelu", 10, 3, 32, (0.5,) * 3, (0.5,) * 3, {"width": 8})
    model = build_model(spec)
    assert sum(isinstance(module, SmoothReLU) for module in model.modules()) == SITES
    calls: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, SmoothReLU):
            module.register_forward_hook(lambda module, inputs, output: calls.append(module))
    model.eval()(torch.rand(1, 3, 32, 32))
    assert len(calls) == len(set(calls)) == SITES


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_squeeze_and_excitation_takes_the_activation_too(name: str) -> None:
    make = activation(name)
    net = EfficientNet(make, 3, 10, width=0.25, depth=0.5)
    kind = type(make())
    expanded = 1 + 1 + 2 + 2 + 2 + 1  # blocks of the stages after the first, half of each rounded up
    assert (
        sum(type(module) is kind for module in net.modules()) == 2 + 1 * 2 + expanded * 3
    )  # stem and head, then blocks


def test_residual_branches_are_dropped_more_often_with_depth() -> None:
    net = EfficientNet(nn.SiLU, 3, 10)
    drops = [block.drop.p for block in net.blocks]
    assert drops == pytest.approx([0.2 * block / 16 for block in range(16)])
