"""CIFAR-10's images after lossy compression: a data set of its own, never in one table with CIFAR-10."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from satbench.core.errors import BadInput
from satbench.data.images import SHARES, FileImages, ImageSet, carve, image_set
from satbench.data.loaders import DEFAULT_LOADER, ImageFile, open_rgb

SPLITS = ("train", "val", "test")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32


def cifar10_jpeg(path: Path, split: str | None, size: int | None) -> ImageSet:
    """Ten classes of RGB JPEG files, 32 pixels a side, in PATH/train/<class>/ and PATH/test/<class>/; uint8 / 255.

    "test" is the default; "val" is carved out of train/ and "train" is the rest. Labels are CIFAR-10's, and samples, in
    hash order, are called train/airplane/0001.jpg. Raises `BadInput` for a missing folder, a class without images, a
    file that is no image or of another size, and any other `size`.
    """
    if split not in (None, *SPLITS):
        raise BadInput(f"cifar10-jpeg has its own split, {', '.join(SPLITS)}; there is no {split!r}")
    if size not in (None, SIDE):
        raise BadInput(f"cifar10-jpeg's images are {SIDE} pixels a side, not {size}; leave the image size out")
    source = "test" if split in (None, "test") else "train"
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(CLASSES):
        found = sorted((path / source / name).glob("*.jpg"))
        if not found:
            raise BadInput(
                f"no images in {path / source / name}; cifar10-jpeg:PATH names a folder with CIFAR-10 as "
                f"train/<class>/*.jpg and test/<class>/*.jpg, classes {CLASSES[0]} to {CLASSES[-1]}, see --data-dir"
            )
        files += found
        labels += [label] * len(found)
    listed = FileImages(
        name="cifar10-jpeg",
        split=source,
        y=torch.tensor(labels),
        ids=tuple(file.relative_to(path).as_posix() for file in files),
        num_classes=len(CLASSES),
        loader=DEFAULT_LOADER,
        files=tuple(files),
        image_size=SIDE,
    )
    shares = {"val": SHARES["val"]} if source == "train" else {"test": 1.0}
    chosen = carve(listed, split or "test", shares)  # before decoding, which takes most of the time
    pixels = np.stack([_pixels(file) for file in chosen.files])
    images = image_set(chosen.name, chosen.split, pixels, chosen.y.numpy(), chosen.ids)
    return replace(images, num_classes=len(CLASSES))


def _pixels(file: ImageFile) -> np.ndarray:
    image = open_rgb(file)
    if image.size != (SIDE, SIDE):
        raise BadInput(f"{file} is {image.width} x {image.height} pixels; cifar10-jpeg's are {SIDE} x {SIDE}")
    return np.asarray(image).transpose(2, 0, 1)
