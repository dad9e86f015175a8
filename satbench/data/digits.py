"""scikit-learn's 1,797 scanned 8x8 digits, embedded in its package (part of the UCI optical digits, Alpaydin 1998)."""

import numpy as np

from satbench.core.errors import BadInput
from satbench.data.images import ImageSet, carve, image_set


def digits(split: str | None, size: int | None) -> ImageSet:
    """Ten classes of (1, 8, 8) images with 17 grey levels, pixel / 16; `size` must be 8 or not given."""
    from sklearn.datasets import load_digits

    if size not in (None, 8):
        raise BadInput(f"digits are 8 pixels a side, not {size}; leave the image size out")
    raw = load_digits()
    pixels = (raw.images[:, None] / 16).astype(np.float32)
    ids = [f"digits/{i:04d}" for i in range(len(pixels))]
    return carve(image_set("digits", "all", pixels, raw.target, ids), split or "test")
