"""Sets of labelled images, in memory or in files, and the one way every data set is checked and split."""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from satbench.core.errors import BadInput
from satbench.data.loaders import ImageFile, Loader

SHARES = {"test": 0.25, "val": 0.15}  # of every class, where a data set comes without its own split; the rest is train

MOST_CLASSES = 100_000
MOST_FOR_STATISTICS = 10_000  # images in files whose pixels are measured for the channel statistics
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Images(ABC):
    """Images with labels `y` int64 (N,), a stable id and a pixel hash each.

    `loader` names what decodes the files, where the pixels are not those of the data set itself. `class_names` are the
    names of class folders in sorted order, until they are matched with a network's. `note` is for the manifest of a run
    on these images.
    """

    name: str
    split: str
    y: Tensor
    ids: tuple[str, ...]
    num_classes: int
    loader: str | None
    class_names: tuple[str, ...] | None = None
    note: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image."""

    @property
    @abstractmethod
    def hashes(self) -> tuple[str, ...]:
        """A hash of every image's pixels."""

    @property
    def digest(self) -> str:
        """SHA-256 over ids, labels and pixel hashes in order, as `sha256:<hex>`."""
        digest = hashlib.sha256()
        for sample_id, label, pixels in zip(self.ids, self.y.tolist(), self.hashes, strict=True):
            digest.update(f"{sample_id}\t{label}\t{pixels}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    @property
    def fingerprint(self) -> str:
        """What a training is bound to: the digest, or where that would decode every file, one of ids and labels."""
        return self.digest

    @abstractmethod
    def batches(self, size: int) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
        """Yield `(sample_ids, x, y)` in order, at most `size` images at a time; `x` float32 (n, C, H, W) in [0, 1]."""

    @abstractmethod
    def channel_statistics(self) -> Statistics:
        """Mean and standard deviation of every channel over all pixels; a constant channel has deviation 1."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> Self:
        """The images at `rows`, in that order."""

    @abstractmethod
    def in_memory(self) -> "ImageSet":
        """All of them at once; raises `BadInput` where they are decoded batch by batch."""

    def head(self, n: int | None) -> Self:
        """The first `n` images: a sample of every class, for the order is pseudo-random and fixed.

        Published test sets keep their own order, so that `n` images are those that papers mean.
        """
        if n is None:
            return self
        if not isinstance(n, int | np.integer) or isinstance(n, bool) or not 0 < n <= len(self):
            raise BadInput(
                f"--n {n!r}: {self.name} {self.split} has {len(self)} images; give a whole number from 1 to {len(self)}"
            )
        return self.take(range(n))


@dataclass(frozen=True, kw_only=True)
class ImageSet(Images):
    """Images in memory: `x` float32 (N, C, H, W) in [0, 1]."""

    x: Tensor
    pixel_hashes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def hashes(self) -> tuple[str, ...]:
        return self.pixel_hashes

    def batches(self, size: int) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
        for start in range(0, len(self), size):
            end = start + size
            yield self.ids[start:end], self.x[start:end], self.y[start:end]

    def take(self, rows: Sequence[int]) -> Self:
        index = torch.as_tensor(rows, dtype=torch.int64)
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            ids=tuple(self.ids[i] for i in rows),
            pixel_hashes=tuple(self.pixel_hashes[i] for i in rows),
        )

    def in_memory(self) -> "ImageSet":
        return self

    def channel_statistics(self) -> Statistics:
        channels = [self.x[:, channel].double() for channel in range(self.x.shape[1])]
        mean = tuple(round(one.mean().item(), 6) for one in channels)
        return mean, tuple(round(one.std(correction=0).item(), 6) or 1.0 for one in channels)


@dataclass(frozen=True, kw_only=True)
class FileImages(Images):
    """Images in files, decoded by `decode` to squares each time they are used.

    A pixel hash is taken when its image is decoded first, so `hashes` and `digest` cost a decoding of their own only
    before a pass through `batches`. An image that cannot be decoded raises `BadInput` then.

    decode: makes uint8, or float32 in [0, 1], (3, image_size, image_size) of a file.
    channels: 3, or 1 for gray images, of whose three equal channels the first is kept.
    statistics: mean and deviation of the channels where everyone uses the same; else they are measured on the first
        `MOST_FOR_STATISTICS` images.
    is_kept: whether the decoded pixels are kept in memory where they are few enough, see `data.decoded`.
    whole: the images from which these were taken, whose decoded pixels the cache holds.
    """

    files: tuple[ImageFile, ...]
    image_size: int
    decode: Loader
    channels: int = 3
    statistics: Statistics | None = None
    is_kept: bool = False
    whole: Self | None = field(default=None, repr=False, compare=False)
    seen: dict[str, str] = field(default_factory=dict, repr=False, compare=False)  # pixel hashes by sample id

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.image_size, self.image_size)

    @property
    def hashes(self) -> tuple[str, ...]:
        for i, sample_id in enumerate(self.ids):
            if sample_id not in self.seen:
                self.pixels(i)
        return tuple(self.seen[sample_id] for sample_id in self.ids)

    def batches(self, size: int) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
        """As every set's; the next batch is decoded on other threads while one is used."""
        parts = [range(start, min(start + size, len(self))) for start in range(0, len(self), size)]
        pool = ThreadPoolExecutor()
        try:
            ahead = pool.map(self.pixels, parts[0])
            for part, following in zip_longest(parts, parts[1:], fillvalue=range(0)):
                pixels = np.stack(list(ahead))
                ahead = pool.map(self.pixels, following)
                yield self.ids[part.start : part.stop], unit(pixels), self.y[part.start : part.stop]
        finally:
            pool.shutdown(cancel_futures=True)

    def take(self, rows: Sequence[int]) -> Self:
        return replace(
            self,
            y=self.y[torch.as_tensor(rows, dtype=torch.int64)],
            ids=tuple(self.ids[i] for i in rows),
            files=tuple(self.files[i] for i in rows),
            whole=self.whole or self,
        )

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.loader} {self.image_size}\n".encode())
        for sample_id, label in zip(self.ids, self.y.tolist(), strict=True):
            digest.update(f"{sample_id}\t{label}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def channel_statistics(self) -> Statistics:
        if self.statistics is not None:
            return self.statistics
        measured = self.head(min(len(self), MOST_FOR_STATISTICS))
        total = torch.zeros(self.channels, dtype=torch.float64)
        squares = torch.zeros_like(total)
        for _, x, _ in measured.batches(64):
            total += x.double().sum((0, 2, 3))
            squares += x.double().square().sum((0, 2, 3))
        pixels = len(measured) * self.image_size**2
        mean = total / pixels
        std = (squares / pixels - mean.square()).clamp(min=0).sqrt()
        return tuple(round(one, 6) for one in mean.tolist()), tuple(round(one, 6) or 1.0 for one in std.tolist())

    def in_memory(self) -> ImageSet:
        raise BadInput(
            f"the {len(self)} images of {self.name} are decoded batch by batch, they do not fit in memory at once"
        )

    def pixels(self, row: int) -> np.ndarray:
        """One image, decoded: uint8, or float32 in [0, 1], of `shape`."""
        pixels = self.decode(self.files[row], self.image_size)[: self.channels]
        self.seen.setdefault(self.ids[row], _hash(pixels))
        return pixels


def image_set(name: str, split: str, pixels: np.ndarray, labels: np.ndarray, ids: Sequence[str]) -> ImageSet:
    """Check arrays and make them an `ImageSet`.

    `pixels` are uint8 or float (N, C, H, W), `labels` integers (N,). Raises `BadInput` for floats outside [0, 1] or not
    finite, for negative or non-integer labels, and for lengths that differ.
    """
    if pixels.ndim != 4 or len(pixels) == 0:
        raise BadInput(f"{name}: images have shape {pixels.shape}; expected (N, C, H, W) with N > 0")
    if labels.shape != (len(pixels),):
        raise BadInput(f"{name}: {len(pixels)} images but labels of shape {labels.shape}; expected one label an image")
    if not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(f"{name}: labels are {labels.dtype}; expected integers from 0")
    if labels.min() < 0:
        raise BadInput(f"{name}: label {labels.min()} is negative; expected integers from 0")
    if labels.max() >= MOST_CLASSES:
        raise BadInput(f"{name}: label {labels.max()} is no class number; expected integers from 0 to classes - 1")
    pixels = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))
    hashes = tuple(_hash(image) for image in pixels)
    if np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all():
            raise BadInput(f"{name}: some pixels are NaN or infinite; expected values in [0, 1]")
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            hint = "divide by 255 or store uint8" if high > 2 and low >= 0 else "scale them first"
            raise BadInput(f"{name}: pixels range from {low:g} to {high:g}; expected [0, 1], {hint}")
    elif pixels.dtype != np.uint8:
        raise BadInput(f"{name}: pixels are {pixels.dtype}; expected uint8 or float in [0, 1]")
    return ImageSet(
        name=name,
        split=split,
        x=unit(pixels),
        y=torch.from_numpy(labels.astype(np.int64)),
        ids=tuple(ids),
        pixel_hashes=hashes,
        num_classes=int(labels.max()) + 1,
        loader=None,
    )


