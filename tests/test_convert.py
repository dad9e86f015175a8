"""From a checkpoint to the same network: names and layouts spelled out here once more, from the release's graphs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from torch import Tensor, nn

from satbench.core.errors import BadInput
from satbench.models import ModelSpec
from satbench.models.activations import activation as make
from satbench.models.classifier import Classifier
from satbench.models.efficientnet import EfficientNet
from satbench.models.resnet import ResNet
from satbench.zoo.convert import Converted, convert, variables
from satbench.zoo.tf_bundle import Bundle

pytestmark = pytest.mark.numeric

RELEASED_ACTIVATIONS = ("relu", "silu", "elu", "gelu", "smoothrelu", "softplus", "mish")
BLOCKS = (2, 1, 1, 1)
SCOPE = "efficientnet-bX"
AVERAGE = "/ExponentialMovingAverage"

Arrays = dict[str, np.ndarray]


def classifier(net: nn.Module) -> Classifier:
    """The network behind the release's scaling to [-1, 1]."""
    return Classifier(net, ModelSpec("", "", 10, 3, 32, (0.5,) * 3, (0.5,) * 3))


def drawn(net: nn.Module, seed: int = 0) -> Classifier:
    """In eval mode, with no value left as it began."""
    source = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "root")) or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=source)
        elif tensor.ndim == 1:
            tensor.normal_(0, 0.2, generator=source)
        elif tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=source)
    return classifier(net).eval()


