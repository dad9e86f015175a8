"""Networks: shapes, sizes from formulas, normalisation inside; and weight files that carry them."""

import pickle
import resource
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from forged_weights import rewrite
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.models import ACTIVATIONS, ARCHITECTURES, ModelSpec, build_model
from satbench.models.activations import activation as make
from satbench.models.weights import (
    Provenance,
    load_model_file,
    load_strictly,
    model_digest,
    read_safetensors,
    read_weights,
    save_model,
    write_safetensors,
)

pytestmark = pytest.mark.numeric

PICKLE_PROTOCOL = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # torch, on damaged files

SOURCE = Provenance(
    label="é net",
    recipe="r",
    method="m",
    dataset="d",
    seed=3,
    threat=Threat(norm="L2", eps=0.5),
    epoch=0,
    train_digest="sha256:0",
    config="0",
    family="0",
)


SMALL = (  # one of each family
    "mlp",
    "cnn-small",
    "preact-resnet18",
    "preact-resnet50",
    "resnet18-cifar",
    "wide-resnet",
    "resnet50",
    "efficientnet-b0",
    "timm:test_resnet",
)
NARROW = {"efficientnet-b0": {}, "timm:test_resnet": {}, "wide-resnet": {"width": 1, "depth": 10}}

KINDS = {type(make(name)()) for name in ACTIVATIONS}


def spec(architecture: str = "mlp", activation: str = "relu", **params: Any) -> ModelSpec:
    narrow = NARROW.get(architecture, {"width": 4})
    return ModelSpec(architecture, activation, 3, 2, 8, (0.25, 0.5), (0.5, 0.25), {**narrow, **params})


def fresh(what: ModelSpec | None = None, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(what or spec())


def images(count: int = 4, size: int = 8, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def parameter_count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.one_in(12)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("architecture", SMALL)
def test_every_architecture_trains_with_every_activation(architecture: str, activation: str) -> None:
    model = fresh(spec(architecture, activation))
    for name, parameter in model.named_parameters():
        if name.endswith((".bn2.weight", ".bn3.weight")) and not parameter.any():
            nn.init.ones_(parameter)  # a ResNet's blocks begin at zero, where no gradient passes
    sites = [module for module in model.modules() if type(module) in KINDS]
    assert {repr(site) for site in sites} == {repr(make(activation)())}
    assert len({id(site) for site in sites}) == len(sites)
    calls = Counter[nn.Module]()
    for site in sites:
        site.register_forward_hook(lambda module, given, output: calls.update([module]))
    logits = model(images(6))
    assert calls == dict.fromkeys(sites, 1)
    assert logits.shape == (6, 3)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == parameter.shape
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("architecture", SMALL)
def test_eval_is_repeatable_and_looks_at_each_image_alone(architecture: str) -> None:
    model = fresh(spec(architecture, "smoothrelu")).eval()
    x = images()
    with torch.no_grad():
        whole = model(x)
        assert torch.equal(whole, model(x))
        torch.testing.assert_close(torch.cat([model(row[None]) for row in x]), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", SMALL)
def test_a_network_is_built_in_training_mode_from_the_global_generator(architecture: str) -> None:
    model, again, other = fresh(spec(architecture)), fresh(spec(architecture)), fresh(spec(architecture), seed=1)
    assert all(module.training for module in model.modules())
    assert model_digest(model) == model_digest(again) != model_digest(other)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 12])
@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("depth", [1, 3])
def test_mlp_size(classes: int, channels: int, size: int, width: int, depth: int) -> None:
    pixels = channels * size * size
    hidden = pixels * width + width + (depth - 1) * (width * width + width)
    params = {"width": width, "depth": depth}
    model = fresh(ModelSpec("mlp", "relu", classes, channels, size, (0.5,) * channels, (0.5,) * channels, params))
    assert parameter_count(model) == hidden + width * classes + classes


@pytest.mark.parametrize("size", [4, 9])
@pytest.mark.parametrize("width", [3, 5])
def test_cnn_small_size(size: int, width: int) -> None:
    """3x3 convolutions without bias, two numbers a BN channel, one linear layer; nothing depends on the side."""
    w, channels, classes = width, 3, 5
    convolutions = 9 * (channels * w + w * 2 * w + 2 * w * 4 * w)
    model = fresh(ModelSpec("cnn-small", "relu", classes, channels, size, (0.5,) * 3, (0.5,) * 3, {"width": w}))
    assert parameter_count(model) == convolutions + 2 * (w + 2 * w + 4 * w) + 4 * w * classes + classes
    assert model(images(2, size, 3)).shape == (2, classes)


def preact_count(blocks: tuple[int, ...], bottleneck: bool, width: int, channels: int, classes: int) -> int:
    """Convolutions, two numbers a BN channel, a 1x1 shortcut where the filters change, one linear layer."""
    total, before = 9 * channels * width, width
    for group, depth in enumerate(blocks):
        inner = width * 2**group
        after = 4 * inner if bottleneck else inner
        total += before * after if before != after else 0
        for _ in range(depth):
            total += 2 * before + 2 * inner + (2 * inner if bottleneck else 0)
            total += before * inner + 9 * inner * inner + inner * after if bottleneck else 9 * inner * (before + inner)
            before = after
    return total + 2 * before + before * classes + classes


PREACT = {  # blocks, whether they are bottlenecks, and parameters for 10 classes without a last BN
    "preact-resnet18": ((2, 2, 2, 2), False, 11_171_146),
    "preact-resnet34": ((3, 4, 6, 3), False, 21_279_306),
    "preact-resnet50": ((3, 4, 6, 3), True, 23_509_066),
}


@pytest.mark.parametrize("architecture", PREACT)
@pytest.mark.parametrize(("width", "channels", "classes"), [(3, 1, 2), (5, 3, 10)])
def test_preact_resnet_size(architecture: str, width: int, channels: int, classes: int) -> None:
    statistics = (0.5,) * channels
    model = fresh(ModelSpec(architecture, "relu", classes, channels, 8, statistics, statistics, {"width": width}))
    assert parameter_count(model) == preact_count(*PREACT[architecture][:2], width, channels, classes)


@pytest.mark.parametrize("architecture", PREACT)
def test_full_preact_resnet_has_the_published_size(architecture: str) -> None:
    """As the common CIFAR-10 code (kuangliu/pytorch-cifar) counts, which lacks the last BN, and 2 numbers a filter."""
    *shape, published = PREACT[architecture]
    with torch.device("meta"):
        net = ARCHITECTURES[architecture](nn.ReLU, 3, 32, 10)
    assert parameter_count(net) == published + 2 * (2048 if shape[1] else 512) == preact_count(*shape, 64, 3, 10)


def preact_reference(net: nn.Module, x: Tensor, blocks: Sequence[int], convolutions: int) -> Tensor:
    """Logits of a ReLU network in eval mode from its weights alone; strides 1, 2, 2, 2."""
    weights = net.state_dict()

    def ready(x: Tensor, bn: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return nn.functional.batch_norm(x, *(weights[f"{bn}.{key}"] for key in keys)).clamp(min=0)

    x = nn.functional.conv2d(x, weights["0.weight"], padding=1)
    strides = [2 if group and not block else 1 for group, depth in enumerate(blocks) for block in range(depth)]
    for position, stride in enumerate(strides, 1):
        h = start = ready(x, f"{position}.bn1")
        for part in range(1, convolutions + 1):
            weight = weights[f"{position}.conv{part}.weight"]
            strided = stride if part == (2 if convolutions == 3 else 1) else 1
            h = nn.functional.conv2d(h, weight, stride=strided, padding=weight.shape[-1] // 2)
            if part < convolutions:
                h = ready(h, f"{position}.bn{part + 1}")
        shortcut = weights.get(f"{position}.shortcut.weight")
        x = h + (x if shortcut is None else nn.functional.conv2d(start, shortcut, stride=stride))
    last = len(strides) + 1
    pooled = ready(x, str(last)).mean((2, 3))
    return nn.functional.linear(pooled, weights[f"{last + 4}.weight"], weights[f"{last + 4}.bias"])


@pytest.mark.parametrize(
    ("architecture", "params", "blocks", "convolutions"),
    [
        ("preact-resnet34", {"width": 4}, (3, 4, 6, 3), 2),
        ("preact-resnet50", {"width": 4}, (3, 4, 6, 3), 3),
        ("wide-resnet", {"depth": 16, "width": 2}, (2, 2, 2), 2),
    ],
)
def test_preact_networks_follow_the_papers(
    architecture: str, params: dict[str, int], blocks: tuple[int, ...], convolutions: int
) -> None:
    model = fresh(ModelSpec(architecture, "relu", 3, 2, 8, (0.0, 0.0), (1.0, 1.0), params))
    model(images(16))  # so that the BNs have statistics
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(x), preact_reference(model.net, x, blocks, convolutions), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(("size", "side"), [(8, 1), (32, 4), (48, 6), (49, 4), (64, 4)])
def test_preact_resnet18_halves_its_stem_above_48_pixels(size: int, side: int) -> None:
    model = fresh(replace(spec("preact-resnet18", width=2), image_size=size)).eval()
    seen: list[torch.Size] = []
    (pool,) = [module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    pool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    model(images(1, size))
    assert seen == [(1, 16, side, side)]


def test_the_post_activation_resnet18_is_torchvisions_but_for_the_stem() -> None:
    """Whose published size is 11,689,512, with a 7x7 stem, a max-pool and 1,000 classes."""
    net = ARCHITECTURES["resnet18-cifar"](nn.ReLU, channels=3, image_size=32, num_classes=10)
    assert parameter_count(net) == 11_689_512 - (49 - 9) * 3 * 64 - 990 * 513
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), net.state_dict().values(), strict=True)))
    x = images(2, 32, 3)
    for mode in (True, False):
        torch.testing.assert_close(net.train(mode)(x), theirs.train(mode)(x))


def test_preact_shortcut_starts_after_the_first_activation_only_where_it_is_projected() -> None:
    """Weights of the last convolution at zero leave the shortcut alone: identity, or a convolution of act(bn(x))."""
    model = fresh(spec("preact-resnet18", "softplus")).eval()
    blocks = [m for m in model.modules() if hasattr(m, "shortcut")]
    assert [b.shortcut is not None for b in blocks] == [False, False, True, False, True, False, True, False]
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in blocks[1:3]:
            block.conv2.weight.zero_()
        torch.testing.assert_close(blocks[1](x), x)
        ready = nn.functional.softplus(x / (1 + 1e-5) ** 0.5)  # a fresh BN in eval mode divides by sqrt(1 + 1e-5)
        expected = nn.functional.conv2d(ready, blocks[2].shortcut.weight, stride=2)
        torch.testing.assert_close(blocks[2](x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", SMALL)
def test_normalisation_lives_inside(architecture: str) -> None:
    model = fresh(spec(architecture)).eval()
    seen: list[Tensor] = []
    model.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean, std = torch.tensor([0.25, 0.5]).view(1, 2, 1, 1), torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    model(mean.expand(1, 2, 8, 8))
    model((mean + std).expand(1, 2, 8, 8))
    assert torch.equal(seen[0], torch.zeros(1, 2, 8, 8))
    assert torch.equal(seen[1], torch.ones(1, 2, 8, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "cnn_small"}, "unknown model 'cnn_small'; did you mean cnn-small"),
        ({"activation": "smooth_relu"}, "unknown activation 'smooth_relu'; did you mean smoothrelu"),
        ({"activation": "celu:alpah=2"}, "unknown parameter 'alpah' of activation 'celu'; did you mean alpha"),
        ({"params": {"widht": 4}}, "unknown parameter 'widht' of model 'mlp'; did you mean width"),
        ({"params": {"width": 0}}, "'width'.*0.*whole number from 1"),
        ({"params": {"depth": -1}}, "'depth'.*-1.*whole number from 1"),
        ({"params": {"width": 4.0}}, "whole number from 1"),
        ({"params": {"width": "4"}}, "whole number from 1"),
        ({"params": {"width": True}}, "whole number from 1"),
        ({"params": {"num_classes": 4}}, "num_classes of a model comes from its data set"),
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build_model(replace(spec(), **change))


def test_cnn_small_has_no_depth() -> None:
    with pytest.raises(BadInput, match="unknown parameter 'depth' of model 'cnn-small'"):
        build_model(spec("cnn-small", depth=2))


@pytest.mark.one_in(9)
@pytest.mark.parametrize("activation", ["relu", "smoothrelu", "celu:alpha=2", "pssilu:alpha=2,beta=0.25"])
@pytest.mark.parametrize("architecture", SMALL)
def test_a_weight_file_gives_back_the_same_bits(architecture: str, activation: str, tmp_path: Path) -> None:
    model = fresh(spec(architecture, activation))
    model(images())
    save_model(tmp_path / "m.safetensors", model, SOURCE)
    loaded, provenance = load_model_file(tmp_path / "m.safetensors")
    assert provenance == SOURCE
    assert loaded.spec == model.spec
    assert not any(module.training for module in loaded.modules())
    wanted, found = model.state_dict(), loaded.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[name], found[name]) and wanted[name].dtype == found[name].dtype for name in wanted)
    assert model_digest(loaded) == model_digest(model)
    assert torch.equal(loaded(images()), model.eval()(images()))


