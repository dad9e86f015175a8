"""Extra or generated images that are mixed into every batch.

An epoch keeps its length, in updates and images: extra images replace original ones. So it is in the released code of
Wang et al. 2023 (arXiv 2302.04638, github.com/wzekai99/DM-Improves-AT), whose epoch on CIFAR-10 has ceil(50,000 / batch
size) updates at any share of generated images. With 70% extra images, an epoch has 30% of the original ones, others
each time. That code draws the extra images with replacement and rounds their number in a batch down; here they come in
a shuffled order that begins anew where it ends, and the number is rounded to the nearest. `train_n` limits the
original images alone, the validation split has no extra ones, and the network's normalisation is by the original ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from satbench.core.errors import BadInput
from satbench.core.extra import ExtraData
from satbench.data import Images, ImageSet, extra_images, load_images
from satbench.numerics.seeding import generator
from satbench.training.augment import WHILE_DECODING
from satbench.training.config import TrainConfig


@dataclass(frozen=True)
class Extra:
    """The images of `data.extra`, with the labels that they come with, and their share of a batch."""

    images: Images
    fraction: float

    @property
    def data(self) -> ExtraData:
        """What weights and tables say of them."""
        return ExtraData(name=self.images.name, fraction=self.fraction, digest=self.images.fingerprint)

    def mixed(self, order: Tensor, sizes: Sequence[int], seed: int, epoch: int) -> Tensor:
        """The rows of an epoch with batches of these sizes; `order` are the rows of the original images.

        Row N + i is extra image i, for N original ones. Every batch is shuffled, so that processes and parts of it have
        both kinds. No batch has an image twice.
        """
        draws = generator(seed, "extra", epoch)
        drawn = len(order) + torch.randperm(len(self.images), generator=draws)
        batches, originals, extras = [], 0, 0
        for size in sizes:
            count = self.count(size)
            places = torch.arange(extras, extras + count) % len(drawn)
            batch = torch.cat([order[originals : originals + size - count], drawn[places]])
            batches.append(batch[torch.randperm(size, generator=draws)])
            originals, extras = originals + size - count, extras + count
        return torch.cat(batches)

    def count(self, size: int) -> int:
        """How many images of a batch are extra."""
        return round(self.fraction * size)


def extra_of(
    config: TrainConfig, images: Images, held_out: Images | None, data_dir: Path | None, is_named: bool = True
) -> Extra | None:
    """The extra images of a config whose training and validation images are these; None where it has none.

    is_named: whether `config.dataset` names the data set that they are from. Raises `BadInput` for images of another
    shape or with classes that the data set lacks, and where one of them has the pixels of an image of the validation or
    the test split. Only images in memory are compared, by their hashes; equal pixels of another type differ.
    """
    name, size = config.data.extra, images.shape[-1]
    if name is None:
        return None
    found = extra_images(name, size, data_dir, config.augment in WHILE_DECODING, channels=images.shape[0])
    where = f"data.extra={name}"
    if found.shape != images.shape:
        raise BadInput(f"{where}: images are {found.shape}, and those of {images.name} {images.shape}; convert them")
    if found.num_classes > images.num_classes:
        raise BadInput(
            f"{where}: labels go up to {found.num_classes - 1}, and {images.name} has {images.num_classes} classes; "
            "relabel the images or leave them out"
        )
    if None not in (found.class_names, images.class_names) and found.class_names != images.class_names:
        raise BadInput(f"{where}: its class folders are not those of {images.name}, so labels would mean other classes")
    if config.augment in WHILE_DECODING and isinstance(found, ImageSet):
        raise BadInput(f"{where}: augmentation {config.augment!r} is for image files, and these are in memory")
    _refuse_held_out(where, found, [held_out, _test(config, images, data_dir) if is_named else None])
    return Extra(found, config.data.extra_fraction)


def _test(config: TrainConfig, images: Images, data_dir: Path | None) -> Images | None:
    """The test images of the data set in memory; None where it has none."""
    if not isinstance(images, ImageSet):
        return None
    try:
        return load_images(config.dataset, "test", images.shape[-1], data_dir, channels=images.shape[0])
    except BadInput:
        return None


def _refuse_held_out(where: str, extra: Images, splits: Sequence[Images | None]) -> None:
    for one in splits:
        if isinstance(extra, ImageSet) and isinstance(one, ImageSet) and (same := {*one.hashes} & {*extra.hashes}):
            raise BadInput(
                f"{where}: {len(same)} of its images are in the {one.split} split of {one.name}, such as "
                f"{extra.ids[extra.hashes.index(min(same))]}; remove them"
            )
