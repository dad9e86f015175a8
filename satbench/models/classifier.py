"""The boundary of every network: images in [0, 1] come in, logits go out."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from satbench.errors import BadInput


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a network: architecture and activation by name, shapes, input statistics.

    `params` are keyword arguments of the architecture; `mean` and `std` are per channel, in the scale of [0, 1].
    """

    architecture: str
    activation: str
    num_classes: int
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    params: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: object) -> "ModelSpec":
        """The spec a file carries; raises `BadInput` when fields are missing, unknown or of the wrong type."""
        if not isinstance(raw, dict):
            raise BadInput(f"a model spec is a mapping, not {type(raw).__name__}")
        try:
            spec = cls(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])})
        except (TypeError, KeyError) as error:
            raise BadInput(f"not a model spec: {error}") from None
        numbers = (spec.num_classes, spec.channels, spec.image_size)
        if not all(isinstance(value, int) and value > 0 for value in numbers):
            raise BadInput(f"not a model spec: num_classes, channels, image_size must be positive integers: {numbers}")
        return spec


class Classifier(nn.Module):
    """Float images (N, C, H, W) in [0, 1] to logits (N, K); per-channel normalisation happens inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits
