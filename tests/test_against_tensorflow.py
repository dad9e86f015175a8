"""Reader, converter, networks and bicubic resize against TensorFlow itself, after `make test-tf` built its side."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from math import prod
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tf_reference.inputs import (
    DEEP,
    EXTRAS,
    JPEG_SIZES,
    MANY,
    REFERENCE,
    EfficientNetPlan,
    Plan,
    ResNetPlan,
    images,
    many_name,
    variable,
)

from satbench.data.loaders import LOADERS, legacy_bicubic
from satbench.models import Classifier, ModelSpec, build_model
from satbench.zoo.convert import Converted, convert
from satbench.zoo.tf_bundle import Bundle, Entry

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build/tf-reference"
COMMITTED = ROOT / "tests/fixtures/tf"
PHOTOGRAPHS = sorted(Path(find_spec("foolbox").origin).parent.glob("data/imagenet_*.jpg"))
NETWORKS = pytest.mark.parametrize("plan", REFERENCE, ids=lambda plan: plan.name)
AVERAGED = next(plan for plan in REFERENCE if isinstance(plan, EfficientNetPlan))
# variables and parameters without SmoothReLU's, as the release's own code gives them
SIZES = {"resnet50": (267, 25_557_032), "resnext50-32x4d": (267, 25_028_904), "efficientnet-b0": (311, 5_288_548)}
SMOOTHRELU_SITES = 49

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BUILT.is_dir(), reason="TensorFlow's side is not built; run make test-tf"),
]


def described(plan: Plan) -> tuple[dict[str, list[int]], dict[str, tuple[str, list[int]]]]:
    """Shapes of the network's variables; dtype and shape of everything in its checkpoint, as TensorFlow lists them."""
    both = json.loads((BUILT / plan.name / "variables.json").read_text(encoding="utf-8"))
    return both["network"], {name: tuple(kind) for name, kind in both["file"].items()}


def built(plan: Plan) -> Classifier:
    activation = plan.activation if isinstance(plan, ResNetPlan) else "silu"
    return build_model(ModelSpec(plan.architecture, activation, plan.classes, 3, plan.sizes[0], (0.5,) * 3, (0.5,) * 3))


def order_and_scope(plan: Plan) -> tuple[str, str]:
    return ("bgr", "") if isinstance(plan, ResNetPlan) else ("rgb", plan.scope)


def ours(plan: Plan, averaged: bool = False) -> Converted:
    with Bundle(BUILT / plan.name / "model") as bundle:
        return convert(bundle, built(plan), *order_and_scope(plan), averaged)


def logits(model: Classifier, size: int, dtype: torch.dtype = torch.float32) -> np.ndarray:
    x = torch.from_numpy(images(size)).permute(0, 3, 1, 2).to(dtype) / 255
    with torch.no_grad():
        return model(x).numpy()


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@NETWORKS
def test_tensorflows_graph_has_the_releases_size(plan: Plan) -> None:
    shapes, _ = described(plan)
    statistics = ("/EMA", "/moving_mean", "/moving_variance")
    roots = [name for name in shapes if name.endswith("/smoothrelu_beta")]
    weights = [shape for name, shape in shapes.items() if not name.endswith(statistics) and name not in roots]
    assert len(roots) == (SMOOTHRELU_SITES if getattr(plan, "activation", "") == "smoothrelu" else 0)
    assert (len(shapes) - len(roots), sum(prod(shape) for shape in weights)) == SIZES[plan.architecture]


@NETWORKS
def test_every_tensor_of_a_checkpoint_is_read_to_the_byte(plan: Plan) -> None:
    _, held = described(plan)
    with Bundle(BUILT / plan.name / "model") as bundle:
        assert {name: (one.dtype.name, list(one.shape)) for name, one in bundle.entries.items()} == held
        for name, (_, shape) in held.items():
            expected = EXTRAS[name] if name in EXTRAS else variable(name, tuple(shape))
            assert bundle.read(name).tobytes() == expected.tobytes(), name


@NETWORKS
def test_a_converted_network_gives_tensorflows_logits(plan: Plan) -> None:
    shapes, held = described(plan)
    converted = ours(plan)
    assert converted.taken == len(shapes)
    assert set(converted.ignored) == set(held) - set(shapes)
    with np.load(BUILT / "logits.npz") as expected:
        for size in plan.sizes:
            assert difference(logits(converted.model, size), expected[f"{plan.name}/{size}"]) <= 1e-5


class Made:
    """The checkpoint of a plan of DEEP without a file: every variable is made when it is read."""

    files = (Path("made"),)

    def __init__(self, plan: Plan) -> None:
        shapes = json.loads((BUILT / "deep.json").read_text(encoding="utf-8"))[plan.name]
        self.gain = getattr(plan, "gain", 1.0)
        float32 = np.dtype(np.float32)
        self.entries = {name: Entry(name, float32, tuple(shape), 0, 0, 0, 0) for name, shape in shapes.items()}

    def read(self, name: str) -> np.ndarray:
        return variable(name, self.entries[name].shape, self.gain)

    def release(self, name: str) -> None:
        pass


