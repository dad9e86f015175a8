"""Data sets by name."""

from satbench.data.arrays import as_images
from satbench.data.images import Images, ImageSet
from satbench.data.sets import (
    check_images,
    extra_images,
    given_splits,
    is_own_data,
    load_images,
    takes_loader,
    training_splits,
)

__all__ = [
    "ImageSet",
    "Images",
    "as_images",
    "check_images",
    "extra_images",
    "given_splits",
    "is_own_data",
    "load_images",
    "takes_loader",
    "training_splits",
]
