"""The shared adversarial trainer."""

from satbench.training.config import TrainConfig
from satbench.training.trainer import Trained, train

__all__ = ["TrainConfig", "Trained", "train"]
