"""The boundary of every network: images in [0, 1] come in, logits go out."""

from dataclasses import asdict, field
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from satbench.core.errors import FAULTS, BadInput, reason
from satbench.core.parameters import Count, Number, Positive, Whole
from satbench.core.parsing import parsed
from satbench.models.features import features_of
from satbench.numerics.modes import evaluating
from satbench.specs.activation import canonical

# far beyond any classifier's, because a file may ask for any network
Classes = Annotated[int, Field(gt=0, le=1_000_000, description="a whole number from 1 to 1000000")]
Side = Annotated[int, Field(gt=0, le=4096, description="a whole number from 1 to 4096")]
Stored = Annotated[int, Field(gt=0, le=100_000_000, description="a whole number from 1 to 100000000")]
Size = Annotated[Whole, Field(ge=1, le=65_536, description="a whole number from 1 to 65536")]  # width, depth and such


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Readout:
    """What votes in the place of the linear `layer`: the `k` nearest of `images` stored representations."""

    layer: str
    k: Count
    images: Stored


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class ModelSpec:
    """All that is needed to build a network: architecture and activation by name, shapes, input statistics.

    `activation` is kept in its canonical spelling, such as "celu:alpha=2"; that of a network from elsewhere as given.
    `params` are keyword arguments of the architecture; `mean` and `std` are per channel, in the scale of [0, 1].
    `readout` is that of a network whose last layer is a kNN, see `models.knn`.
    """

    architecture: str
    activation: str
    num_classes: Classes
    channels: Side
    image_size: Side
    mean: tuple[Number, ...]
    std: tuple[Positive, ...]
    params: dict[str, Any] = field(default_factory=dict)
    readout: Readout | None = None

    @field_validator("activation")
    @classmethod
    def _canonical(cls, text: str) -> str:
        try:
            return canonical(text)
        except BadInput:
            return text  # of a network from elsewhere; `build_model` refuses what it cannot build

    def to_dict(self) -> dict[str, Any]:
        """As a file carries it; without `readout` where there is none."""
        return {key: value for key, value in asdict(self).items() if key != "readout" or value is not None}

    @classmethod
    def from_json(cls, text: str) -> "ModelSpec":
        """The spec a file carries; raises `BadInput` naming the first field that is missing, unknown or mistyped."""
        return parsed(cls, text.encode(), "not a model spec")


class Classifier(nn.Module):
    """Float images (N, C, H, W) in [0, 1] to logits (N, K); per-channel normalisation happens inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.net = net
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean, device="cpu").view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std, device="cpu").view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.spec.channels or not x.is_floating_point():
            given = f"{tuple(x.shape)} {x.dtype}"
            raise BadInput(f"images are {given}; expected floats (N, {self.spec.channels}, H, W) in [0, 1]")
        logits: Tensor = self.net((x - self.mean) / self.std)
        return logits

    def features(self, x: Tensor) -> Tensor:
        """The penultimate representation of images as `forward` takes them, float (N, D); see `features_of`.

        It is what the classification layer reads: the activations of the last hidden layer of an `mlp`, and the
        globally pooled feature maps of every convolutional architecture of `ARCHITECTURES`.
        """
        return features_of(self, x)


def check_logits(model: Classifier, what: str, advice: str) -> None:
    """Raise `BadInput`, `what` with `advice`, unless a network in eval mode gives finite logits for two gray images."""
    spec = model.spec
    images = torch.full((2, spec.channels, spec.image_size, spec.image_size), 0.5)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), evaluating(model):
            logits = model(images)
    except FAULTS as error:
        size = f"{spec.channels} x {spec.image_size} x {spec.image_size}"
        raise BadInput(f"{what} cannot be run on images of {size}: {reason(error)}; {advice}") from error
    if not isinstance(logits, Tensor):
        raise BadInput(f"{what} gives a {type(logits).__name__}; expected logits (2, {spec.num_classes}); {advice}")
    if logits.shape != (2, spec.num_classes):
        given = f"{tuple(logits.shape)} for two images; expected (2, {spec.num_classes})"
        raise BadInput(f"{what} gives logits of shape {given}, one for each class; {advice}")
    if not logits.isfinite().all():
        raise BadInput(f"{what} gives logits that are NaN or infinite for two gray images; {advice}")


def channels_of(model: nn.Module) -> int | None:
    """The channels of the images that a network takes: those of its spec, else what its first 2D kernel takes.

    None for a network without either.
    """
    if isinstance(model, Classifier):
        return model.spec.channels
    return next((weight.shape[1] for weight in model.parameters() if weight.ndim == 4), None)