@pytest.mark.parametrize("plan", DEEP, ids=lambda plan: plan.name)
def test_a_deep_network_gives_tensorflows_logits_in_float32_and_float64(plan: Plan) -> None:
    made = Made(plan)
    converted = convert(made, built(plan), *order_and_scope(plan), False)  # type: ignore[arg-type]
    assert (converted.taken, len(converted.ignored)) == (len(made.entries), 0)
    with np.load(BUILT / "deep.npz") as expected:
        for size in plan.sizes:
            assert difference(logits(converted.model.float(), size), expected[f"{plan.name}/{size}"]) <= 1e-5
            exact = expected[f"{plan.name}/{size}/float64"]
            assert difference(logits(converted.model.double(), size, torch.float64), exact) <= 1e-13


def test_averages_give_the_logits_of_the_averaged_network() -> None:
    converted = ours(AVERAGED, averaged=True)
    assert converted.averages == converted.taken
    (size,) = AVERAGED.sizes
    with np.load(BUILT / "logits.npz") as expected:
        found = logits(converted.model, size)
        assert difference(found, expected[f"{AVERAGED.name}/{size}/averaged"]) <= 1e-5
        assert difference(found, expected[f"{AVERAGED.name}/{size}"]) > 1e-2


def test_an_index_of_several_blocks_is_read_whole() -> None:
    with Bundle(BUILT / "many") as bundle:
        assert bundle.files[0].stat().st_size > 2 * 2**18  # TensorFlow ends a block at 256 KiB
        assert [int(bundle.read(many_name(number))) for number in range(MANY)] == list(range(MANY))
        assert len(bundle.entries) == MANY


# the committed fixtures


def fixtures(pattern: str) -> Iterator[tuple[Path, Path]]:
    """Committed files and the ones just made."""
    committed, built = sorted(COMMITTED.glob(pattern)), sorted((BUILT / "fixtures").glob(pattern))
    assert [file.name for file in committed] == [file.name for file in built] != []
    yield from zip(committed, built, strict=True)


def test_the_committed_numbers_are_what_tensorflow_gives() -> None:
    for committed, built in fixtures("*.npz"):
        with np.load(committed) as kept, np.load(built) as made:
            assert sorted(kept) == sorted(made)
            for key in kept:
                assert difference(kept[key], made[key]) <= 1e-5, key


def test_the_committed_checkpoints_are_what_tensorflow_writes() -> None:
    for pattern in ("*.index", "*.data-*"):
        for committed, built in fixtures(pattern):
            assert committed.read_bytes() == built.read_bytes(), committed.name


# photographs


@pytest.fixture(scope="module")
def decoded() -> Iterator[np.lib.npyio.NpzFile]:
    with np.load(BUILT / "jpeg.npz") as arrays:
        yield arrays


def test_pillow_and_opencv_decode_as_tensorflow_does_with_the_accurate_transform(
    decoded: np.lib.npyio.NpzFile,
) -> None:
    assert len(PHOTOGRAPHS) == 20
    for file in PHOTOGRAPHS:
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), decoded[f"{file.name}/accurate"])
        np.testing.assert_array_equal(cv2.imread(str(file))[..., ::-1], decoded[f"{file.name}/accurate"])


def test_tensorflows_default_transform_is_off_by_a_few_grey_levels(decoded: np.lib.npyio.NpzFile) -> None:
    for file in PHOTOGRAPHS:
        fast, accurate = (decoded[f"{file.name}/{kind}"].astype(int) for kind in ("default", "accurate"))
        off = np.abs(fast - accurate)
        assert 0 < off.mean() < 1.5
        assert off.max() <= 8


@pytest.mark.parametrize("size", JPEG_SIZES)
def test_the_loader_crops_and_resizes_as_tensorflow_1(size: int, decoded: np.lib.npyio.NpzFile) -> None:
    for file in PHOTOGRAPHS:
        expected = decoded[f"{file.name}/accurate/{size}"].clip(0, 255)
        found = 255 * LOADERS["tf1-bicubic"](file, size).transpose(1, 2, 0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3, err_msg=file.name)


def test_legacy_bicubic_keeps_tensorflows_overshoot(decoded: np.lib.npyio.NpzFile) -> None:
    """On the one photograph that is not square."""
    (file,) = (file for file in PHOTOGRAPHS if decoded[f"{file.name}/accurate"].shape == (683, 1024, 3))
    square = decoded[f"{file.name}/accurate"][43 : 43 + 597, 214 : 214 + 597]
    expected = decoded[f"{file.name}/accurate/224"]
    assert expected.min() < 0 < 255 < expected.max()
    np.testing.assert_allclose(legacy_bicubic(square, 224), expected, rtol=0, atol=1e-3)
