"""Image loaders: where each pixel comes from, what the interpolation gives, and which files are refused."""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional

from satbench.core.errors import BadInput
from satbench.data.loaders import LOADERS, legacy_bicubic

pytestmark = pytest.mark.numeric

RED, BLUE = (255, 0, 0), (0, 0, 255)
SHAPES = [(40, 40), (40, 60), (61, 37), (33, 100), (9, 7)]


@pytest.fixture(scope="module")
def picture() -> Path:
    """A photograph, 1024 x 683."""
    spec = find_spec("foolbox")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], "data", "imagenet_10_541.jpg")


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(file: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(file, **options)  # type: ignore[arg-type]
    return file


def unit(pixels: np.ndarray) -> np.ndarray:
    return pixels / 255 if pixels.dtype == np.uint8 else pixels


def cubic(distance: float) -> float:
    """Keys' cubic convolution kernel with a = -0.75 (Keys 1981), in its textbook form."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def interpolated(channel: np.ndarray, y: float, x: float) -> float:
    """One channel (H, W) at a point, from sixteen pixels, borders repeated."""
    height, width = channel.shape
    total = 0.0
    for i in range(math.floor(y) - 1, math.floor(y) + 3):
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            value = float(channel[min(max(i, 0), height - 1), min(max(j, 0), width - 1)])
            total += cubic(y - i) * cubic(x - j) * value
    return total


# the release's ResNet loader


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [8, 13, 64])
def test_opencv_cubic_is_cubic_convolution_on_aligned_centres(
    height: int, width: int, size: int, tmp_path: Path
) -> None:
    """Shorter side to size + 32, the other to int(scale * side + 0.5), centre crop, by a scalar formula."""
    pixels = noise(height, width)
    found = LOADERS["opencv-cubic"](save(tmp_path / "a.png", pixels), size)
    scale = (size + 32) / min(height, width)
    tall, wide = int(scale * height + 0.5), int(scale * width + 0.5)
    assert min(tall, wide) == size + 32
    top, left = int((tall - size) * 0.5), int((wide - size) * 0.5)
    corners_and_more = [(0, 0), (0, size - 1), (size - 1, 0), (size - 1, size - 1), (size // 2, size // 3), (1, 2)]
    for i, j in corners_and_more:
        y, x = (top + i + 0.5) * height / tall - 0.5, (left + j + 0.5) * width / wide - 0.5
        for channel in range(3):
            expected = min(max(interpolated(pixels[:, :, channel], y, x), 0), 255)
            assert abs(float(found[channel, i, j]) - expected) <= 1, (i, j, channel)


def test_opencv_cubic_turns_by_exif_and_the_others_do_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "turned.jpg", noise(40, 60), exif=exif)
    with Image.open(turned) as image:
        as_shown = save(tmp_path / "shown.png", np.asarray(ImageOps.exif_transpose(image)))
        as_stored = save(tmp_path / "stored.png", np.asarray(image))
    for name, loader in LOADERS.items():
        same = as_shown if name == "opencv-cubic" else as_stored
        np.testing.assert_array_equal(loader(turned, 16), loader(same, 16), err_msg=name)


# TensorFlow 1's bicubic


@pytest.mark.parametrize(("height", "width", "size"), [(11, 11, 7), (12, 9, 20), (5, 8, 8), (30, 30, 11), (3, 1, 5)])
def test_legacy_bicubic_agrees_with_the_formula(height: int, width: int, size: int) -> None:
    """Source = i * in / out in float32, fraction in steps of 1/1024; every pixel by a scalar loop."""
    image = noise(height, width).astype(np.float32)

    def source(i: int, length: int) -> float:
        at = np.float32(i) * np.float32(length / size)
        first = math.floor(at)
        return first + round(float((at - np.float32(first)) * 1024)) / 1024

    found = legacy_bicubic(image, size)
    assert found.shape == (size, size, 3)
    assert found.dtype == np.float32
    for i in range(size):
        for j in range(size):
            for channel in range(3):
                expected = interpolated(image[:, :, channel], source(i, height), source(j, width))
                assert abs(float(found[i, j, channel]) - expected) < 2e-3


@pytest.mark.parametrize("times", [2, 4])
def test_legacy_bicubic_agrees_with_torch_where_their_grids_meet(times: int) -> None:
    """torch puts 1 + (n - 1) * times outputs with aligned corners at the same points, i / times; its a is -0.75 too."""
    image = noise(17, 17).astype(np.float32)
    small = 1 + 16 * times
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    theirs = functional.interpolate(planes, (small, small), mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
    np.testing.assert_allclose(legacy_bicubic(image, 17 * times)[:small, :small], theirs.numpy(), atol=1e-3)


def test_legacy_bicubic_takes_pixels_where_it_hits_them() -> None:
    image = noise(24, 24).astype(np.float32)
    np.testing.assert_array_equal(legacy_bicubic(image, 24), image)
    np.testing.assert_array_equal(legacy_bicubic(image, 8), image[::3, ::3])


def test_legacy_bicubic_overshoots_and_the_loader_clips(tmp_path: Path) -> None:
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 255
    free = legacy_bicubic(step, 150)
    assert free.min() < -15
    assert free.max() > 270
    clipped = LOADERS["tf1-bicubic"](save(tmp_path / "step.png", step), 150)
    assert (clipped.min(), clipped.max()) == (0, 1)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [16, 50])
def test_tf1_bicubic_crops_before_it_resizes(height: int, width: int, size: int, tmp_path: Path) -> None:
    pixels = noise(height, width)
    side = int(size / (size + 32) * min(height, width))
    top, left = ((height - side) + 1) // 2, ((width - side) + 1) // 2
    found = LOADERS["tf1-bicubic"](save(tmp_path / "a.png", pixels), size)
    for i, j in [(0, 0), (size // 2, size // 2)]:
        y, x = (round(k * side / size * 1024) / 1024 for k in (i, j))
        square = pixels[top : top + side, left : left + side]
        expected = [min(max(interpolated(square[:, :, channel], y, x), 0), 255) / 255 for channel in range(3)]
        np.testing.assert_allclose(found[:, i, j], expected, atol=2e-3)


# torchvision's


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [13, 56, 299])
def test_torchvision_is_torchvisions_resize_and_crop(height: int, width: int, size: int, tmp_path: Path) -> None:
    from torchvision.transforms import functional as peer

    file = save(tmp_path / "a.png", noise(height, width))
    with Image.open(file) as image:
        theirs = peer.center_crop(peer.resize(image, [round(size * 256 / 224)]), [size, size])
    np.testing.assert_array_equal(LOADERS["torchvision"](file, size), np.asarray(theirs).transpose(2, 0, 1))


# all of them


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_gives_planes_of_the_asked_size(name: str, picture: Path) -> None:
    for size in (224, 1):
        pixels = LOADERS[name](picture, size)
        assert pixels.shape == (3, size, size)
        assert pixels.dtype == (np.float32 if name == "tf1-bicubic" else np.uint8)
        assert pixels.flags["C_CONTIGUOUS"]
        assert 0 <= unit(pixels).min() <= unit(pixels).max() <= 1


def test_the_loaders_show_one_photograph_the_same_way_up(picture: Path) -> None:
    """Red, green and blue in their places; the crops of all three lie within a few pixels of each other."""
    shown = {name: torch.from_numpy(unit(loader(picture, 224))).float() for name, loader in LOADERS.items()}
    coarse = {name: functional.avg_pool2d(image, 32) for name, image in shown.items()}
    for name, image in coarse.items():
        assert (image - coarse["torchvision"]).abs().mean() < 0.03, name
        for other in (image.flip(0), image.flip(1), image.flip(2), image.transpose(1, 2)):
            assert (other - coarse["torchvision"]).abs().mean() > 0.04, name


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("shape", [(50, 20), (1, 1), (3, 90)])
def test_a_constant_colour_stays_what_it_is(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    file = save(tmp_path / "a.png", np.full((*shape, 3), (200, 100, 20), np.uint8))
    pixels = unit(LOADERS[name](file, 24)) * 255
    np.testing.assert_allclose(pixels, np.broadcast_to(np.array([200, 100, 20])[:, None, None], (3, 24, 24)), atol=0.51)


@pytest.mark.parametrize("name", LOADERS)
def test_unusual_files_of_imagenet_are_decoded(name: str, tmp_path: Path) -> None:
    """CMYK and grey JPEGs, a PNG that is called .JPEG, a palette, an animation's first frame."""
    plain = Image.new("RGB", (40, 40), RED)
    plain.convert("CMYK").save(tmp_path / "cmyk.JPEG", "JPEG")
    plain.save(tmp_path / "png.JPEG", "PNG")
    plain.convert("P").save(tmp_path / "palette.png", "PNG")
    plain.save(tmp_path / "moving.gif", "GIF", save_all=True, append_images=[Image.new("RGB", (40, 40), BLUE)])
    plain.convert("RGBA").save(tmp_path / "clear.png", "PNG")
    for file in ("cmyk.JPEG", "png.JPEG", "palette.png", "moving.gif", "clear.png"):
        colour = unit(LOADERS[name](tmp_path / file, 8)).mean(axis=(1, 2)) * 255
        np.testing.assert_allclose(colour, RED, atol=6, err_msg=file)
    Image.new("L", (40, 40), 102).save(tmp_path / "grey.JPEG")
    np.testing.assert_allclose(unit(LOADERS[name](tmp_path / "grey.JPEG", 8)) * 255, 102, atol=1)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("damage", ["truncated", "headless", "text", "empty", "missing"])
def test_a_file_that_cannot_be_decoded_whole_is_named(name: str, damage: str, picture: Path, tmp_path: Path) -> None:
    whole, file = picture.read_bytes(), tmp_path / "odd.JPEG"
    contents = {"truncated": whole[:-5000], "headless": whole[1000:], "text": b"no image", "empty": b""}
    if damage in contents:
        file.write_bytes(contents[damage])
    with pytest.raises(BadInput, match=r"odd\.JPEG is not a readable image \(.+\); repair or remove it$"):
        LOADERS[name](file, 32)
