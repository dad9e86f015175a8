"""Any tree of images with one folder a class."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import torch
from PIL import Image, ImageOps

from satbench.core.errors import BadInput
from satbench.data.decoded import all_gray
from satbench.data.images import SHARES, FileImages, carve
from satbench.data.loaders import ImageFile, open_rgb

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"}
SPLITS = ("train", "val", "test")
DEFAULT_SIZE = 32


def image_folder(path: Path, split: str | None, size: int | None, channels: int | None = None) -> FileImages:
    """Images of PATH/<class>/..., short side resized to `size` (32; bilinear, antialiased) and centre-cropped, uint8.

    channels: 1 (the first of RGB) or 3; by default 1 where every file of all splits is gray, else 3.

    Labels follow the sorted folder names, which a measurement matches with the network's classes. Where PATH holds
    train/, val/ or test/ folders, the split is theirs; a missing val split is carved out of train. Raises `BadInput`
    for a missing folder and one without images; a file with an image's ending that is no image is found when it is
    decoded.
    """
    if not path.is_dir():
        raise BadInput(
            f"no such folder: {path}; image_folder:PATH names a tree with one folder a class, see --data-dir"
        )
    name = f"image_folder:{path.name}"
    folders = {part: path / part for part in SPLITS if (path / part).is_dir()}
    if not folders:
        classes = _class_names([path])
        return carve(_listed(name, path, path, classes, size, channels or _channels([path], classes)), split or "all")
    split = split or "test"
    classes = _class_names(folders.values())
    source = "train" if split == "val" and "val" not in folders else split
    if source not in folders:
        raise BadInput(f"{path} has its own split, {', '.join(folders)}; there is no {split!r}")
    channels = channels or _channels(folders.values(), classes)
    whole = _listed(name, path, folders[source], classes, size, channels)
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


def _files(folder: Path, classes: Sequence[str]) -> Iterator[tuple[int, Path]]:
    """Label and path of every image."""
    for label, name in enumerate(classes):
        for file in sorted((folder / name).rglob("*"), key=str):
            if is_picture(file.name) and not any(part.startswith(".") for part in file.relative_to(folder).parts):
                yield label, file


def _channels(folders: Iterable[Path], classes: Sequence[str]) -> int:
    return 1 if all_gray(file for folder in folders for _, file in _files(folder, classes)) else 3


def _listed(name: str, root: Path, folder: Path, classes: Sequence[str], size: int | None, channels: int) -> FileImages:
    files = list(_files(folder, classes))
    if not files:
        raise BadInput(
            f"{folder} has no images; expected <class>/<image> files ending in {', '.join(sorted(SUFFIXES))}"
        )
    return FileImages(
        name=name,
        split="all",
        y=torch.tensor([label for label, _ in files]),
        ids=tuple(file.relative_to(root).as_posix() for _, file in files),
        num_classes=len(classes),
        loader=None,
        class_names=tuple(classes),
        files=tuple(file for _, file in files),
        image_size=size or DEFAULT_SIZE,
        decode=_pixels,
        channels=channels,
        is_kept=True,
    )


def _pixels(file: ImageFile, side: int) -> np.ndarray:
    square = ImageOps.fit(open_rgb(file), (side, side), method=Image.Resampling.BILINEAR)
    return np.asarray(square).transpose(2, 0, 1)