def resnet(activation: str = "silu", groups: int = 1) -> ResNet:
    return ResNet(make(activation), 3, 10, BLOCKS, groups, group_width=64 // groups, width=8)


def efficientnet() -> EfficientNet:
    """As deep as B0 and a quarter as wide."""
    return EfficientNet(nn.SiLU, 3, 10, width=0.25, depth=1.0)


def hwio(weight: Tensor) -> np.ndarray:
    return weight.numpy().transpose(2, 3, 1, 0)


def resnet_checkpoint(net: ResNet) -> Arrays:
    state, arrays = net.state_dict(), {}

    def unit(name: str, conv: str, norm: str) -> None:
        arrays[f"{name}/W"] = hwio(state[f"{conv}.weight"])
        arrays[f"{name}/bn/gamma"] = state[f"{norm}.weight"].numpy()
        arrays[f"{name}/bn/beta"] = state[f"{norm}.bias"].numpy()
        arrays[f"{name}/bn/mean/EMA"] = state[f"{norm}.running_mean"].numpy()
        arrays[f"{name}/bn/variance/EMA"] = state[f"{norm}.running_var"].numpy()

    def site(name: str, key: str) -> None:
        if f"{key}.root" in state:
            arrays[f"{name}/smoothrelu_beta"] = state[f"{key}.root"].numpy()

    unit("conv0", "conv1", "bn1")
    site("conv0", "act1")
    for group, blocks in enumerate(BLOCKS):
        for block in range(blocks):
            name, key = f"group{group}/block{block}", f"layer{group + 1}.{block}"
            for k in (1, 2, 3):
                unit(f"{name}/conv{k}", f"{key}.conv{k}", f"{key}.bn{k}")
            if block == 0:
                unit(f"{name}/convshortcut", f"{key}.downsample.0", f"{key}.downsample.1")
            site(f"{name}/conv1", f"{key}.act1")
            site(f"{name}/conv2", f"{key}.act2")
            site(name, f"{key}.act3")
    arrays["linear/W"], arrays["linear/b"] = state["fc.weight"].numpy().T, state["fc.bias"].numpy()
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def efficientnet_checkpoint(net: EfficientNet) -> Arrays:
    state, arrays = net.state_dict(), {}

    def norm(name: str, key: str) -> None:
        for theirs, ours in (
            ("gamma", "weight"),
            ("beta", "bias"),
            ("moving_mean", "running_mean"),
            ("moving_variance", "running_var"),
        ):
            arrays[f"{name}/{theirs}"] = state[f"{key}.{ours}"].numpy().reshape(1, 1, 1, 1, -1)

    for part in ("stem", "head"):
        arrays[f"{part}/conv2d/kernel"] = hwio(state[f"{part}.conv.weight"])
        norm(f"{part}/tpu_batch_normalization", f"{part}.bn")
    for index in range(len(net.blocks)):
        name, key = f"blocks_{index}", f"blocks.{index}"
        depthwise = state[f"{key}.depthwise.conv.weight"].numpy()
        arrays[f"{name}/depthwise_conv2d/depthwise_kernel"] = depthwise.transpose(2, 3, 0, 1)
        for theirs, ours in (("conv2d", "fc1"), ("conv2d_1", "fc2")):
            arrays[f"{name}/se/{theirs}/kernel"] = hwio(state[f"{key}.squeeze.{ours}.weight"])
            arrays[f"{name}/se/{theirs}/bias"] = state[f"{key}.squeeze.{ours}.bias"].numpy()
        if index == 0:  # the only block of stage 0, whose expansion is 1
            arrays[f"{name}/conv2d/kernel"] = hwio(state[f"{key}.project.conv.weight"])
            norm(f"{name}/tpu_batch_normalization", f"{key}.depthwise.bn")
            norm(f"{name}/tpu_batch_normalization_1", f"{key}.project.bn")
        else:
            arrays[f"{name}/conv2d/kernel"] = hwio(state[f"{key}.expand.conv.weight"])
            arrays[f"{name}/conv2d_1/kernel"] = hwio(state[f"{key}.project.conv.weight"])
            norm(f"{name}/tpu_batch_normalization", f"{key}.expand.bn")
            norm(f"{name}/tpu_batch_normalization_1", f"{key}.depthwise.bn")
            norm(f"{name}/tpu_batch_normalization_2", f"{key}.project.bn")
    arrays["head/dense/kernel"] = state["classifier.weight"].numpy().T
    arrays["head/dense/bias"] = state["classifier.bias"].numpy()
    return {f"{SCOPE}/{name}": np.ascontiguousarray(array) for name, array in arrays.items()}


def converted(folder: Path, arrays: Arrays, net: nn.Module, order: str = "bgr", **options: object) -> Converted:
    write_bundle(folder / "net", arrays)
    with Bundle(folder / "net") as bundle:
        return convert(bundle, classifier(net), order, SCOPE, **options)


def assert_equal_logits(found: Tensor, wanted: Tensor) -> None:
    """To 1e-5 of the largest logit."""
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def images(side: int = 33) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("activation", RELEASED_ACTIVATIONS)
def test_a_resnet_comes_back_with_every_activation_taking_rgb(activation: str, tmp_path: Path) -> None:
    original = drawn(resnet(activation))
    found = converted(tmp_path, resnet_checkpoint(original.net), resnet(activation)).model
    assert not any(module.training for module in found.modules())
    with torch.no_grad():
        assert_equal_logits(found(images()), original(images().flip(1)))


def test_a_grouped_resnext_comes_back(tmp_path: Path) -> None:
    original = drawn(resnet(groups=4))
    arrays = resnet_checkpoint(original.net)
    assert arrays["group0/block0/conv2/W"].shape == (3, 3, 2, 8)  # a quarter of the inputs
    found = converted(tmp_path, arrays, resnet(groups=4)).model
    with torch.no_grad():
        assert_equal_logits(found(images()), original(images().flip(1)))


@pytest.mark.parametrize("rank", [1, 5])
def test_an_efficientnet_comes_back_with_its_channels_as_they_are(rank: int, tmp_path: Path) -> None:
    original = drawn(efficientnet())
    arrays = efficientnet_checkpoint(original.net)
    if rank == 1:
        arrays = {name: array.reshape(-1) if array.ndim == 5 else array for name, array in arrays.items()}
    found = converted(tmp_path, arrays, efficientnet(), "rgb").model
    with torch.no_grad():
        assert_equal_logits(found(images(64)), original(images(64)))


def test_a_deeper_stage_0_counts_its_projection_first() -> None:
    """Above B0 stage 0 has several blocks, and `conv2d` is the projection in each."""
    net = EfficientNet(nn.SiLU, 3, 10, width=0.25, depth=1.1)
    names = {one.name for one in variables(net, SCOPE)}
    assert f"{SCOPE}/blocks_1/conv2d/kernel" in names
    assert f"{SCOPE}/blocks_1/conv2d_1/kernel" not in names
    assert f"{SCOPE}/blocks_2/conv2d_1/kernel" in names


def test_what_belongs_to_no_network_is_listed(tmp_path: Path) -> None:
    arrays = resnet_checkpoint(drawn(resnet()).net)
    extra = {"global_step": np.array(7, np.int64), "linear/W/Momentum": arrays["linear/W"], "lr": np.float32([0.1])}
    found = converted(tmp_path, arrays | extra, resnet())
    assert sorted(found.ignored) == sorted(extra)
    assert (found.taken, found.averages, found.averaged) == (len(arrays), 0, False)


def averages_of(arrays: Arrays) -> Arrays:
    return {f"{name}{AVERAGE}": array for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("card_says", "ema", "averaged"),
    [(False, "auto", False), (True, "auto", True), (False, "on", True), (True, "off", False)],
)
def test_averages_are_taken_for_all_variables_or_none(
    card_says: bool, ema: str, averaged: bool, tmp_path: Path
) -> None:
    raw, average = drawn(efficientnet(), seed=0), drawn(efficientnet(), seed=1)
    arrays = efficientnet_checkpoint(raw.net) | averages_of(efficientnet_checkpoint(average.net))
    found = converted(tmp_path, arrays, efficientnet(), "rgb", averaged=card_says, ema=ema)
    assert found.averaged is averaged
    assert found.averages == found.taken == len(found.ignored)
    wanted = (average if averaged else raw).state_dict()
    assert all(torch.equal(wanted[key], tensor) for key, tensor in found.model.state_dict().items())


def test_some_averages_are_not_enough(tmp_path: Path) -> None:
    arrays = resnet_checkpoint(drawn(resnet()).net)
    averages = averages_of(arrays)
    del averages[f"group1/block0/conv2/bn/mean/EMA{AVERAGE}"]
    with pytest.raises(BadInput, match=f"averages of {len(arrays) - 1} of {len(arrays)} variables.*--ema off"):
        converted(tmp_path, arrays | averages, resnet(), ema="on")
    assert converted(tmp_path, arrays | averages, resnet(), ema="off").averages == len(arrays) - 1


def spoiled() -> Iterator[tuple[str, Arrays, str]]:
    arrays = resnet_checkpoint(drawn(resnet("smoothrelu")).net)
    stem, beta, variance = "conv0/W", "group0/block1/smoothrelu_beta", "conv0/bn/variance/EMA"
    without = {name: array for name, array in arrays.items() if name != beta}
    yield "missing", without, f"lacks the variable '{beta}'"
    yield "shape", arrays | {stem: arrays[stem].transpose(3, 0, 1, 2).copy()}, r"'conv0/W' has shape \(8, 7, 7, 3\)"
    yield "type", arrays | {stem: arrays[stem].astype(np.float64)}, "'conv0/W' is float64, expected float32"
    yield "nan", arrays | {stem: np.full_like(arrays[stem], np.nan)}, "'conv0/W' has NaN or infinite values"
    yield "variance", arrays | {variance: -arrays[variance]}, f"'{variance}' is a variance below zero"
    yield "root", arrays | {beta: np.zeros(1, np.float32)}, f"'{beta}' is zero"


@pytest.mark.parametrize(("arrays", "message"), [case[1:] for case in spoiled()], ids=[case[0] for case in spoiled()])
def test_a_checkpoint_of_another_network_is_refused(arrays: Arrays, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        converted(tmp_path, arrays, resnet("smoothrelu"))


def test_an_unknown_choice_of_averages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown ema 'yes'"):
        converted(tmp_path, resnet_checkpoint(drawn(resnet()).net), resnet(), ema="yes")


def test_only_released_families_have_a_layout(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="layout of a Linear"):
        converted(tmp_path, {"w": np.zeros(1, np.float32)}, nn.Linear(1, 1))
