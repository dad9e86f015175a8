"""Data sets by name; each yields `(sample_id, x, y)` with images in [0, 1]."""

import os
from collections.abc import Callable
from pathlib import Path

from satbench.data.digits import digits
from satbench.data.image_folder import image_folder
from satbench.data.images import ImageSet
from satbench.data.npz import npz
from satbench.errors import BadInput
from satbench.lookup import find, nearest

EMBEDDED: dict[str, Callable[[str | None, int | None], ImageSet]] = {"digits": digits}
FROM_PATH: dict[str, Callable[[Path, str | None, int | None], ImageSet]] = {"image_folder": image_folder, "npz": npz}
SPLITS = ("train", "val", "test", "all")


def load_images(name: str, split: str | None = None, size: int | None = None, data_dir: Path | None = None) -> ImageSet:
    """One split ("train", "val", "test", "all") of the data set `digits`, `image_folder:PATH` or `npz:PATH`.

    Without a `split` it is "test" where the data set has a split of its own, else "all".

    A relative PATH lies under `data_dir`, else under the folder that the variable SATBENCH_DATA names, else under the
    current folder. `size` is the side in pixels that an image folder is resized to. Raises `BadInput` for an unknown
    name or split and for data that the loaders refuse.
    """
    kind, colon, path = name.partition(":")
    if split not in (None, *SPLITS):
        raise BadInput(f"unknown split {split!r}; {nearest(str(split), SPLITS)}")
    if not colon:
        if kind in FROM_PATH:
            raise BadInput(f"data set {kind!r} needs a path: {kind}:PATH")
        return find(EMBEDDED, kind, "data set")(split, size)
    if kind in EMBEDDED or not path:
        raise BadInput(f"data set {name!r} is not NAME or NAME:PATH; known: digits, image_folder:PATH, npz:PATH")
    root = data_dir or Path(os.environ.get("SATBENCH_DATA") or ".")
    return find(FROM_PATH, kind, "data set")(root / path, split, size)


__all__ = ["ImageSet", "load_images"]
