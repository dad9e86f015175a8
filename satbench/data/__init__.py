"""Data sets by name."""

from satbench.data.images import Images, ImageSet
from satbench.data.sets import check_images, load_images, takes_loader, training_splits

__all__ = ["ImageSet", "Images", "check_images", "load_images", "takes_loader", "training_splits"]
