"""Data sets by name."""

from satbench.data.images import Images, ImageSet
from satbench.data.sets import load_images, takes_loader, training_splits

__all__ = ["ImageSet", "Images", "load_images", "takes_loader", "training_splits"]
