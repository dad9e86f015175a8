"""Data sets by name; each yields `(sample_id, x, y)` with images in [0, 1]."""

import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.lookup import find, imported_table, nearest
from satbench.core.plugins import is_findable, is_reference, spelled
from satbench.core.tables import DATA_SETS
from satbench.data.arrays import as_images, check_own, own_images
from satbench.data.decoded import settled
from satbench.data.images import SHARES, Images, carve, together
from satbench.data.loaders import LOADERS
from satbench.data.published import PUBLISHED
from satbench.specs.names import check_data_set, data_root

_ALL = imported_table("satbench.data", {name: one.where for name, one in DATA_SETS.items()})
EMBEDDED: dict[str, Callable[..., Images]] = {name: make for name, make in _ALL.items() if not DATA_SETS[name].path}
FROM_PATH: dict[str, Callable[..., Images]] = {name: make for name, make in _ALL.items() if DATA_SETS[name].path}
LARGEST_SIDE = 4096
SPLITS = ("train", "val", "test", "all")
HELD_OUT = 0.01  # of ImageNet's training images, 12,800 or so


def load_images(
    name: str,
    split: str | None = None,
    size: int | None = None,
    data_dir: Path | None = None,
    loader: str | None = None,
    channels: int | None = None,
) -> Images:
    """One split ("train", "val", "test", "all") of a data set: its name, `NAME:PATH`, or `package.module:callable`.

    Without a `split` it is "test" where the data set has a split of its own, "val" for ImageNet, else "all".

    A relative PATH lies under `data_dir`, else under the folder that the variable SATBENCH_DATA names, else under the
    current folder; `imagenet` without a PATH is looked for there, and so are the data sets of `PUBLISHED`, which are
    downloaded to the cache where they are neither there nor in it. `cifar10-jpeg` without one is the folder of its name
    there. `size` is the side in pixels that files are resized to; `loader`, a name of `data.loaders.LOADERS`, says how,
    for the data sets that `takes_loader`. `channels`, 1 or 3, is for image_folder; by default its files decide. Image
    files are decoded and cached here where they fit in memory, see `data.decoded`. Raises `BadInput` for an unknown
    name, split or loader and for data that the data set refuses.
    """
    return settled(_listed(name, split, size, data_dir, loader, channels))


def _listed(
    name: str,
    split: str | None,
    size: int | None,
    data_dir: Path | None,
    loader: str | None = None,
    channels: int | None = None,
) -> Images:
    """As `load_images`, with image files not yet decoded."""
    check_images(name, split, size, loader)
    if data_dir is not None and not data_dir.is_dir():
        raise BadInput(f"--data-dir {data_dir}: no such folder; give the one that holds the data")
    if is_own_data(name):
        return own_images(name, split, size)
    kind, _, path = name.partition(":")
    factory = {**EMBEDDED, **FROM_PATH}[kind]
    given: dict[str, object] = {} if loader is None else {"loader": loader}
    if channels in (1, 3) and "channels" in inspect.signature(factory).parameters:
        given["channels"] = channels
    root = data_root(data_dir)
    where: tuple[object, ...] = (root / (path or DATA_SETS[kind].folder),) if kind in FROM_PATH else ()
    if kind in PUBLISHED:
        where = (root / path, not path)
    return factory(*where, split, size, **given)


def check_images(name: str, split: str | None = None, size: int | None = None, loader: str | None = None) -> None:
    """Raise `BadInput` for a name, split, size or loader that `load_images` does not know; nothing is read."""
    check_data_set(name)
    if split not in (None, *SPLITS):
        raise BadInput(f"unknown split {split!r}; {nearest(str(split), SPLITS)}")
    if size is not None and not 1 <= size <= LARGEST_SIDE:
        raise BadInput(f"--image-size {size}; give 1 to {LARGEST_SIDE} pixels")
    if is_own_data(name):
        check_own(name, split)
    if loader is not None:
        find(LOADERS, loader, "loader")
        if not takes_loader(name):
            kind = name.partition(":")[0]
            raise BadInput(f"--loader {loader}: {kind} has one way of reading its images; leave the loader out")


