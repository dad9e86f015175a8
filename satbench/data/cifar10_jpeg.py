"""CIFAR-10's images after lossy compression: a data set of its own, never in one table with CIFAR-10."""

from pathlib import Path

import numpy as np
import torch

from satbench.core.errors import BadInput
from satbench.data.images import SHARES, FileImages, carve
from satbench.data.loaders import ImageFile, open_rgb

SPLITS = ("train", "val", "test")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32


def cifar10_jpeg(path: Path, split: str | None, size: int | None) -> FileImages:
    """Ten classes of RGB JPEG files, 32 pixels a side, in PATH/train/<class>/ and PATH/test/<class>/; uint8 / 255.

    "test" is the default; "val" is carved out of train/ and "train" is the rest. Labels are CIFAR-10's, and samples, in
    hash order, are called train/airplane/0001.jpg. Raises `BadInput` for a missing folder, a class without images, and
    any other `size`; when it is decoded, for a file that is no image or of another size.
    """
    if split not in (None, *SPLITS):
        raise BadInput(f"cifar10-jpeg has its own split, {', '.join(SPLITS)}; there is no {split!r}")
    if size not in (None, SIDE):
        raise BadInput(f"cifar10-jpeg's images are {SIDE} pixels a side, not {size}; leave the image size out")
    source = "test" if split in (None, "test") else "train"
    files: list[Path] = []
    labels: list[int] = []
    ids: list[str] = []
    for label, name in enumerate(CLASSES):
        found = sorted((path / source / name).glob("*.jpg"), key=lambda file: file.name)
        if not found:
            raise BadInput(
                f"no images in {path / source / name}; cifar10-jpeg:PATH names a folder with CIFAR-10 as "
                f"train/<class>/*.jpg and test/<class>/*.jpg, classes {CLASSES[0]} to {CLASSES[-1]}, see --data-dir"
            )
        files += found
        ids += [f"{source}/{name}/{file.name}" for file in found]
        labels += [label] * len(found)
    listed = FileImages(
        name="cifar10-jpeg",
        split=source,
        y=torch.tensor(labels),
        ids=tuple(ids),
        num_classes=len(CLASSES),
        loader=None,
        files=tuple(files),
        image_size=SIDE,
        decode=_pixels,
        is_kept=True,
    )
    shares = {"val": SHARES["val"]} if source == "train" else {"test": 1.0}
    return carve(listed, split or "test", shares)


def _pixels(file: ImageFile, side: int) -> np.ndarray:
    image = open_rgb(file)
    if image.size != (side, side):
        raise BadInput(f"{file} is {image.width} x {image.height} pixels; cifar10-jpeg's are {side} x {side}")
    return np.asarray(image).transpose(2, 0, 1)
