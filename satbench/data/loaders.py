"""How an image file becomes a square of pixels: networks differ in it, and a tenth of a point hangs on it."""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from satbench.core.bounded import MIB, check_plain, read_bounded
from satbench.core.errors import FAULTS, BadInput
from satbench.core.lookup import imported_table
from satbench.core.tables import LOADERS as NAMES

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "WEBP")  # some other formats of Pillow start programs
MOST_BYTES = 256 * MIB  # of a file
MOST_PIXELS = 1 << 26  # of an image, and of what it is enlarged to; the largest of ImageNet have some 2^25
MOST_SIDE = 1 << 16  # that of JPEG; Pillow takes 8 bytes for each row and OpenCV some for each, besides the pixels
DAMAGES = (*FAULTS, EOFError, MemoryError, OSError, SyntaxError, struct.error, zlib.error)  # of damaged images
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageFile(Protocol):
    """The bytes of an image: a `Path`, or a member of an archive. Its `str` is what messages call it."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


Loader = Callable[[ImageFile, int], np.ndarray]
GRAY = ("1", "L", "LA")  # modes of Pillow
# first column and row of each pass of an interlaced PNG, and its steps
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by the colour type of a PNG
MARGIN = 32  # pixels that the release leaves around the crop, in both of its loaders


def open_rgb(file: ImageFile) -> Image.Image:
    """The file's first frame as 8-bit RGB, decoded by Pillow; an EXIF orientation is left alone.

    Raises `BadInput` that names a file which is missing, damaged, no image of `FORMATS`, of more than 8 bits a channel,
    of more than `MOST_PIXELS`, or with a side of more than `MOST_SIDE`.
    """
    content = _checked(file)
    with _opened(file, BytesIO(content)) as image:
        image.load()
        if image.format == "PNG" and _may_be_short(image) and _is_short(content):
            raise _unreadable(file, "its data end before its last row")
        return image if image.mode == "RGB" else image.convert("RGB")


def is_gray(file: Path) -> bool:
    """Whether the file's header says that it has gray levels, without colours; raises `BadInput` as `open_rgb` does."""
    check_plain(file)
    with _opened(file, file) as image:
        return image.mode in GRAY


