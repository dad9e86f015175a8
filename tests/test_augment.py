"""Random changes of training images against single draws done by hand and by torchvision."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from satbench.core.errors import BadInput
from satbench.numerics.seeding import PerSample, generator, rows
from satbench.training.augment import AUGMENTATIONS, affine, augment, random_resized_crop

pytestmark = pytest.mark.numeric

SEED = 7


def numbered(n: int, side: int = 8) -> Tensor:
    """Images whose pixels all differ and are never 0, so that every crop shows where it came from."""
    return (torch.arange(1, n * 3 * side * side + 1) / (n * 3 * side * side)).view(n, 3, side, side)


def crops(image: Tensor, padding: str) -> dict[tuple[int, int, bool], Tensor]:
    """Every crop of a (C, H, W) image with 4 pixels around, flipped or not, by NumPy's pad and slices."""
    side = image.shape[-1]
    padded = np.pad(image.numpy(), ((0, 0), (4, 4), (4, 4)), mode=padding)
    return {
        (top, left, flipped): torch.from_numpy(part[..., ::-1].copy() if flipped else part)
        for top in range(9)
        for left in range(9)
        for flipped in (False, True)
        for part in [padded[:, top : top + side, left : left + side]]
    }


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_and_type_stay_and_the_images_given_are_left_alone(name: str) -> None:
    for n in (0, 1, 5):
        x = torch.rand(n, 1, 6, 10)
        before = x.clone()
        changed = augment(name, x, generator(SEED))
        assert (changed.shape, changed.dtype) == (x.shape, x.dtype)
        assert torch.equal(x, before)


def test_none_changes_nothing() -> None:
    x = torch.rand(5, 3, 8, 8)
    assert torch.equal(augment("none", x, generator(SEED)), x)


def test_flip_turns_half_of_the_images_round() -> None:
    x = numbered(400, 4)
    changed = augment("flip", x, generator(SEED))
    turned = (changed != x).flatten(1).any(1)
    assert torch.equal(changed[turned], x[turned].flip(3))
    assert abs(int(turned.sum()) - 200) < 40  # four standard deviations


@pytest.mark.parametrize(("name", "padding"), [("crop-flip", "constant"), ("crop-flip-reflect", "reflect")])
def test_crops_are_every_shift_by_up_to_four_pixels_equally_often(name: str, padding: str) -> None:
    image = numbered(1, 12)[0]  # wide enough that no mirrored crop equals another
    known = {part.numpy().tobytes(): place for place, part in crops(image, padding).items()}
    assert len(known) == 162
    n = 162 * 60
    changed = augment(name, image.expand(n, -1, -1, -1), generator(SEED))
    counts = Counter(known[one.numpy().tobytes()] for one in changed)
    chi_squared = sum((counts[place] - 60) ** 2 / 60 for place in known.values())
    assert abs(chi_squared - 161) < 4 * math.sqrt(2 * 161)


def test_every_image_of_a_batch_is_changed_by_its_own_draw() -> None:
    """Of one image and of streams of its own, an image gets the same crop wherever in a batch it is."""
    x = numbered(12)
    streams = PerSample.of(SEED, [str(i) for i in range(12)])
    whole = augment("crop-flip", x, streams)
    for i, changed in enumerate(whole):
        alone = PerSample.of(SEED, [str(i)])
        assert torch.equal(changed, augment("crop-flip", x[i : i + 1], alone)[0])
        assert any(torch.equal(changed, part) for part in crops(x[i], "constant").values())
    index = torch.tensor([7, 2])
    assert torch.equal(
        augment("crop-flip", x[index], rows(PerSample.of(SEED, list(map(str, range(12)))), index)), whole[index]
    )


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_equal_randomness_gives_equal_images(name: str) -> None:
    x = numbered(9)
    assert torch.equal(augment(name, x, generator(SEED)), augment(name, x, generator(SEED)))
    other = torch.equal(augment(name, x, generator(SEED)), augment(name, x, generator(SEED + 1)))
    assert other == (name == "none")


@pytest.mark.gpu
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_gpu_gives_the_same_images(name: str) -> None:
    x = numbered(9)
    assert torch.equal(augment(name, x.cuda(), generator(SEED)).cpu(), augment(name, x, generator(SEED)))


def test_images_too_small_to_mirror_are_refused() -> None:
    with pytest.raises(BadInput, match=r"mirrors 4 pixels and the images are \(4, 8\); use crop-flip"):
        augment("crop-flip-reflect", torch.rand(1, 1, 4, 8), generator(SEED))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(BadInput, match="crop-flip"):
        augment("cropflip", numbered(1), generator(SEED))


# random-resized-crop


