"""What TensorFlow itself computed and wrote, kept in tests/fixtures/tf/, against ours; `make test-tf` made it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from tf_reference.inputs import (
    ACTIVATIONS,
    BICUBIC,
    EXTRAS,
    FULL_WIDTH,
    KERNELS,
    LAYER_SIDES,
    RELEASED,
    SHARDED,
    TINY,
    EfficientNetPlan,
    Plan,
    ResNetPlan,
    activation_inputs,
    batch_norm_inputs,
    images,
    numbers,
    uniform,
    variable,
)
from torch import nn

from satbench.core.errors import BadInput
from satbench.data.loaders import legacy_bicubic
from satbench.models import ARCHITECTURES, ModelSpec
from satbench.models import activations as ours
from satbench.models.classifier import Classifier
from satbench.models.efficientnet import EfficientNet
from satbench.models.resnet import ResNet
from satbench.models.same_padding import Conv2dSame, MaxPool2dSame
from satbench.zoo.convert import convert, variables
from satbench.zoo.tf_bundle import Bundle

pytestmark = pytest.mark.numeric

FIXTURES = Path(__file__).parent / "fixtures" / "tf"
LOGITS = np.load(FIXTURES / "logits.npz")
LAYERS = np.load(FIXTURES / "layers.npz")


def network(plan: Plan) -> Classifier:
    half = (0.5,) * 3
    if isinstance(plan, ResNetPlan):
        make = ours.activation(plan.activation)
        net: nn.Module = ResNet(make, 3, plan.classes, plan.blocks, plan.groups, plan.group_width, plan.width)
    else:
        net = EfficientNet(nn.SiLU, 3, plan.classes, plan.width, plan.depth)
    return Classifier(net, ModelSpec("", "", plan.classes, 3, plan.sizes[0], half, half))


def scope(plan: Plan) -> str:
    return plan.scope if isinstance(plan, EfficientNetPlan) else ""


def assert_tensorflows_logits(plan: Plan, prefix: Path) -> None:
    """To 1e-5 of the largest logit, at every size."""
    order = "bgr" if isinstance(plan, ResNetPlan) else "rgb"
    with Bundle(prefix) as bundle:
        model = convert(bundle, network(plan), order, scope(plan)).model
    for size in plan.sizes:
        x = torch.from_numpy(images(size)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            found = model(x).numpy()
        expected = LOGITS[f"{plan.name}/{size}"]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), size


@pytest.mark.one_in(12)
@pytest.mark.parametrize("plan", [*TINY, *FULL_WIDTH], ids=lambda plan: plan.name)
def test_a_converted_network_gives_tensorflows_logits(plan: Plan, tmp_path: Path) -> None:
    expected = variables(network(plan).net, scope(plan))
    write_bundle(tmp_path / "net", {one.name: variable(one.name, one.shapes[-1]) for one in expected})
    assert_tensorflows_logits(plan, tmp_path / "net")


def test_a_checkpoint_that_tensorflow_wrote_gives_its_logits() -> None:
    assert_tensorflows_logits(RELEASED, FIXTURES / "resnet50")


def test_a_checkpoint_that_tensorflow_wrote_is_read_to_the_byte() -> None:
    with Bundle(FIXTURES / "resnet50") as bundle:
        assert len(bundle.entries) == 316 + len(EXTRAS)  # a ResNet-50 with SmoothReLU, however narrow
        for name, entry in bundle.entries.items():
            expected = EXTRAS[name] if name in EXTRAS else variable(name, entry.shape)
            assert bundle.read(name).tobytes() == expected.tobytes(), name


def test_tensorflows_shards_dtypes_and_shapes_are_read() -> None:
    with Bundle(FIXTURES / "sharded") as bundle:
        assert set(bundle.entries) == set(SHARDED)
        assert len(bundle.files) == 3
        for name, (dtype, shape) in SHARDED.items():
            entry = bundle.entries[name]
            assert (str(entry.dtype), entry.shape, entry.shard) == (dtype, shape, int(name.startswith("second/")))
            if dtype == "bfloat16":
                with pytest.raises(BadInput, match="holds bfloat16, which cannot be read"):
                    bundle.read(name)
            else:
                assert np.array_equal(bundle.read(name), numbers(dtype, shape)), name


def test_tensorflows_sliced_variables_are_refused() -> None:
    with pytest.raises(BadInput, match="partitioned variable"):
        Bundle(FIXTURES / "sliced")


def test_an_object_checkpoint_is_read_but_for_its_strings() -> None:
    with Bundle(FIXTURES / "object") as bundle:
        assert np.array_equal(bundle.read("x/.ATTRIBUTES/VARIABLE_VALUE"), numbers("float32", (3,)))
        strings = [name for name, entry in bundle.entries.items() if entry.dtype == "string"]
        with pytest.raises(BadInput, match="holds string, which cannot be read"):
            bundle.read(*strings)


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def assert_same(key: str, found: torch.Tensor) -> None:
    np.testing.assert_allclose(found.detach().permute(0, 2, 3, 1).numpy(), LAYERS[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", LAYER_SIDES)
def test_the_max_pool_is_tensorflows(side: int) -> None:
    key = f"max_pool/{side}"
    assert_same(key, MaxPool2dSame(3, 2)(nchw(uniform(key, (1, side, side, 3)) - 1)))


@pytest.mark.parametrize("side", LAYER_SIDES)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_strided_convolutions_are_tensorflows(kind: str, kernel: int, side: int) -> None:
    key = f"{kind}/{kernel}/{side}"
    outputs, groups = (4, 1) if kind == "conv" else (1, 3)
    weights = torch.from_numpy(uniform(f"{key}/W", (kernel, kernel, 3, outputs)))
    conv = Conv2dSame(3, outputs * groups, kernel, 2, groups=groups, bias=False)
    axes = (3, 2, 0, 1) if kind == "conv" else (2, 3, 0, 1)
    conv.weight = nn.Parameter(weights.permute(axes))
    assert_same(key, conv(nchw(uniform(key, (1, side, side, 3)))))


@pytest.mark.parametrize("kind", ["fused", "formula"])
def test_batch_norm_is_tensorflows(kind: str) -> None:
    x, statistics = batch_norm_inputs()
    norm = ARCHITECTURES["resnet50"](nn.ReLU, channels=3, image_size=32, num_classes=2, width=6).bn1.eval()
    names = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "variance"}
    norm.load_state_dict({key: torch.from_numpy(statistics[name]) for key, name in names.items()}, strict=False)
    found = norm(nchw(x)).detach().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, LAYERS[f"batch_norm/{kind}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_releases(name: str) -> None:
    function = ours.activation(name)()
    if isinstance(function, ours.SmoothReLU):
        function.root = nn.Parameter(torch.tensor([3.0]))
    found = function(torch.from_numpy(activation_inputs())).detach().numpy()
    np.testing.assert_allclose(found, LAYERS[f"activation/{name}"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width", "size"), BICUBIC)
def test_legacy_bicubic_is_tensorflows(height: int, width: int, size: int) -> None:
    key = f"bicubic/{height}x{width}/{size}"
    found = legacy_bicubic(255 * uniform(key, (1, height, width, 3))[0], size)
    np.testing.assert_allclose(found, LAYERS[key], rtol=0, atol=1e-3)
