"""A set of labelled images in memory, and the one way every data set is checked and split."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from satbench.errors import BadInput

SHARES = {"test": 0.25, "val": 0.15}  # of every class, where a data set comes without its own split; the rest is train

MOST_CLASSES = 100_000


@dataclass(frozen=True)
class ImageSet:
    """Images `x` float32 (N, C, H, W) in [0, 1], labels `y` int64 (N,), a stable id and a pixel hash for each."""

    name: str
    split: str
    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    hashes: tuple[str, ...]
    num_classes: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def digest(self) -> str:
        """SHA-256 over ids, labels and pixel hashes in order, as `sha256:<hex>`."""
        digest = hashlib.sha256()
        for sample_id, label, pixels in zip(self.ids, self.y.tolist(), self.hashes, strict=True):
            digest.update(f"{sample_id}\t{label}\t{pixels}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def batches(self, size: int) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
        """Yield `(sample_ids, x, y)` in order, at most `size` images at a time."""
        for start in range(0, len(self), size):
            end = start + size
            yield self.ids[start:end], self.x[start:end], self.y[start:end]

    def take(self, rows: Sequence[int]) -> "ImageSet":
        """The images at `rows`, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return replace(
            self,
            x=self.x[index],
            y=self.y[index],
            ids=tuple(self.ids[i] for i in rows),
            hashes=tuple(self.hashes[i] for i in rows),
        )

    def head(self, n: int | None) -> "ImageSet":
        """The first `n` images; the order is pseudo-random and fixed, so they are a sample of every class."""
        if n is None:
            return self
        if not 0 < n <= len(self):
            raise BadInput(f"--n {n}: {self.name} {self.split} has {len(self)} images; give 1 to {len(self)}")
        return self.take(range(n))

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of every channel over all pixels; a constant channel has deviation 1."""
        channels = [self.x[:, channel].double() for channel in range(self.x.shape[1])]
        mean = tuple(round(one.mean().item(), 6) for one in channels)
        return mean, tuple(round(one.std(correction=0).item(), 6) or 1.0 for one in channels)


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
    if pixels.dtype == np.uint8:
        x = torch.from_numpy(pixels).float().div_(255)
    elif np.issubdtype(pixels.dtype, np.floating):
        if not np.isfinite(pixels).all():
            raise BadInput(f"{name}: some pixels are NaN or infinite; expected values in [0, 1]")
        low, high = float(pixels.min()), float(pixels.max())
        if low < 0 or high > 1:
            hint = "divide by 255 or store uint8" if high > 2 and low >= 0 else "scale them first"
            raise BadInput(f"{name}: pixels range from {low:g} to {high:g}; expected [0, 1], {hint}")
        x = torch.from_numpy(pixels.astype(np.float32))
    else:
        raise BadInput(f"{name}: pixels are {pixels.dtype}; expected uint8 or float in [0, 1]")
    y = torch.from_numpy(labels.astype(np.int64))
    return ImageSet(name, split, x, y, tuple(ids), hashes, int(labels.max()) + 1)


def carve(whole: ImageSet, split: str, shares: Mapping[str, float] = SHARES) -> ImageSet:
    """The part `split` of a data set that comes without one: a name in `shares`, "train" for the rest, or "all".

    Every class is ordered by a hash of its sample ids and cut by `shares` in turn, so the result depends on the ids
    alone and not on any library's generator. The images come in hash order, a fixed shuffle.
    """
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


def _hash(image: np.ndarray) -> str:
    header = f"{image.dtype.str} {image.shape}\n".encode()
    return hashlib.sha256(header + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]
