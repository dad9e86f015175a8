"""From a released TensorFlow checkpoint to the same network in PyTorch.

The names, shapes and layouts to expect come from the architecture; nothing is guessed from what a file happens to hold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.models.activations import SmoothReLU
from satbench.models.classifier import Classifier
from satbench.models.efficientnet import ConvNorm, EfficientNet, MBConv
from satbench.models.resnet import Bottleneck, ResNet
from satbench.models.weights import load_strictly
from satbench.zoo.tf_bundle import Bundle

CONVERTER = 1  # counted up whenever the same checkpoint would give other weights
AVERAGE = "/ExponentialMovingAverage"  # TensorFlow's name for a variable's moving average
EMA = ("auto", "on", "off")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Variable:
    """A variable a checkpoint must hold: its `name` there, the shapes it may have, and its `key` in the state dict.

    `axes` is the transposition from TensorFlow's layout to PyTorch's.
    """

    name: str
    key: str
    shapes: tuple[Shape, ...]
    axes: Shape


@dataclass(frozen=True)
class Converted:
    """A network in eval mode with what its checkpoint held beside it.

    taken: how many variables the network has. averaged: whether their moving averages were taken. averages: of how many
    the checkpoint holds one. ignored: the names that are no part of the network.
    """

    model: Classifier
    taken: int
    averaged: bool
    averages: int
    ignored: list[str]


def variables(net: nn.Module, scope: str = "") -> list[Variable]:
    """Every variable of the release's graph for `net`, a `ResNet` or an `EfficientNet`.

    `scope` is the name an EfficientNet's variables begin with, such as "efficientnet-bL1".
    """
    if isinstance(net, ResNet):
        return list(_resnet(net))
    if isinstance(net, EfficientNet):
        return list(_efficientnet(net, scope))
    raise BadInput(
        f"no released checkpoint has the layout of a {type(net).__name__}; expected a ResNet or EfficientNet"
    )


def convert(
    bundle: Bundle,
    model: Classifier,
    channel_order: Literal["rgb", "bgr"],
    scope: str = "",
    averaged: bool = False,
    ema: str = "auto",
) -> Converted:
    """`model` with the weights of `bundle`, taking RGB whatever the checkpoint's `channel_order` was.

    The tensors of `model` are replaced, so it may lie on the meta device. `averaged` says whether the release evaluates
    the moving averages; `ema` "on" or "off" overrules it. Averages are taken for all variables or for none. Raises
    `BadInput` for a variable that is missing, misshapen or not float32, for values no trained network has (not finite,
    a variance below zero, a SmoothReLU of zero), and for an unknown `ema`.
    """
    if ema not in EMA:
        raise BadInput(f"unknown ema {ema!r}; {nearest(ema, EMA)}")
    take_averages = averaged if ema == "auto" else ema == "on"
    expected = variables(model.net, scope)
    averages = sum(f"{one.name}{AVERAGE}" in bundle.entries for one in expected)
    if take_averages and averages < len(expected):
        raise BadInput(
            f"{bundle.files[0]} has moving averages of {averages} of {len(expected)} variables; all are needed, "
            "give another checkpoint or --ema off"
        )
    suffix = AVERAGE if take_averages else ""
    state = {f"net.{one.key}": _read(bundle, one, one.name + suffix) for one in expected}
    if channel_order == "bgr":
        stem = f"net.{expected[0].key}"
        state[stem] = state[stem].flip(1).contiguous()
    for key, tensor in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.zeros_like(tensor, device="cpu")
        elif key in ("mean", "std"):
            state[key] = tensor
    load_strictly(model, state, bundle.files[0], assign=True)
    used = {one.name + suffix for one in expected}
    ignored = [name for name in bundle.entries if name not in used]
    return Converted(model.eval(), len(expected), take_averages, averages, ignored)


def _read(bundle: Bundle, variable: Variable, name: str) -> Tensor:
    where = bundle.files[0]
    if name not in bundle.entries:
        raise BadInput(f"{where} lacks the variable {name!r}; it belongs to another network")
    entry = bundle.entries[name]
    if entry.shape not in variable.shapes:
        wanted = " or ".join(str(shape) for shape in variable.shapes)
        raise BadInput(f"{where}: {name!r} has shape {entry.shape}, expected {wanted}; it belongs to another network")
    if entry.dtype != np.float32:
        raise BadInput(f"{where}: {name!r} is {entry.dtype}, expected float32; it is not the released checkpoint")
    array = bundle.read(name).reshape(variable.shapes[0])
    if not np.isfinite(array).all():
        raise BadInput(f"{where}: {name!r} has NaN or infinite values; fetch it again")
    if variable.key.endswith("running_var") and array.min() < 0:
        raise BadInput(f"{where}: {name!r} is a variance below zero; it is not a trained network's")
    if variable.key.endswith("root") and not array.all():
        raise BadInput(f"{where}: {name!r} is zero, which is no SmoothReLU; it is not a trained network's")
    tensor = torch.from_numpy(np.array(array.transpose(variable.axes), dtype=np.float32, order="C"))
    bundle.release(name)
    return tensor


def _convolution(name: str, key: str, conv: nn.Conv2d) -> Variable:
    """Height, width, inputs of a group, outputs, where PyTorch has the outputs first."""
    outputs, inputs, height, width = conv.weight.shape
    return Variable(name, f"{key}.weight", ((height, width, inputs, outputs),), (3, 2, 0, 1))


def _depthwise(name: str, key: str, conv: nn.Conv2d) -> Variable:
    """Height, width, channels, multiplier, where a plain convolution has the channels last."""
    channels, multiplier, height, width = conv.weight.shape
    return Variable(name, f"{key}.weight", ((height, width, channels, multiplier),), (2, 3, 0, 1))


def _vector(name: str, key: str, size: int, ranks: tuple[int, ...] = (1,)) -> Variable:
    return Variable(name, key, tuple((1,) * (rank - 1) + (size,) for rank in ranks), (0,))


def _norm(
    name: str, key: str, norm: nn.BatchNorm2d, leaves: Mapping[str, str], ranks: tuple[int, ...]
) -> list[Variable]:
    return [_vector(f"{name}/{leaf}", f"{key}.{ours}", norm.num_features, ranks) for ours, leaf in leaves.items()]


def _dense(weight: str, bias: str, key: str, linear: nn.Linear) -> list[Variable]:
    outputs, inputs = linear.weight.shape
    return [Variable(weight, f"{key}.weight", ((inputs, outputs),), (1, 0)), _vector(bias, f"{key}.bias", outputs)]


RESNET_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "mean/EMA", "running_var": "variance/EMA"}


def _resnet(net: ResNet) -> Iterator[Variable]:
    yield from _unit("conv0", "conv1", net.conv1, "bn1", net.bn1)
    yield from _smoothrelu("conv0", "act1", net.act1)
    for group, layer in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
        for index, block in enumerate(layer):
            assert isinstance(block, Bottleneck)
            name, key = f"group{group}/block{index}", f"layer{group + 1}.{index}"
            for k in (1, 2, 3):
                conv, norm = getattr(block, f"conv{k}"), getattr(block, f"bn{k}")
                yield from _unit(f"{name}/conv{k}", f"{key}.conv{k}", conv, f"{key}.bn{k}", norm)
            if block.downsample is not None:
                shortcut, norm = getattr(block.downsample, "0"), getattr(block.downsample, "1")
                yield from _unit(f"{name}/convshortcut", f"{key}.downsample.0", shortcut, f"{key}.downsample.1", norm)
            for site, activation in (("/conv1", "act1"), ("/conv2", "act2"), ("", "act3")):
                yield from _smoothrelu(name + site, f"{key}.{activation}", getattr(block, activation))
    yield from _dense("linear/W", "linear/b", "fc", net.fc)


def _unit(name: str, conv_key: str, conv: nn.Conv2d, norm_key: str, norm: nn.BatchNorm2d) -> Iterator[Variable]:
    yield _convolution(f"{name}/W", conv_key, conv)
    yield from _norm(f"{name}/bn", norm_key, norm, RESNET_NORM, ranks=(1,))


def _smoothrelu(name: str, key: str, module: nn.Module) -> Iterator[Variable]:
    """The file stores the root of beta, and so does the module."""
    if isinstance(module, SmoothReLU):
        yield _vector(f"{name}/smoothrelu_beta", f"{key}.root", 1)


EFFICIENTNET_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def _efficientnet(net: EfficientNet, scope: str) -> Iterator[Variable]:
    for module in net.modules():
        if isinstance(module, SmoothReLU):
            raise BadInput("no released EfficientNet has SmoothReLU; its checkpoint would lack the scalars")
    yield from _step(f"{scope}/stem", "stem", net.stem, 0, 0)
    for index, block in enumerate(net.blocks):
        assert isinstance(block, MBConv)
        yield from _mbconv(f"{scope}/blocks_{index}", f"blocks.{index}", block)
    yield from _step(f"{scope}/head", "head", net.head, 0, 0)
    yield from _dense(f"{scope}/head/dense/kernel", f"{scope}/head/dense/bias", "classifier", net.classifier)


def _mbconv(name: str, key: str, block: MBConv) -> Iterator[Variable]:
    """Layers are numbered in order of creation, so a block without expansion counts its projection as number 0."""
    expanded = block.expand is not None
    if block.expand is not None:
        yield from _step(name, f"{key}.expand", block.expand, 0, 0)
    yield _depthwise(f"{name}/depthwise_conv2d/depthwise_kernel", f"{key}.depthwise.conv", block.depthwise.conv)
    yield from _numbered_norm(name, f"{key}.depthwise.bn", block.depthwise.bn, int(expanded))
    for number, layer in enumerate(("fc1", "fc2")):
        conv = getattr(block.squeeze, layer)
        where = f"{name}/se/{_numbered('conv2d', number)}"
        yield _convolution(f"{where}/kernel", f"{key}.squeeze.{layer}", conv)
        yield _vector(f"{where}/bias", f"{key}.squeeze.{layer}.bias", conv.out_channels)
    yield from _step(name, f"{key}.project", block.project, int(expanded), 1 + int(expanded))


def _step(name: str, key: str, step: ConvNorm, conv_number: int, norm_number: int) -> Iterator[Variable]:
    yield _convolution(f"{name}/{_numbered('conv2d', conv_number)}/kernel", f"{key}.conv", step.conv)
    yield from _numbered_norm(name, f"{key}.bn", step.bn, norm_number)


def _numbered_norm(name: str, key: str, norm: nn.BatchNorm2d, number: int) -> list[Variable]:
    """The release declares these variables with shape (1, 1, 1, 1, C)."""
    return _norm(f"{name}/{_numbered('tpu_batch_normalization', number)}", key, norm, EFFICIENTNET_NORM, ranks=(1, 5))


def _numbered(layer: str, number: int) -> str:
    return f"{layer}_{number}" if number else layer
