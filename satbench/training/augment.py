"""Random changes of training images, whole batches at a time or while files are decoded."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import find
from satbench.numerics.seeding import Randomness, uniform

NUMBERS = 3  # a sample: flip, top, left
OWN_NUMBERS = 64  # a sample, for augmentations of the user's own
ROUNDING = 1e-5  # by which pixels of these may leave [0, 1]: some 80 roundings of float32 at 1
PAD = 4
ATTEMPTS = 10
TURN, ZOOM, MOVE, CONTRAST = 0.35, 0.3, 0.125, 0.3  # the most that `affine` changes: 20 degrees, 1/8 of a side
AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)


def none(x: Tensor, numbers: Tensor) -> Tensor:
    """The images as they are."""
    return x


def flip(x: Tensor, numbers: Tensor) -> Tensor:
    """Half of the images, left and right exchanged."""
    from torchvision.transforms.v2 import functional

    chosen = (numbers[:, 0] < 0.5).to(x.device).view(-1, 1, 1, 1)
    return torch.where(chosen, functional.horizontal_flip(x), x)


def crop_flip(x: Tensor, numbers: Tensor) -> Tensor:
    """Crops of the images' own size out of images with `PAD` black pixels around, then `flip`: CIFAR's usual one."""
    return _crop_flip(x, numbers, "constant")


def crop_flip_reflect(x: Tensor, numbers: Tensor) -> Tensor:
    """`crop_flip` out of images whose border mirrors them, the outermost pixel not repeated, instead of black.

    Raises `BadInput` for images of up to `PAD` pixels a side, which have too little to mirror.
    """
    if min(x.shape[2:]) <= PAD:
        raise BadInput(f"crop-flip-reflect mirrors {PAD} pixels and the images are {tuple(x.shape[2:])}; use crop-flip")
    return _crop_flip(x, numbers, "reflect")


def _crop_flip(x: Tensor, numbers: Tensor, padding: str) -> Tensor:
    from torchvision.transforms.v2 import functional

    height, width = x.shape[2:]
    padded = functional.pad(x, [PAD], padding_mode=padding)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, top, left, H, W), a view
    top, left = (numbers[:, 1:] * (2 * PAD + 1)).long().to(x.device).unbind(1)
    return flip(windows[torch.arange(len(x), device=x.device), :, top, left], numbers)


def affine(x: Tensor, numbers: Tensor) -> Tensor:
    """Turned by up to 20 degrees, scaled by up to exp(0.3), moved by up to an eighth of a side, contrast 0.7 to 1.3.

    All uniform, the scale in its logarithm; bilinear, black outside. For digits and other images that a flip makes
    something else.
    """
    turn, zoom, right, down, contrast = (2 * numbers - 1).to(x).view(-1, 5, 1, 1).unbind(1)
    height, width = x.shape[2:]
    column = (torch.arange(width, device=x.device) + 0.5) * 2 / width - 1
    row = ((torch.arange(height, device=x.device) + 0.5) * 2 / height - 1)[:, None]
    cosine, sine = (TURN * turn).cos() * (ZOOM * zoom).exp(), (TURN * turn).sin() * (ZOOM * zoom).exp()
    across = cosine * column - sine * row + 2 * MOVE * right
    along = sine * column + cosine * row + 2 * MOVE * down
    moved = nn.functional.grid_sample(x, torch.stack([across, along], 3), align_corners=False)
    return (moved * (1 + CONTRAST * contrast)[..., None]).clamp(0, 1)


AUGMENTATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": none,
    "flip": flip,
    "crop-flip": crop_flip,
    "crop-flip-reflect": crop_flip_reflect,
    "affine": affine,
}
NUMBERS_OF = {"affine": 5}  # where they are not `NUMBERS`


def draw(n: int, randomness: Randomness, numbers: int = NUMBERS) -> Tensor:
    """What every entry of `AUGMENTATIONS` takes with `n` images: float64 (n, `numbers`) in [0, 1), on the CPU."""
    return uniform(torch.empty(n, numbers, dtype=torch.float64), randomness)


def augmentation(name: str) -> Callable[[Tensor, Randomness], Tensor]:
    """What changes a batch: an entry of `AUGMENTATIONS`, one of the user's own, or nothing for `WHILE_DECODING`.

    One of the user's own, `package.module:callable` with parameters, gets `OWN_NUMBERS` numbers a sample. Raises
    `BadInput` for an unknown name or parameter. For one of the user's own it is raised by the returned function, for
    what the code raises, another shape or dtype, and pixels outside [0, 1] by more than `ROUNDING`.
    """
    known = {**AUGMENTATIONS, **dict.fromkeys(WHILE_DECODING, none)}
    reference, tail = plugins.spelled(name, known)
    if not plugins.is_reference(reference):
        change, count = find(known, name, "augmentation"), NUMBERS_OF.get(name, NUMBERS)
    else:
        with plugins.own("augmentation", reference) as own:
            params = plugins.arguments(own, tail, f"augmentation {name!r}", placed=2)
            change, count = partial(_checked, name, partial(own, **params)), OWN_NUMBERS
    return lambda x, randomness: change(x, draw(len(x), randomness, count))


def _checked(name: str, change: Callable[[Tensor, Tensor], Tensor], x: Tensor, numbers: Tensor) -> Tensor:
    with plugins.running("augmentation", name):
        changed = change(x, numbers)
    if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (x.shape, x.dtype):
        found = f"{tuple(changed.shape)} {changed.dtype}" if isinstance(changed, Tensor) else type(changed).__name__
        raise BadInput(f"augmentation {name} made {found} of {tuple(x.shape)} {x.dtype}; both must be the same")
    low, high = (one.item() for one in changed.detach().aminmax()) if len(x) else (0.0, 1.0)
    if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # also for NaN
        raise BadInput(f"augmentation {name} made pixels from {low:g} to {high:g}; keep them in [0, 1]: x.clamp(0, 1)")
    return changed.clamp(0, 1)


def augment(name: str, x: Tensor, randomness: Randomness) -> Tensor:
    """Images (N, C, H, W) changed as `augmentation` of this name does, of the same shape, dtype and device.

    Equal randomness gives equal pixels on every device, those of "affine" up to rounding. Raises `BadInput` for an
    unknown name.
    """
    return augmentation(name)(x, randomness)


def random_resized_crop(image: Image.Image, size: int, randomness: torch.Generator) -> np.ndarray:
    """A random part of an RGB image, resized (bilinear, antialiased) to uint8 (3, size, size), half of them flipped.

    The part has 8 to 100% of the area and a width of 3/4 to 4/3 of its height, uniform in the logarithm (Szegedy et al.
    2015, arXiv 1409.4842). Where none of ten draws fits, it is the largest centre part of an allowed ratio.
    """
    numbers = uniform(torch.empty(ATTEMPTS * 4 + 1, dtype=torch.float64), randomness).tolist()
    box = next(filter(None, (_box(image.size, numbers[i : i + 4]) for i in range(0, ATTEMPTS * 4, 4))), None)
    part = image.crop(box or _centre(image.size)).resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(part).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if numbers[-1] < 0.5 else pixels)


WHILE_DECODING: dict[str, Callable[[Image.Image, int, torch.Generator], np.ndarray]] = {
    "random-resized-crop": random_resized_crop
}


def _box(size: tuple[int, int], numbers: list[float]) -> tuple[int, int, int, int] | None:
    """(left, top, right, bottom) that four numbers in [0, 1) choose, or nothing where it is larger than the image."""
    area = size[0] * size[1] * (AREA[0] + numbers[0] * (AREA[1] - AREA[0]))
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** numbers[1]
    width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    if not (0 < width <= size[0] and 0 < height <= size[1]):
        return None
    left, top = int(numbers[2] * (size[0] - width + 1)), int(numbers[3] * (size[1] - height + 1))
    return left, top, left + width, top + height


def _centre(size: tuple[int, int]) -> tuple[int, int, int, int]:
    width = min(size[0], max(1, round(size[1] * RATIO[1])))
    height = min(size[1], max(1, round(size[0] / RATIO[0])))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height
