"""The batches of an epoch, in an order that depends on seed and epoch alone, prepared while the last one is used."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from satbench.core.errors import BadInput
from satbench.data.images import FileImages, Images, ImageSet, unit
from satbench.data.loaders import open_rgb
from satbench.numerics.seeding import Share, generator
from satbench.training.augment import WHILE_DECODING, augmentation
from satbench.training.extra import Extra


class Batch(NamedTuple):
    """This process's part of a batch.

    x float32 (n, C, H, W) in [0, 1] and y int64 (n,) on the device; rows int64 (n,) of these images in the data set,
    those of extra images behind them, and batch_rows, those of the whole batch of all processes, on the CPU; start: the
    place of the first of `rows` in `batch_rows`. views: further augmentations of the same images, each like x.
    """

    x: Tensor
    y: Tensor
    rows: Tensor
    batch_rows: Tensor
    start: int
    views: tuple[Tensor, ...] = ()


class Feed:
    """`images` in shuffled batches, augmented as `augment.augmentation` or an entry of `WHILE_DECODING` says.

    Each of `count` processes gets a contiguous part of every batch, with the pixels that one process would have there.
    Images beyond the last whole batch make a smaller one, or are left out with `drop_last`; a data set smaller than a
    batch is one batch. Batch norm cannot learn from one image: where a process would get fewer than two of the smaller
    batch, its images join the batch before.
    Every image comes in `views` augmentations, drawn independently; the first is that of one view.
    With `resident` images in memory stay on `device`; else the next batch is gathered or decoded on other threads, and
    copied, while one is used. With `extra` images, a share of every batch is taken from these, see `training.extra`.
    Raises `BadInput` for an unknown augmentation, one for files or `resident` where the images are of the other kind,
    several processes that would get fewer than two images of a batch, and fewer extra images than a batch takes.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        augment: str = "none",
        device: torch.device | str = "cpu",
        resident: bool = False,
        rank: int = 0,
        count: int = 1,
        drop_last: bool = False,
        extra: Extra | None = None,
        views: int = 1,
    ) -> None:
        self._change = augmentation(augment)
        if augment in WHILE_DECODING and not isinstance(images, FileImages):
            raise BadInput(
                f"augmentation {augment!r} is for image files, and {images.name} is in memory; use crop-flip"
            )
        parts = [images] if extra is None else [images, extra.images]
        for part in parts:
            if resident and not isinstance(part, ImageSet):
                raise BadInput(
                    f"{part.name} is decoded batch by batch and cannot stay on the device; leave resident out"
                )
        if count > 1 and min(batch_size, len(images)) < 2 * count:
            raise BadInput(
                f"{count} processes share batches of {min(batch_size, len(images))} images, which is fewer than two "
                "each; start fewer processes"
            )
        self.images, self.batch_size, self.seed, self.augment = images, batch_size, seed, augment
        self.drop_last, self.views = drop_last, views
        self.device, self.resident, self.rank, self.count = torch.device(device), resident, rank, count
        self.extra, self.rows = extra, sum(map(len, parts))  # of the original and extra images
        self._parts = parts
        self._sources = [
            part.x.to(self.device if resident else "cpu") if isinstance(part, ImageSet) else None for part in parts
        ]
        self._y = torch.cat([part.y for part in parts])
        if extra is not None:
            size = self.largest[0]
            most = extra.count(size)
            if most > len(extra.images):
                raise BadInput(
                    f"a batch takes {most} of the {len(extra.images)} images of data.extra, and none twice; give more "
                    "images, a smaller batch_size or a smaller data.extra_fraction"
                )
            if not 0 < most < size:
                raise BadInput(
                    f"data.extra_fraction={extra.fraction:g} makes {most} of the {size} images of a batch extra ones; "
                    f"give a share from {1 / size:.2g} to {1 - 1 / size:.2g}, or a larger batch_size"
                )
        self._stream: torch.cuda.Stream | None = None
        if self.device.type == "cuda" and not resident:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @property
    def batches_an_epoch(self) -> int:
        """Whole batches, and a smaller one where there is one."""
        whole, left_over = divmod(len(self.images), self.batch_size)
        return max(1, whole + (not self.drop_last and left_over >= 2 * self.count))

    @property
    def images_an_epoch(self) -> int:
        return len(range(len(self.images))[: self._rows(self.batches_an_epoch - 1).stop])

    @property
    def largest(self) -> tuple[int, ...]:
        """(N, C, H, W) of the largest batch of an epoch, over all processes."""
        first, last = (len(range(len(self.images))[self._rows(step)]) for step in (0, self.batches_an_epoch - 1))
        return (max(first, last), *self.images.shape)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of epoch `number` from batch `first` on; raises `BadInput` for a file without an image."""
        order = self._order(number)
        steps = range(first, self.batches_an_epoch)
        ahead, decoders = ThreadPoolExecutor(1), ThreadPoolExecutor()  # no thread starts before its first task
        make = partial(self._batch, number, order, decoders)
        if self.resident or not steps:
            yield from map(make, steps)
            return
        try:
            coming = ahead.submit(make, first)
            for step in steps:
                batch = coming.result()
                if self._stream is not None:
                    current = torch.cuda.current_stream(self.device)
                    current.wait_stream(self._stream)
                    for tensor in (batch.x, batch.y, *batch.views):
                        tensor.record_stream(current)
                if step + 1 in steps:
                    coming = ahead.submit(make, step + 1)
                yield batch
        finally:
            decoders.shutdown(cancel_futures=True)
            ahead.shutdown(cancel_futures=True)

    def clean(self) -> Iterator[Tensor]:
        """Yield the images of an epoch on the device, unaugmented and in whole batches, the same in every process."""
        whole = copy(self)
        whole.augment, whole.rank, whole.count, whole.drop_last, whole.views = "none", 0, 1, False, 1
        whole._change = augmentation("none")
        for batch in whole.epoch(0):
            yield batch.x

    def _order(self, epoch: int) -> Tensor:
        """The rows of the images of an epoch."""
        order = torch.randperm(len(self.images), generator=generator(self.seed, "order", epoch))
        if self.extra is None:
            return order
        sizes = [len(order[self._rows(step)]) for step in range(self.batches_an_epoch)]
        return self.extra.mixed(order, sizes, self.seed, epoch)

    def _rows(self, step: int) -> slice:
        """The places of a batch in the order of its epoch."""
        last = step == self.batches_an_epoch - 1 and not self.drop_last
        return slice(step * self.batch_size, None if last else (step + 1) * self.batch_size)

    def _batch(self, epoch: int, order: Tensor, decoders: ThreadPoolExecutor, step: int) -> Batch:
        whole = order[self._rows(step)]
        parts = whole.tensor_split(self.count)
        rows, start = parts[self.rank], sum(map(len, parts[: self.rank]))
        views = []
        with torch.cuda.stream(self._stream):
            for purpose in [("augment", epoch), *(("view", view, epoch) for view in range(1, self.views))]:
                x = self._place(self._pixels(purpose, rows, decoders))
                views.append(self._change(x, Share(generator(self.seed, *purpose, "batch", step), len(whole), start)))
            return Batch(views[0], self._place(self._y[rows]), rows, whole, start, tuple(views[1:]))

    def _pixels(self, purpose: tuple[object, ...], rows: Tensor, decoders: ThreadPoolExecutor) -> Tensor:
        if self.extra is None:
            return self._pixels_of(0, purpose, rows, decoders)
        places = [(rows < len(self.images)).nonzero().flatten(), (rows >= len(self.images)).nonzero().flatten()]
        x = torch.cat([self._pixels_of(part, purpose, rows[one], decoders) for part, one in enumerate(places)])
        return x[torch.cat(places).argsort().to(x.device)]

    def _pixels_of(self, part: int, purpose: tuple[object, ...], rows: Tensor, decoders: ThreadPoolExecutor) -> Tensor:
        """The images of these rows, all of which are original (part 0) or extra ones (1)."""
        own, source = rows - part * len(self.images), self._sources[part]
        if source is not None:
            return source[own.to(source.device)]
        decoded = list(decoders.map(partial(self._decode, self._parts[part], purpose), own.tolist(), rows.tolist()))
        return unit(np.stack(decoded)) if decoded else torch.empty(0, *self.images.shape)

    def _decode(self, images: Images, purpose: tuple[object, ...], own: int, row: int) -> np.ndarray:
        """Image `own` of a part, row `row` of all."""
        assert isinstance(images, FileImages)
        if self.augment not in WHILE_DECODING:
            return images.pixels(own)
        randomness = generator(self.seed, *purpose, row)
        image = open_rgb(images.files[own])
        return WHILE_DECODING[self.augment](image, images.image_size, randomness)[: images.channels]

    def _place(self, tensor: Tensor) -> Tensor:
        if self._stream is not None:
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def is_resident(parts: Sequence[Images], device: torch.device, asked: bool | None) -> bool:
    """Whether the images lie on the device: as asked, or where they take less than a quarter of its free memory."""
    in_memory = [part.x.nbytes for part in parts if isinstance(part, ImageSet)]
    if asked is not None or len(in_memory) < len(parts):
        return bool(asked)
    return device.type == "cpu" or 4 * sum(in_memory) < torch.cuda.mem_get_info(device)[0]
