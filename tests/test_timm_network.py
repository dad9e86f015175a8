"""Networks of timm with the activation under comparison at every site, trained here and stored like any other."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.models import ModelSpec, build_model, empty_model
from satbench.models.weights import Provenance, load_model_file, model_digest, save_model

pytestmark = pytest.mark.numeric

__all__: list[str] = []  # timm adds the networks registered below

SOURCE = Provenance(
    label="net",
    recipe="r",
    method="m",
    dataset="d",
    seed=0,
    threat=Threat(norm="Linf", eps=0.1),
    epoch=0,
    train_digest="sha256:0",
    config="0",
    family="0",
)


def spec(name: str, activation: str = "smoothrelu", size: int = 32, **params: Any) -> ModelSpec:
    return ModelSpec(f"timm:{name}", activation, 5, 2, size, (0.5, 0.5), (0.25, 0.25), params)


def built(name: str, activation: str = "smoothrelu", size: int = 32, **params: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(spec(name, activation, size, **params))


def names(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


@pytest.mark.parametrize(
    ("name", "params", "replaced", "sites"),
    [
        ("resnet18", {}, nn.ReLU, 1 + 2 * 8),
        ("test_vit", {"patch_size": 4}, timm.layers.GELU, 6),
        ("vit_tiny_patch16_224", {"patch_size": 8, "depth": 3}, timm.layers.GELU, 3),
        ("densenet121", {}, nn.ReLU, 1 + 2 * (6 + 12 + 24 + 16) + 3 + 1),  # stem, layers, transitions, end
        ("efficientnet_b0", {}, nn.SiLU, 49),  # as ours, in norms that carry their activation
    ],
)
def test_every_activation_module_is_a_fresh_one(name: str, params: dict[str, int], replaced: type, sites: int) -> None:
    model = built(name, **params)
    scalars = [parameter for key, parameter in model.named_parameters() if key.endswith("root")]
    assert len({id(scalar) for scalar in scalars}) == len(scalars) == sites
    assert not any(type(module) is replaced for module in model.modules())
    assert all(module.training for module in model.modules())
    x = torch.rand(2, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = model.eval()(x)
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


def test_its_weights_are_timms_own_start() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", in_chans=2, num_classes=5)
    ours = built("resnet18", "relu")
    wanted, found = theirs.state_dict(), ours.net.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    x = torch.rand(2, 2, 32, 32)
    assert torch.equal(ours.eval()(x), theirs.eval()((x - 0.5) / 0.25))


def test_gates_and_learned_activations_are_told_apart() -> None:
    """MobileNetV3's gates stay; the StarReLU of a MetaFormer goes as a whole."""
    assert "Hardsigmoid" in names(built("mobilenetv3_small_050", "silu"))
    assert "Hardswish" not in names(built("mobilenetv3_small_050", "silu"))
    assert not {"StarReLU", "ReLU"} & names(built("caformer_s18", "silu"))


class Net(nn.Module):
    """What is done between a convolution and a linear layer."""

    def __init__(self, num_classes: int, in_chans: int, between: Callable[["Net", Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.Linear(4, num_classes)
        self.between = between

    def forward(self, x: Tensor) -> Any:
        return self.between(self, self.conv(x))


def pooled(self: Net, x: Tensor) -> Any:
    return self.head(x.mean((2, 3)))


@register_model
def satbench_test_buffer(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    net = Net(num_classes, in_chans, lambda self, x: pooled(self, self.act(x + self.shift)))
    net.register_buffer("shift", torch.arange(4.0).view(4, 1, 1), persistent=False)
    return net


@pytest.mark.parametrize("name", ["test_vit", "satbench_test_buffer"])
def test_a_weight_file_gives_back_the_same_bits(name: str, tmp_path: Path) -> None:
    """One of them computes with a buffer that is not in its state dict, as a Swin does."""
    model = built(name)
    save_model(tmp_path / "m.safetensors", model, SOURCE)
    assert set(model.state_dict()) <= set(load_file(tmp_path / "m.safetensors"))
    state = torch.get_rng_state()
    loaded, _ = load_model_file(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert model_digest(loaded) == model_digest(model)
    x = torch.rand(2, 2, 32, 32)
    assert torch.equal(loaded(x), model.eval()(x))


# refusals


@register_model
def satbench_test_function(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    return Net(num_classes, in_chans, lambda self, x: pooled(self, functional.gelu(self.act(x))))


@register_model
def satbench_test_method(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    return Net(num_classes, in_chans, lambda self, x: pooled(self, self.act(x).relu_()))


@register_model
def satbench_test_twice(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    return Net(num_classes, in_chans, lambda self, x: pooled(self, self.act(self.act(x) - 1)))


@register_model
def satbench_test_features(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    return Net(num_classes, in_chans, lambda self, x: self.act(x))


@register_model
def satbench_test_linear(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


@register_model
def satbench_test_large(pretrained: bool, num_classes: int, in_chans: int, **others: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_chans, 4, 64), nn.ReLU())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (spec("resnet5O"), "timm has no model 'resnet5O'; did you mean resnet50"),
        (spec(""), "timm has no model ''"),
        (spec("satbench_test_linear"), "has no activation module to replace"),
        (spec("satbench_test_function"), "calls gelu as a function"),
        (spec("satbench_test_method"), "calls relu as a function"),
        (spec("satbench_test_twice"), "uses an activation module twice"),
        (spec("satbench_test_features"), "does not give one row of 5 logits"),
        (spec("resnet18", "relo"), "unknown activation 'relo'; did you mean relu"),
        (spec("resnet18", widht=3), "cannot build or run 'resnet18' for images 2 x 32 x 32: TypeError: .*widht"),
        (spec("resnet18", drop_rate=0.5), "'drop_rate'.*whole number from 1"),
        (spec("resnet18", in_chans=3), "in_chans of a model comes from its data set"),
        (spec("test_vit", img_size=64), "img_size of a model comes from its data set"),
        (spec("satbench_test_large"), "cannot build or run 'satbench_test_large' for images 2 x 32 x 32: RuntimeError"),
    ],
    ids=lambda value: value.architecture if isinstance(value, ModelSpec) else "",
)
def test_what_cannot_be_built_is_refused_in_one_line(given: ModelSpec, message: str) -> None:
    for build in (build_model, empty_model):
        with pytest.raises(BadInput, match=message) as caught:
            build(given)
        assert "\n" not in str(caught.value)


def test_a_module_used_twice_is_no_matter_where_nothing_is_learned() -> None:
    assert "SiLU" in names(built("satbench_test_twice", "silu"))


def test_without_timm_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"'timm:resnet18' needs the package timm; run pip install 'satbench\[timm\]'"):
        build_model(spec("resnet18"))