AnyImages = TypeVar("AnyImages", bound=Images)


def carve(whole: AnyImages, split: str, shares: Mapping[str, float] = SHARES) -> AnyImages:
    """The part `split` of a data set that comes without one: a name in `shares`, "train" for the rest, or "all".

    Every class is ordered by a hash of its sample ids and cut by `shares` in turn, so the result depends on the ids
    alone and not on any library's generator. The images come in hash order, a fixed shuffle.
    """
    _check_ids(whole)
    order = sorted(range(len(whole)), key=lambda i: hashlib.sha256(whole.ids[i].encode()).digest())
    classes: dict[int, list[int]] = {}
    for i, label in zip(order, whole.y[order].tolist(), strict=True):
        classes.setdefault(label, []).append(i)
    chosen: set[int] = set()
    for members in classes.values():
        parts, start, share = {"all": members}, 0, 0.0
        for name, part in shares.items():
            share += part
            end = round(share * len(members))
            parts[name], start = members[start:end], end
        parts["train"] = members[start:]
        chosen.update(parts[split])
    if not chosen:
        raise BadInput(f"{whole.name}: of {len(whole)} images none is left for the {split} split; use --split all")
    return replace(whole.take([i for i in order if i in chosen]), split=split)


def _check_ids(images: Images) -> None:
    """Refuse two images of one name, and names that no file of records could hold."""
    if len(set(images.ids)) < len(images):
        doubled = next(one for one, count in Counter(images.ids).items() if count > 1)
        raise BadInput(f"{images.name}: two images are called {doubled!r}; rename or remove one")
    for sample_id in images.ids:
        try:
            sample_id.encode()
        except UnicodeEncodeError:
            raise BadInput(f"{images.name}: the file name {sample_id!a} is not UTF-8; rename it") from None


def together(one: AnyImages, other: AnyImages) -> AnyImages:
    """The images of two splits of one data set, in this order."""
    parts: dict[str, Any] = {"y": torch.cat([one.y, other.y]), "ids": one.ids + other.ids}
    if isinstance(one, ImageSet) and isinstance(other, ImageSet):
        parts |= {"x": torch.cat([one.x, other.x]), "pixel_hashes": one.pixel_hashes + other.pixel_hashes}
    elif isinstance(one, FileImages) and isinstance(other, FileImages):
        is_one = one.whole is not None and other.whole is not None and one.whole.files == other.whole.files
        parts |= {"files": one.files + other.files, "whole": one.whole if is_one else None}
    return replace(one, **parts)


def unit(pixels: np.ndarray) -> Tensor:
    """uint8 as float32 in [0, 1]; floats stay what they are."""
    x = torch.from_numpy(pixels)
    return x.float().div_(255) if pixels.dtype == np.uint8 else x.float()


def _hash(image: np.ndarray) -> str:
    header = f"{image.dtype.str} {image.shape}\n".encode()
    return hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
