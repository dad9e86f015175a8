"""Images that a caller has in memory, or that a function of the caller's own gives, as a data set."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from satbench.core import plugins
from satbench.core.errors import FAULTS, BadInput, reason
from satbench.data.images import SHARES, Images, ImageSet, carve, image_set
from satbench.results.schema import ARRAYS

ACCEPTED = "give (x, y) as arrays or tensors, a TensorDataset, a Dataset of (image, label) or a DataLoader"


def as_images(data: Any, name: str = ARRAYS, split: str = "all") -> Images:
    """What a caller has of images and labels, as a data set called `name`, in the given order.

    data: `Images`, which stay as they are; a pair (x, y) of arrays or tensors, x uint8 or float in [0, 1] of shape
        (N, C, H, W) or (N, H, W, C) with 1 or 3 channels, y integers (N,); a `TensorDataset` of two such tensors; a
        dataset, whose items are (image, label) with a tensor, an array or a Pillow image; a `DataLoader`, of which the
        dataset is taken in its own order, but of an `IterableDataset` the batches; or any other list or iterable of
        items (image, label) or of batches (x, y).

    Sample i is called NAME/00000i, so that an order that changes from call to call changes what is measured. Raises
    `BadInput` for anything else and for values that no data set may have.
    """
    if isinstance(data, Images):
        return data
    x, y = _arrays(data, "the data" if name == ARRAYS else f"the data of {name}")
    return array_images(name, split, x, y, name)


def array_images(name: str, split: str, x: np.ndarray, y: np.ndarray, prefix: str) -> ImageSet:
    """Arrays as an `ImageSet` in their order, with ids PREFIX/000000 on; raises `BadInput` as `image_set` does.

    Which axis of `x` holds the channels is the one of length 1 or 3; when both could, a clear layout is asked for.
    """
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise BadInput(f"{name}: x has shape {x.shape}; expected (N, H, W, C) or (N, C, H, W)")
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        raise BadInput(f"{name}: x has shape {x.shape}; exactly one of axes 1 and 3 must be the channels (1 or 3)")
    pixels = x if first else x.transpose(0, 3, 1, 2)
    if pixels.shape[2] != pixels.shape[3]:
        raise BadInput(f"{name}: images are {pixels.shape[2]} x {pixels.shape[3]}; expected squares")
    return image_set(name, split, pixels, y, [f"{prefix}/{i:06d}" for i in range(len(pixels))])


def own_images(name: str, split: str | None, size: int | None) -> Images:
    """The data set of a function `package.module:callable`, with parameters; "test" by default.

    It is called with "train" or "test"; "val" is cut from "train" as for every data set. Raises `BadInput` for what it
    raises, what `as_images` refuses, and a `size` other than that of its images.
    """
    check_own(name, split)
    reference, tail = plugins.spelled(name)
    source = "test" if split in (None, "test") else "train"
    with plugins.own("data set", reference) as load:
        params = plugins.arguments(load, tail, f"data set {name!r}", placed=1)
        whole = replace(as_images(load(source, **params), f"{reference}/{source}", source), name=name)
    if size not in (None, whole.shape[-1]):
        raise BadInput(f"{name}: images are {whole.shape[-1]} pixels a side, not {size}; resize them first")
    return carve(whole, "test", {"test": 1.0}) if source == "test" else carve(whole, str(split), {"val": SHARES["val"]})


def check_own(name: str, split: str | None) -> None:
    """Raise `BadInput` for a split that no function of the user's own has; nothing is imported."""
    if split == "all":
        raise BadInput(f"{name} keeps its splits train, val and test apart; there is no {split!r}")


def _arrays(data: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        data = data.dataset
    if isinstance(data, TensorDataset):
        data = data.tensors
    try:
        if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "shape"):
            return _array(data[0]), _array(data[1])
        if _is_indexed(data):
            return _joined([data[i] for i in range(len(data))])
        if isinstance(data, Iterable):
            return _joined(data)
    except BadInput:
        raise
    except FAULTS as error:
        raise BadInput(f"{what} cannot be read as images and labels ({reason(error)}); {ACCEPTED}") from error
    raise BadInput(f"{what} is a {type(data).__name__}; {ACCEPTED}")


def _is_indexed(data: Any) -> bool:
    """Whether items are taken by their index; a `DataLoader` and an `IterableDataset` have none."""
    return not isinstance(data, IterableDataset) and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _joined(pairs: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of an image and its label, or of a batch of images and theirs, as one array of each."""
    images, labels = _columns(pairs)
    pixels = [_picture(one) for one in images]
    if pixels[0].ndim == 4:
        return np.concatenate(pixels), np.concatenate([_array(one) for one in labels])
    return np.stack(pixels), np.asarray([int(one) for one in labels])


def _columns(pairs: Iterable[Any]) -> Iterator[list[Any]]:
    """The images and the labels of pairs; raises ValueError where an item is no pair, or there is none."""
    rows = [tuple(pair) for pair in pairs]
    if any(len(row) != 2 for row in rows) or not rows:
        raise ValueError("not every item is a pair" if rows else "it is empty")
    return iter([list(column) for column in zip(*rows, strict=True)])


def _picture(image: Any) -> np.ndarray:
    """One image (C, H, W) or (H, W, C); a gray one gets its axis."""
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    found = _array(image)
    return found[None] if found.ndim == 2 else found


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    plain = values.detach().cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
