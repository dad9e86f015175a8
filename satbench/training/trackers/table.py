"""The table of trackers."""

from collections.abc import Callable

from satbench.training.trackers.base import Tracker
from satbench.training.trackers.mlflow import MLflow
from satbench.training.trackers.tensorboard import TensorBoard
from satbench.training.trackers.weights_and_biases import WeightsAndBiases

TRACKERS: dict[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}