def training_splits(
    name: str,
    size: int | None = None,
    data_dir: Path | None = None,
    val: float | str | None = None,
    train_n: int | None = None,
    in_files: bool = False,
    channels: int | None = None,
) -> tuple[Images, Images | None]:
    """The images to train on, and those to choose an epoch by; networks are never measured on either.

    train_n: how many images to train on, the first of each class in their fixed pseudo-random order, in the shares of
        all of them.
    in_files: whether images in files stay there, as augmentations of whole files need them.
    val: a share or a number of both splits together, up to rounding in every class; "none" holds out no image. The
        default is the split of the data set. The split "val" of ImageNet is what networks are measured on, so that 1%
        of its training images is held out here.
    The other arguments are those of `load_images`.

    Raises `BadInput` for a size that leaves a split empty, and a `train_n` that is more than there are.
    """
    images = _listed(name, "train", size, data_dir, channels=channels)
    held_out: Images | None = None
    if name.partition(":")[0] == "imagenet":
        val = HELD_OUT if val is None else val
    else:
        held_out = _listed(name, "val", size, data_dir, channels=channels)
    if val is not None:
        images, held_out = _carved(images if held_out is None else together(images, held_out), val)
    if train_n is not None:
        images = _first_of_each_class(images, train_n)
    return images if in_files else settled(images), None if held_out is None else settled(held_out)


def extra_images(
    name: str,
    size: int | None = None,
    data_dir: Path | None = None,
    in_files: bool = False,
    channels: int | None = None,
) -> Images:
    """Every image of a data set without a test split of its own, such as an npz; of others those not for testing.

    The arguments and errors are those of `training_splits`.
    """
    if not is_own_data(name):
        images = _listed(name, None, size, data_dir, channels=channels)
        if images.split == "all":
            return images if in_files else settled(images)
    return training_splits(name, size, data_dir, "none", in_files=in_files, channels=channels)[0]


def _carved(images: Images, val: float | str) -> tuple[Images, Images | None]:
    if isinstance(val, str):
        return carve(images, "train", {}), None
    share = val if val < 1 else val / len(images)
    counts = images.y.bincount().tolist()
    if not 0 < sum(round(share * count) for count in counts) < len(images):
        raise BadInput(
            f"data.val={val:g} of the {len(images)} images of {images.name} leaves a split empty; give another size"
        )
    return carve(images, "train", {"val": share}), carve(images, "val", {"val": share})


def _first_of_each_class(images: Images, train_n: int) -> Images:
    """`train_n` images, the first of each class, whose shares stay what they were up to an image."""
    if train_n > len(images):
        raise BadInput(
            f"data.train_n={train_n}: {images.name} has {len(images)} training images; give at most that many"
        )
    counts, seen = images.y.bincount().tolist(), Counter[int]()
    places = []
    for row, label in enumerate(images.y.tolist()):
        places.append(((seen[label] + 0.5) / counts[label], row))  # how far down its class the image is
        seen[label] += 1
    return images.take(sorted(row for _, row in sorted(places)[:train_n]))


def is_own_data(name: str) -> bool:
    """Whether the name is `package.module:callable`, of a module that is there, with parameters or without."""
    reference, _ = spelled(name, {**EMBEDDED, **FROM_PATH})
    return is_reference(reference) and is_findable(reference)


def given_splits(
    data: object, name: str, val: float | str | None = None, train_n: int | None = None
) -> tuple[Images, Images | None]:
    """`training_splits` of images that a caller has, as `as_images` takes them; by default 15% are held out."""
    images, held_out = _carved(as_images(data, name, "train"), SHARES["val"] if val is None else val)
    return images if train_n is None else _first_of_each_class(images, train_n), held_out


def takes_loader(name: str) -> bool:
    """Whether the data set called `name` is decoded by a loader of one's choice."""
    factory = {**EMBEDDED, **FROM_PATH}.get(name.partition(":")[0])
    return factory is not None and "loader" in inspect.signature(factory).parameters
