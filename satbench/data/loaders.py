"""How an image file becomes a square of pixels: networks differ in it, and a tenth of a point hangs on it."""

from collections.abc import Callable
from io import BytesIO
from typing import Protocol

import numpy as np
from PIL import Image

from satbench.core.errors import BadInput


class ImageFile(Protocol):
    """The bytes of an image: a `Path`, or a member of an archive. Its `str` is what messages call it."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


Loader = Callable[[ImageFile, int], np.ndarray]
MARGIN = 32  # pixels that the release leaves around the crop, in both of its loaders


def open_rgb(file: ImageFile) -> Image.Image:
    """The file's first frame as 8-bit RGB, decoded by Pillow; an EXIF orientation is left alone.

    Raises `BadInput` that names a file which is missing, damaged, no image, or of more than 8 bits a channel.
    """
    content = BytesIO(_bytes(file))
    try:
        with Image.open(content) as image:
            mode, rgb = image.mode, image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(file, type(error).__name__) from None
    if mode.startswith(("I", "F")):
        raise BadInput(f"{file} has more than 8 bits a channel (mode {mode}); convert it to 8 bits")
    return rgb


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
        bgr = cv2.imdecode(np.frombuffer(_bytes(file), np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _unreadable(file, f"OpenCV: {error.err}") from None
    if bgr is None:
        raise _unreadable(file, "OpenCV gives nothing")
    scale = (size + MARGIN) / min(bgr.shape[:2])
    height, width = (int(scale * side + 0.5) for side in bgr.shape[:2])
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
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return _planes(np.asarray(image.crop((left, top, left + size, top + size))))


LOADERS: dict[str, Loader] = {
    "opencv-cubic": opencv_cubic,
    "tf1-bicubic": tf1_bicubic,
    "torchvision": torchvision_bilinear,
}
DEFAULT_LOADER = "torchvision"
DEFAULT_SIZE = 224


def legacy_bicubic(image: np.ndarray, size: int) -> np.ndarray:
    """An image (H, W, C) as TensorFlow 1's `resize_bicubic` scales it to (size, size, C) float32; nothing is clipped.

    Output row i lies at `i * H / size`, so corners and centres are not aligned. Its fraction t, rounded to 1/1024,
    weighs four rows, the first one before the source row, clamped at the borders, by Keys' kernel with a = -0.75:
    `(a + 2) d^3 - (a + 3) d^2 + 1` at distance d <= 1, `a (d^3 - 5 d^2 + 8 d - 4)` beyond. Columns likewise.
    """
    rows = _legacy_stretch(image.astype(np.float32), size)
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
        out += _keys(np.abs(tap - fraction))[:, None] * lines[rows]
    return out.reshape(size, *image.shape[1:])


def _keys(distance: np.ndarray) -> np.ndarray:
    a, d = -0.75, distance
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, a * (((d - 5) * d + 8) * d - 4)
    weights: np.ndarray = np.where(d <= 1, near, far)
    return weights


def _bytes(file: ImageFile) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error.strerror or type(error).__name__) from None


def _unreadable(file: ImageFile, reason: str) -> BadInput:
    return BadInput(f"{file} is not a readable image ({reason}); repair or remove it")


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W, C) as contiguous (C, H, W)."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))
