"""Twenty pictures of ImageNet classes inside the package foolbox, for trying things out where there is no ImageNet."""

import re
from importlib.util import find_spec
from pathlib import Path

import torch

from satbench.core.errors import BadInput
from satbench.data.images import FileImages, carve
from satbench.data.loaders import DEFAULT_LOADER, DEFAULT_SIZE, LOADERS

NAME = re.compile(r"imagenet_\d+_(\d+)\.jpg")


def imagenet_sample(split: str | None, size: int | None, loader: str = DEFAULT_LOADER) -> FileImages:
    """Twenty images with ImageNet's labels, at `size` (224) pixels a side, through a loader of `LOADERS`.

    There is one split, "all". Far too few for a rate, enough to see that a network and its loader fit together.
    """
    if split not in (None, "all"):
        raise BadInput(f"imagenet-sample is too small for a {split!r} split; leave --split out")
    package = find_spec("foolbox")  # not imported, which takes seconds
    folders = [Path(folder) / "data" for folder in (package and package.submodule_search_locations) or ()]
    files = {file: found for folder in folders for file in folder.glob("*.jpg") if (found := NAME.fullmatch(file.name))}
    if not files:
        raise BadInput("the installed foolbox has no data/imagenet_*.jpg; install foolbox 3.3.4")
    whole = FileImages(
        name="imagenet-sample",
        split="all",
        y=torch.tensor([int(found[1]) for found in files.values()]),
        ids=tuple(file.name for file in files),
        num_classes=1000,
        image_size=size or DEFAULT_SIZE,
        loader=loader,
        decode=LOADERS[loader],
        files=tuple(files),
    )
    return carve(whole, "all")