def test_equal_models_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_model(tmp_path / name, fresh(seed=seed), SOURCE)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("part", ["net.1.weight", "net.3.bias", "mean"])
def test_the_digest_sees_every_bit(part: str) -> None:
    model = fresh()
    before = model_digest(model)
    with torch.no_grad():
        tensor = model.state_dict()[part].flatten()
        tensor[0] = torch.nextafter(tensor[0], torch.tensor(2.0))
    assert model_digest(model) != before


def test_the_digest_sees_names_shapes_and_dtypes() -> None:
    class Holder(nn.Module):
        def __init__(self, name: str, value: Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    zeros = torch.zeros(4)
    held = [("a", zeros), ("b", zeros), ("a", zeros.view(2, 2)), ("a", zeros.int()), ("a", torch.zeros(3))]
    digests = {model_digest(Holder(*one)) for one in held}
    assert len(digests) == len(held)
    assert all(digest.startswith("sha256:") and len(digest) == 7 + 64 for digest in digests)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    save_model(tmp_path / "whole.safetensors", fresh(), SOURCE)
    return tmp_path / "whole.safetensors"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(whole: Path, share: float) -> None:
    raw = whole.read_bytes()
    whole.write_bytes(raw[: int(share * len(raw))])
    for read in (load_model_file, read_safetensors, read_weights):
        with pytest.raises(BadInput, match="not a whole safetensors file"):
            read(whole)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for read in (load_model_file, read_weights):
        for path in (tmp_path / "none.pt", tmp_path / "none.safetensors"):
            with pytest.raises(BadInput, match="no such"):
                read(path)
        with pytest.raises(BadInput, match="is not a plain file"):
            read(tmp_path)


@pytest.mark.parametrize("read", [load_model_file, read_weights])
@pytest.mark.parametrize("bit", range(8))
def test_one_flipped_bit_in_the_weights_is_refused(whole: Path, read: Callable[[Path], object], bit: int) -> None:
    raw = bytearray(whole.read_bytes())
    raw[-5] ^= 1 << bit
    whole.write_bytes(raw)
    with pytest.raises(BadInput, match="are not what was saved"):
        read(whole)


def test_an_unchanged_rewrite_loads(whole: Path) -> None:
    rewrite(whole, lambda header, tensors: None)
    load_model_file(whole)


FLIPPED: list[tuple[str, Any]] = [
    ("architecture", "cnn-small"),
    ("architecture", "nothing"),
    ("architecture", 5),
    ("architecture", ["mlp"]),
    ("activation", "smoothrelu"),
    ("activation", "nothing"),
    ("activation", "celu:alpha"),
    ("activation", "celu:alpah=2"),
    ("activation", None),
    ("num_classes", 4),
    ("num_classes", 0),
    ("num_classes", "3"),
    ("num_classes", True),
    ("channels", 1),
    ("channels", -2),
    ("image_size", 9),
    ("image_size", 8.0),
    ("mean", [0.5]),
    ("mean", "ab"),
    ("mean", 0.5),
    ("std", []),
    ("std", [None, 1.0]),
    ("params", {"width": 5}),
    ("params", {"width": 0}),
    ("params", {"size": 4}),
    ("params", [4]),
    ("params", None),
]


@pytest.mark.parametrize("seal", [False, True])
@pytest.mark.parametrize(("key", "value"), FLIPPED)
def test_a_file_that_does_not_fit_its_spec_is_refused(whole: Path, key: str, value: Any, seal: bool) -> None:
    rewrite(whole, lambda header, tensors: header["spec"].update({key: value}), seal)
    with pytest.raises(BadInput):
        load_model_file(whole)


WRN = {"architecture": "wide-resnet", "channels": 3, "image_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
HUGE: dict[str, dict[str, Any]] = {
    "depth": WRN | {"params": {"depth": 10_000_000}},
    "width": WRN | {"params": {"width": 10**9}},
    "depth within bounds": WRN | {"params": {"depth": 60_004, "width": 10**4}},
    "classes": {"num_classes": 10**6},
    "more classes": {"num_classes": 10**12},
    "channels": {"channels": 10**9, "mean": (0.5,), "std": (0.5,)},
    "side": {"image_size": 10**9},
    "side within bounds": {"image_size": 4096},
    "depth of timm": WRN | {"architecture": "timm:vit_tiny_patch16_224", "params": {"depth": 10**7}},
    "depth of timm within bounds": WRN | {"architecture": "timm:vit_tiny_patch16_224", "params": {"depth": 60_000}},
    "width of timm within bounds": WRN | {"architecture": "timm:vit_tiny_patch16_224", "params": {"embed_dim": 9_600}},
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", HUGE)
def test_a_network_far_larger_than_its_weights_is_not_built(whole: Path, case: str) -> None:
    rewrite(whole, lambda header, tensors: header["spec"].update(HUGE[case]), seal=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadInput):
        load_model_file(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10  # KiB


@pytest.mark.parametrize("key", ["architecture", "activation", "num_classes", "channels", "image_size", "mean", "std"])
def test_a_spec_without_a_field_is_refused(whole: Path, key: str) -> None:
    rewrite(whole, lambda header, tensors: header["spec"].pop(key))
    with pytest.raises(BadInput, match="not a model spec"):
        load_model_file(whole)


@pytest.mark.parametrize("value", [[], "mlp", None, 3, {}, {"surplus": 1}])
def test_a_spec_that_is_none_is_refused(whole: Path, value: Any) -> None:
    rewrite(whole, lambda header, tensors: header.update(spec=value))
    with pytest.raises(BadInput, match="model spec"):
        load_model_file(whole)


def test_a_spec_with_an_unknown_field_is_refused(whole: Path) -> None:
    rewrite(whole, lambda header, tensors: header["spec"].update(surplus=1))
    with pytest.raises(BadInput, match="surplus"):
        load_model_file(whole)


def test_another_schema_version_is_refused(whole: Path) -> None:
    rewrite(whole, lambda header, tensors: header.update(schema_version=99))
    with pytest.raises(BadInput, match="schema version 99"):
        load_model_file(whole)


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize("header", ["[]", "1", '"x"', "{}", '{"spec": {}}', "{", DEEP, "9" * 10_000])
def test_a_header_of_another_kind_is_refused(whole: Path, header: str) -> None:
    save_file(load_file(whole), whole, metadata={"satbench": header})
    with pytest.raises(BadInput, match="not which network"):
        load_model_file(whole)


def test_weights_whose_own_metadata_is_damaged_are_not_taken_for_those_of_others(whole: Path) -> None:
    raw = whole.read_bytes()
    whole.write_bytes(raw.replace(b'"satbench"', b'"sadbench"', 1))
    with pytest.raises(BadInput, match="its metadata lacks 'satbench'"):
        read_weights(whole)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_weights_without_a_spec_ask_for_the_network(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(BadInput, match="--model"):
        load_model_file(tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["w"], torch.zeros(2))


def test_a_missing_surplus_or_misshapen_tensor_is_named(whole: Path) -> None:
    original = whole.read_bytes()

    def surplus(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["net.9.weight"] = torch.zeros(1)

    def missing(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        del tensors["net.3.bias"]

    def misshapen(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors["net.3.bias"] = torch.zeros(4, 1)

    for change, message in (
        (surplus, r"net\.9\.weight"),
        (missing, r"lacks 'net\.3\.bias'"),
        (misshapen, r"'net\.3\.bias' has shape \(4, 1\) instead of \(4,\)"),
    ):
        whole.write_bytes(original)
        rewrite(whole, change)
        with pytest.raises(BadInput, match="are not what was saved"):
            load_model_file(whole)
        whole.write_bytes(original)
        rewrite(whole, change, seal=True)
        with pytest.raises(BadInput, match=message):
            load_model_file(whole)


def test_a_refused_state_dict_changes_nothing(tmp_path: Path) -> None:
    model, other = fresh(), fresh(seed=1)
    before = model_digest(model)
    with pytest.raises(BadInput, match="surplus"):
        load_strictly(model, {**other.state_dict(), "surplus": torch.zeros(1)}, tmp_path)
    assert model_digest(model) == before


@pytest.mark.parametrize(
    ("said", "instead"), [('"eps": 0.5', '"eps": 0.6'), ('"seed": 3', '"seed": 4'), ("relu", "gelu")]
)
def test_what_is_said_of_the_weights_is_part_of_their_digest(whole: Path, said: str, instead: str) -> None:
    tensors, metadata = read_safetensors(whole)
    edited = metadata["satbench"].replace(said, instead)
    assert edited != metadata["satbench"]
    write_safetensors(whole, tensors, {"satbench": edited})
    with pytest.raises(BadInput, match="or what is said of them, are not what was saved"):
        load_model_file(whole)


def test_a_flipped_byte_in_the_header_is_refused(whole: Path) -> None:
    raw = bytearray(whole.read_bytes())
    end = 8 + int.from_bytes(raw[:8], "little")
    for position in range(0, len(raw[:end].rstrip()), 3):  # spaces fill it up
        raw[position] ^= 1
        whole.write_bytes(raw)
        raw[position] ^= 1
        with pytest.raises(BadInput):
            load_model_file(whole)


class Bomb:
    """A pickle of it creates a file when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_compressed_torch_file_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "small.pth", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for member in plain.namelist():
            small.writestr(member, plain.read(member))
    assert read_weights(tmp_path / "plain.pth")["w"].shape == (10**6,)
    with pytest.raises(BadInput, match=r"small\.pth is compressed, to 40\d{5} bytes unpacked"):
        read_weights(tmp_path / "small.pth")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool, suffix: str) -> None:
    path, mark = tmp_path / f"evil{suffix}", tmp_path / "mark"
    torch.save({"w": torch.zeros(1), "x": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BadInput, match="could execute any code"):
        read_weights(path)
    assert not mark.exists()


@PICKLE_PROTOCOL
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    path.write_bytes(pickle.dumps({"x": Bomb(mark)}, protocol))
    with pytest.raises(BadInput):
        read_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_plain_state_dict_loads(tmp_path: Path, zipped: bool) -> None:
    model, other = fresh(), fresh(seed=1)
    torch.save(model.state_dict(), tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    load_strictly(other, read_weights(tmp_path / "m.pt"), tmp_path / "m.pt")
    assert model_digest(other) == model_digest(model)


@pytest.mark.parametrize("content", [{"state_dict": {"w": torch.zeros(1)}, "epoch": 1}, [torch.zeros(1)], 3])
def test_a_torch_file_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(BadInput, match="not a plain state dict"):
        read_weights(tmp_path / "m.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02}q\x00.", bytes(100)])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(BadInput):
        read_weights(tmp_path / "m.pt")


@PICKLE_PROTOCOL
@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_torch_file_gives_tensors_or_bad_input(tmp_path: Path, zipped: bool) -> None:
    """Cut at every twentieth, and one byte changed at hundreds of places."""
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(3), "b": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    cuts = [raw[: i * len(raw) // 20] for i in range(20)]
    flips = [raw[:i] + bytes([raw[i] ^ 0x11]) + raw[i + 1 :] for i in range(0, len(raw), 1 + len(raw) // 600)]
    refused = 0
    for damaged in cuts + flips:
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except BadInput:
            refused += 1
    assert refused >= len(cuts) - 1


@pytest.mark.parametrize(
    "x",
    [torch.rand(1, 1, 8, 8), torch.rand(2, 8, 8), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)],
    ids=["1", "3d", "u8"],
)
def test_images_of_another_kind_are_refused(x: Tensor) -> None:
    with pytest.raises(BadInput, match=r"expected floats \(N, 2, H, W\) in \[0, 1\]"):
        fresh()(x)


def test_a_file_that_cannot_be_written_is_an_os_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"m\.safetensors"):
        save_model(tmp_path / "missing" / "m.safetensors", fresh(), SOURCE)
