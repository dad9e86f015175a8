"""The cards of a registry: one typed entry a model. They are read without torch."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.extra import ExtraData
from satbench.core.lookup import find, nearest
from satbench.core.plugins import is_reference, spelled
from satbench.core.tables import ARCHITECTURES, LOADERS
from satbench.specs.activation import canonical
from satbench.specs.names import TIMM

if TYPE_CHECKING:
    from satbench.models import ModelSpec

CLASSES = 1000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DriveId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{20,}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Network(_Strict):
    summary: str
    architecture: str
    activation: str
    parameters: int = Field(gt=0)
    licence: str

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, name: str) -> str:
        if name.startswith(TIMM):
            return name
        reference, tail = spelled(name)
        if not is_reference(reference):
            find(ARCHITECTURES, name, "architecture")
        elif tail:
            raise BadInput(f"{name!r} has arguments; give {reference!r}, and these in the field params")
        return name

    @field_validator("activation")
    @classmethod
    def _canonical_activation(cls, text: str) -> str:
        return canonical(text)


class _Training(_Strict):
    dataset: str
    recipe: str
    method: str
    trained_for: Threat


class _WeightsFile(_Strict):
    """One file of weights: `weights` is a path relative to the registry, or a URL; it must hash to `sha256`.

    size: of the file in bytes, told before a download.
    """

    weights: str
    sha256: Sha256
    size: int | None = Field(default=None, gt=0)


class SatbenchCard(_Network, _Training, _WeightsFile):
    """A network in a weights file that satbench wrote, which holds image size and normalisation itself.

    extra_data: images of another data set that its training mixed into the batches.
    """

    format: Literal["safetensors"]
    seed: int
    extra_data: ExtraData | None = None


class StateDictCard(_Network, _WeightsFile):
    """A network in a plain state dict; the card says how to build it (see `ModelSpec`), and what is known of it.

    The architecture may be code of the user's own, `package.module:callable`, called as for `satbench train --model`.
    """

    format: Literal["state-dict"]
    image_size: int = Field(gt=0)
    channels: int = Field(gt=0)
    num_classes: int = Field(gt=0)
    mean: tuple[float, ...] = Field(strict=False)
    std: tuple[float, ...] = Field(strict=False)
    params: dict[str, Any] = {}
    dataset: str | None = None
    recipe: str | None = None
    method: str | None = None
    trained_for: Threat | None = None
    seed: int | None = None
    extra_data: ExtraData | None = None

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        for field, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise BadInput(f"{field} has {len(values)} numbers for {self.channels} channels; give one a channel")
        return self

    @property
    def spec(self) -> "ModelSpec":
        """How its network is built."""
        from satbench.models import ModelSpec

        shape = (self.num_classes, self.channels, self.image_size)
        return ModelSpec(self.architecture, self.activation, *shape, self.mean, self.std, self.params)


class Sources(_Strict):
    """Google Drive ids of a TensorFlow checkpoint's three files; `meta`, the graph, is never needed for weights."""

    meta: DriveId
    data: DriveId
    index: DriveId


class Digests(_Strict):
    """SHA-256 of the two files that hold the weights."""

    data: Sha256
    index: Sha256


class ReleasedCard(_Network, _Training):
    """A network of the SAT release: a TensorFlow checkpoint to fetch and convert.

    release: the stem of its files. loader: the one its authors evaluate it with. channel_order: what its first
    convolution expects. variables: whether the release evaluates the raw variables or their moving averages.
    digests: "unknown" until a person has pinned them here; then the first download is pinned on the machine.
    """

    format: Literal["tensorflow-v2"]
    image_size: int = Field(gt=0)
    loader: str
    channel_order: Literal["bgr", "rgb"]
    variables: Literal["raw", "averaged"]
    release: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sources: Sources
    digests: Digests | None

    @field_validator("digests", mode="before")
    @classmethod
    def _unknown_is_none(cls, given: object) -> object:
        return None if given == "unknown" else given

    @field_validator("architecture", "activation")
    @classmethod
    def _of_the_release(cls, name: str) -> str:
        if is_reference(spelled(name)[0]):
            raise BadInput(f"{name!r} is no part of the SAT release; give the architecture and activation of its graph")
        return name

    @field_validator("loader")
    @classmethod
    def _known_loader(cls, name: str) -> str:
        if name not in LOADERS:
            raise BadInput(f"unknown loader {name!r}; {nearest(name, LOADERS)}")
        return name

    @property
    def files(self) -> dict[str, str]:
        """The files that are fetched, each with its Drive id."""
        return {
            f"{self.release}.index": self.sources.index,
            f"{self.release}.data-00000-of-00001": self.sources.data,
        }

    @property
    def stated_digests(self) -> dict[str, str] | None:
        if self.digests is None:
            return None
        return dict(zip(self.files, (self.digests.index, self.digests.data), strict=True))

    @property
    def scope(self) -> str:
        """What an EfficientNet's variables begin with: the release spells L1 as bL1."""
        return self.architecture.replace("-l1", "-bL1") if self.architecture.startswith("efficientnet") else ""

    @property
    def spec(self) -> "ModelSpec":
        """The network as released: 1,000 classes of RGB images, scaled to [-1, 1]."""
        from satbench.models import ModelSpec

        half = (0.5, 0.5, 0.5)
        return ModelSpec(self.architecture, self.activation, CLASSES, 3, self.image_size, half, half)


class Alias(_Strict):
    """Another name of a card, and why it has one."""

    alias: str
    because: str


FileCard = SatbenchCard | StateDictCard
Card = FileCard | ReleasedCard
FORMATS: dict[str, type[SatbenchCard] | type[StateDictCard] | type[ReleasedCard]] = {
    "safetensors": SatbenchCard,
    "state-dict": StateDictCard,
    "tensorflow-v2": ReleasedCard,
}