def gradient(width: int, height: int) -> Image.Image:
    """Red grows with the column, green with the row, each from 0 to 255."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return Image.fromarray(np.stack([red, green, np.zeros((height, width))], 2).round().astype(np.uint8))


def test_random_resized_crop_is_torchvisions_resized_crop_of_some_part() -> None:
    """Every part that torchvision could choose from a small image is tried."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 6, 3), dtype=np.uint8))
    parts = set()
    for top in range(7):
        for left in range(6):
            for height in range(1, 8 - top):
                for width in range(1, 7 - left):
                    part = functional.resized_crop(image, top, left, height, width, [5, 5])
                    pixels = np.asarray(part).transpose(2, 0, 1)
                    parts |= {pixels.tobytes(), pixels[:, :, ::-1].tobytes()}
    for seed in range(40):
        cropped = random_resized_crop(image, 5, generator(seed))
        assert (cropped.shape, cropped.dtype) == ((3, 5, 5), np.uint8)
        assert cropped.tobytes() in parts


def test_areas_ratios_places_and_flips_are_distributed_as_stated() -> None:
    """A gradient shows where a crop lies: area and log-ratio are uniform but for parts that do not fit."""
    side, n = 400, 600
    image = gradient(side, side)
    areas, ratios, places, flips = [], [], [], 0
    for seed in range(n):
        red, green, _ = random_resized_crop(image, 16, generator(seed)).astype(float)
        columns, lines = red.mean(0), green.mean(1)
        flips += columns[0] > columns[-1]
        width, height = abs(columns[-1] - columns[0]) / 15 * 16 / 255, (lines[-1] - lines[0]) / 15 * 16 / 255
        areas.append(width * height)
        ratios.append(math.log(width / height))
        if height < 0.9:
            places.append((lines.mean() / 255 - height / 2) / (1 - height))
    assert min(areas) > 0.07
    assert max(areas) > 0.9
    assert max(map(abs, ratios)) < math.log(4 / 3) + 0.03
    small = [area for area in areas if area < 0.56]  # all of these fit: 0.56 * 4 / 3 < 1
    assert np.mean(small) == pytest.approx((0.08 + 0.56) / 2, abs=4 * 0.48 / math.sqrt(12 * len(small)))
    spread = 2 * math.log(4 / 3) / math.sqrt(12)
    inner = [ratio for ratio, area in zip(ratios, areas, strict=True) if area < 0.56]
    assert np.mean(inner) == pytest.approx(0, abs=4 * spread / math.sqrt(len(inner)))
    assert np.std(inner) == pytest.approx(spread, rel=0.1)
    assert np.mean(places) == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(places)))
    assert abs(flips - n / 2) < 4 * math.sqrt(n) / 2


@pytest.mark.parametrize(("width", "height"), [(400, 10), (10, 400)])
def test_of_a_long_image_where_nothing_fits_it_takes_the_centre(width: int, height: int) -> None:
    """The part is as large as a ratio of 4/3 or 3/4 allows."""
    image = gradient(width, height)
    box = (193, 0, 206, 10) if width > height else (0, 193, 10, 206)
    expected = np.asarray(image.crop(box).resize((8, 8), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    found = [random_resized_crop(image, 8, generator(seed)) for seed in range(20)]
    centred = [one for one in found if np.array_equal(one, expected) or np.array_equal(one, expected[:, :, ::-1])]
    assert len(centred) > 10


def test_affine_turns_and_scales_as_torchvision_does() -> None:
    x, numbers = numbered(6), torch.full((6, 5), 0.5, dtype=torch.float64)
    numbers[:, :2] = torch.rand(6, 2, generator=generator(SEED), dtype=torch.float64)
    for image, (turn, zoom, *_), found in zip(x, (2 * numbers - 1).tolist(), affine(x, numbers), strict=True):
        angle, scale = -math.degrees(0.35 * turn), math.exp(-0.3 * zoom)
        bilinear = functional.InterpolationMode.BILINEAR
        wanted = functional.affine(image, angle, [0, 0], scale, [0.0, 0.0], interpolation=bilinear)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_affine_moves_by_an_eighth_of_a_side_and_changes_the_contrast() -> None:
    x, numbers = numbered(6), torch.full((6, 5), 0.5, dtype=torch.float64)
    torch.testing.assert_close(affine(x, numbers), x)
    numbers[:, 2] = 1.0  # one of eight pixels
    torch.testing.assert_close(affine(x, numbers)[..., :-1], x[..., 1:])
    numbers[:, 2:] = torch.tensor([0.5, 0.0, 0.0])
    moved = affine(x, numbers)
    torch.testing.assert_close(moved[..., 1:, :], 0.7 * x[..., :-1, :])
    assert not moved[..., 0, :].any()