def opencv_cubic(file: ImageFile, size: int) -> np.ndarray:
    """uint8 RGB (3, size, size) as Smooth Adversarial Training's ResNets were evaluated (their release's ResNet/).

    The shorter side becomes size + 32 and the other `int(scale * side + 0.5)`, by OpenCV's bicubic interpolation
    (a = -0.75, no antialiasing, rounded to uint8); then the centre is cropped at `int((side - size) * 0.5)`. As the
    release calls `cv2.imread(file, cv2.IMREAD_COLOR)`, which turns an image by its EXIF orientation, so does this one.
    OpenCV's BGR is returned as RGB, for networks whose first kernels were flipped likewise. Raises `BadInput` for a
    file that OpenCV cannot decode whole.
    """
    import cv2

    try:
        bgr = cv2.imdecode(np.frombuffer(_checked(file), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _unreadable(file, f"OpenCV: {error.err}") from None
    if bgr is None:
        raise _unreadable(file, "OpenCV gives nothing")
    scale = (size + MARGIN) / min(bgr.shape[:2])
    height, width = (int(scale * side + 0.5) for side in bgr.shape[:2])
    _check_pixels(file, width, height)
    bgr = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_CUBIC)
    top, left = int((height - size) * 0.5), int((width - size) * 0.5)
    return _planes(bgr[top : top + size, left : left + size, ::-1])


def tf1_bicubic(file: ImageFile, size: int) -> np.ndarray:
    """float32 RGB (3, size, size) in [0, 1] as the release's EfficientNets were evaluated (EfficientNet/), but clipped.

    The centre square, of side `int(size / (size + 32) * shorter)` in float32 at offset `(side - square + 1) // 2`, goes
    through `legacy_bicubic`. The release leaves its overshoot below 0 and above 255 as it is; here it is clipped,
    because the box of an attack is [0, 1]. TensorFlow decodes JPEG by a faster inverse DCT than Pillow (INTEGER_FAST),
    so a pixel may differ by some grey levels. Raises `BadInput` as `open_rgb` does.
    """
    image = np.asarray(open_rgb(file))
    height, width = image.shape[:2]
    side = max(1, int(np.float32(size / (size + MARGIN)) * np.float32(min(height, width))))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    square = legacy_bicubic(image[top : top + side, left : left + side], size)
    return _planes(square.clip(0, 255) / np.float32(255))


def torchvision_bilinear(file: ImageFile, size: int) -> np.ndarray:
    """uint8 RGB (3, size, size) as torchvision's usual Resize and CenterCrop, bilinear with antialiasing, give it.

    The shorter side becomes `round(size * 256 / 224)`, 256 for 224, and the other `int(side * longer / shorter)`; the
    crop starts at `round((side - size) / 2)`. Raises `BadInput` as `open_rgb` does.
    """
    image = open_rgb(file)
    shorter, target = min(image.size), round(size * 256 / 224)
    width, height = (target * side // shorter for side in image.size)
    _check_pixels(file, width, height)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return _planes(np.asarray(image.crop((left, top, left + size, top + size))))


LOADERS: dict[str, Loader] = imported_table("satbench.data", NAMES)
DEFAULT_LOADER = "torchvision"
DEFAULT_SIZE = 224


def legacy_bicubic(image: np.ndarray, size: int) -> np.ndarray:
    """An image (H, W, C) as TensorFlow 1's `resize_bicubic` scales it to (size, size, C) float32; nothing is clipped.

    Output row i lies at `i * H / size`, so corners and centres are not aligned. Its fraction t, rounded to 1/1024,
    weighs four rows, the first one before the source row, clamped at the borders, by Keys' kernel with a = -0.75:
    `(a + 2) d^3 - (a + 3) d^2 + 1` at distance d <= 1, `a (d^3 - 5 d^2 + 8 d - 4)` beyond. Columns likewise.
    """
    rows = _legacy_stretch(image, size)
    return _legacy_stretch(rows.transpose(1, 0, 2), size).transpose(1, 0, 2)


def _legacy_stretch(image: np.ndarray, size: int) -> np.ndarray:
    """Scale the first axis to `size`."""
    length = len(image)
    source = np.arange(size, dtype=np.float32) * np.float32(length / size)
    first = np.floor(source)
    fraction = np.rint((source - first) * 1024) / 1024
    lines = np.ascontiguousarray(image).reshape(length, -1)
    out = np.zeros((size, lines.shape[1]), np.float32)
    for tap in (-1, 0, 1, 2):
        rows = (first + tap).clip(0, length - 1).astype(np.intp)
        out += _keys(np.abs(tap - fraction))[:, None] * lines[rows].astype(np.float32)
    return out.reshape(size, *image.shape[1:])


def _keys(distance: np.ndarray) -> np.ndarray:
    a, d = -0.75, distance
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, a * (((d - 5) * d + 8) * d - 4)
    weights: np.ndarray = np.where(d <= 1, near, far)
    return weights


def _checked(file: ImageFile) -> bytes:
    """The bytes of an image whose header promises what can be decoded."""
    try:
        content = read_bounded(file, MOST_BYTES) if isinstance(file, Path) else file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error.strerror or type(error).__name__) from None
    with _opened(file, BytesIO(content)) as image:
        is_deep = _is_deep(image)
        image.verify()  # the parts of a PNG, for whose stated length OpenCV would take memory
    if is_deep:
        raise BadInput(f"{file} has more than 8 bits a channel; convert it to 8 bits")
    return content


@contextmanager
def _opened(file: ImageFile, source: Path | BytesIO) -> Iterator[Image.Image]:
    """The image with its header read, of a size that can be decoded; what is raised while it is used names `file`."""
    try:
        with Image.open(source, formats=FORMATS) as image:
            _check_pixels(file, *image.size)
            yield image
    except BadInput:
        raise
    except BOMBS:
        raise _too_large(file, "far more pixels") from None
    except DAMAGES as error:
        raise _unreadable(file, type(error).__name__) from None


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits, which Pillow would cut off or clip."""
    codes = [(tile[0], tile[3]) for tile in getattr(image, "tile", ())]
    has_large_values = any(
        code.startswith("ppm") and isinstance(args, tuple) and args[-1] > 255 for code, args in codes
    )
    return image.mode.startswith(("I", "F")) or has_large_values or any(";16" in str(args) for _, args in codes)


def _may_be_short(image: Image.Image) -> bool:
    """Whether nothing shows that Pillow, which leaves the rest black, has found the last row of a PNG."""
    width, height = image.size
    return bool(image.info.get("interlace")) or image.crop((0, height - 1, width, height)).getbbox() is None


def _is_short(png: bytes) -> bool:
    """Whether the compressed data of a PNG end properly, but before all rows of its header are there."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", png, 16)
    left = 0
    for x, y, every_x, every_y in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(0, width - x) // every_x), -(-max(0, height - y) // every_y)
        left += rows * (1 + -(-columns * SAMPLES[colour] * depth // 8)) if columns else 0
    at, unpacker = 8, zlib.decompressobj()
    while at + 8 <= len(png) and left > 0:
        size, kind = struct.unpack_from(">I4s", png, at)
        packed = png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        while packed and left > 0:
            left -= len(unpacker.decompress(packed, MIB))
            packed = unpacker.unconsumed_tail
        at += 12 + size
    return left > 0


def _check_pixels(file: ImageFile, width: int, height: int) -> None:
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
        raise _too_large(file, f"{width} x {height} pixels")


def _too_large(file: ImageFile, what: str) -> BadInput:
    most = f"at most {MOST_PIXELS:,} are, and {MOST_SIDE:,} a side"
    return BadInput(f"{file} would be decoded to {what}, {most}; reduce or remove it")


def _unreadable(file: ImageFile, reason: str) -> BadInput:
    return BadInput(f"{file} is not a readable image ({reason}); repair or remove it")


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, C) as contiguous (C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))
