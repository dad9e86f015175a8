"""Any tree of images with one folder a class."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from satbench.core.errors import BadInput
from satbench.data.images import SHARES, ImageSet, carve, image_set
from satbench.data.loaders import open_rgb

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
SPLITS = ("train", "val", "test")
DEFAULT_SIZE = 32


def image_folder(path: Path, split: str | None, size: int | None) -> ImageSet:
    """RGB images of PATH/<class>/..., short side resized to `size` (bilinear, antialiased) and centre-cropped, uint8.

    Labels follow the sorted folder names, which a measurement matches with the network's classes. Where PATH holds
    train/, val/ or test/ folders, the split is theirs; a missing val split is carved out of train. Raises `BadInput`
    for a missing folder, a class-less one, and a file with an image's ending that is no image.
    """
    if not path.is_dir():
        raise BadInput(
            f"no such folder: {path}; image_folder:PATH names a tree with one folder a class, see --data-dir"
        )
    name = f"image_folder:{path.name}"
    folders = {part: path / part for part in SPLITS if (path / part).is_dir()}
    if not folders:
        return carve(_read(name, path, _class_names([path]), path, size), split or "all")
    split = split or "test"
    classes = _class_names(folders.values())
    source = "train" if split == "val" and "val" not in folders else split
    if source not in folders:
        raise BadInput(f"{path} has its own split, {', '.join(folders)}; there is no {split!r}")
    whole = _read(name, folders[source], classes, path, size)
    if "val" not in folders and source == "train":
        part = carve(whole, split, {"val": SHARES["val"]})
    else:
        part = carve(whole, "all")
    return replace(part, split=split)


def is_picture(name: str) -> bool:
    """Whether a file of this name is an image of a data set; hidden ones, as macOS leaves them, are not."""
    return PurePath(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _class_names(folders: Iterable[Path]) -> list[str]:
    names = {entry.name for folder in folders for entry in folder.iterdir() if entry.is_dir()}
    return sorted(name for name in names if not name.startswith("."))


def _read(name: str, folder: Path, classes: list[str], root: Path, size: int | None) -> ImageSet:
    side = size or DEFAULT_SIZE
    pixels, labels, ids = [], [], []
    for label, class_name in enumerate(classes):
        for file in sorted((folder / class_name).rglob("*")):
            if is_picture(file.name) and not any(part.startswith(".") for part in file.relative_to(folder).parts):
                pixels.append(_pixels(file, side))
                labels.append(label)
                ids.append(file.relative_to(root).as_posix())
    if not pixels:
        raise BadInput(
            f"{folder} has no images; expected <class>/<image> files ending in {', '.join(sorted(SUFFIXES))}"
        )
    images = image_set(name, "all", np.stack(pixels), np.asarray(labels), ids)
    return replace(images, num_classes=len(classes), class_names=tuple(classes))


def _pixels(file: Path, side: int) -> np.ndarray:
    square = ImageOps.fit(open_rgb(file), (side, side), method=Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)
