"""Architectures by name, with any activation."""

from satbench.core.tables import ACTIVATIONS
from satbench.models.classifier import Classifier, ModelSpec
from satbench.models.table import ARCHITECTURES, build_model, empty_model, own_code
from satbench.specs.activation import canonical

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "Classifier",
    "ModelSpec",
    "build_model",
    "canonical",
    "empty_model",
    "own_code",
]
