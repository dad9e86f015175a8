"""The registry file: one typed card a model."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.lookup import find, nearest
from satbench.core.parsing import parsed
from satbench.core.strict_yaml import PACKAGE, read_mapping, shipped
from satbench.data.loaders import LOADERS
from satbench.models import ARCHITECTURES, ModelSpec, canonical

REGISTRY = "model_zoo.yaml"
CLASSES = 1000

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
DriveId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{20,}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Card(_Strict):
    summary: str
    architecture: str
    activation: str
    dataset: str
    recipe: str
    method: str
    trained_for: Threat
    parameters: int = Field(gt=0)
    licence: str

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, name: str) -> str:
        find(ARCHITECTURES, name, "architecture")
        return name

    @field_validator("activation")
    @classmethod
    def _canonical_activation(cls, text: str) -> str:
        return canonical(text)


class PackagedCard(_Card):
    """A network whose weights come with satbench: `weights`, relative to the package, must hash to `sha256`.

    The image size and the normalisation are in the weights file itself.
    """

    format: Literal["safetensors"]
    seed: int
    weights: str
    sha256: Sha256

    def checked_path(self) -> Path:
        """The weights file; raises `BadInput` unless it hashes to `sha256`."""
        path = PACKAGE / self.weights
        if not path.is_file():
            raise BadInput(f"the weights {path} are missing; install satbench again")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise BadInput(f"{path} has SHA-256 {found}, its card says {self.sha256}; install satbench again")
        return path


class Sources(_Strict):
    """Google Drive ids of a TensorFlow checkpoint's three files; `meta`, the graph, is never needed for weights."""

    meta: DriveId
    data: DriveId
    index: DriveId


class Digests(_Strict):
    """SHA-256 of the two files that hold the weights."""

    data: Sha256
    index: Sha256


class ReleasedCard(_Card):
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

    @field_validator("loader")
    @classmethod
    def _known_loader(cls, name: str) -> str:
        find(LOADERS, name, "loader")
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
    def spec(self) -> ModelSpec:
        """The network as released: 1,000 classes of RGB images, scaled to [-1, 1]."""
        half = (0.5, 0.5, 0.5)
        return ModelSpec(self.architecture, self.activation, CLASSES, 3, self.image_size, half, half)


class Alias(_Strict):
    """Another name of a card, and why it has one."""

    alias: str
    because: str


Card = PackagedCard | ReleasedCard
FORMATS: dict[str, type[PackagedCard] | type[ReleasedCard]] = {
    "safetensors": PackagedCard,
    "tensorflow-v2": ReleasedCard,
}


def registry_path() -> Path:
    """The registry inside an installed package, or at the top of a checkout."""
    return shipped(REGISTRY)


def _read(path: Path) -> tuple[dict[str, Card], dict[str, Alias]]:
    cards: dict[str, Card] = {}
    aliases = {}
    for name, entry in read_mapping(path).items():
        if isinstance(entry, dict) and "alias" in entry:
            aliases[name] = parsed(Alias, entry, f"{path}: entry {name!r}")
        else:
            cards[name] = parsed(_schema(path, name, entry), entry, f"{path}: entry {name!r}")
    for name, alias in aliases.items():
        if alias.alias not in cards:
            raise BadInput(f"{path}: entry {name!r}, field 'alias': {alias.alias!r} is no card of this file")
    return cards, aliases


def _schema(path: Path, name: str, entry: object) -> type[PackagedCard] | type[ReleasedCard]:
    given = entry.get("format", "safetensors") if isinstance(entry, dict) else "safetensors"
    if given not in FORMATS:
        raise BadInput(f"{path}: entry {name!r}, field 'format': {given!r}; {nearest(given, FORMATS)}")
    return FORMATS[given]


def read_cards(path: Path | None = None) -> dict[str, Card]:
    """All cards by name; raises `BadInput` naming file, entry and field of the first that is wrong."""
    return _read(path or registry_path())[0]


def read_aliases(path: Path | None = None) -> dict[str, Alias]:
    """The other names that cards go by."""
    return _read(path or registry_path())[1]


def is_card(name: str) -> bool:
    """Whether `find_card` would find it."""
    cards, aliases = _read(registry_path())
    return name in cards or name in aliases


def find_card(name: str) -> tuple[str, Card]:
    """The card of a model with its own name, whichever name was given; an unknown one meets the nearest known ones."""
    cards, aliases = _read(registry_path())
    own = aliases[name].alias if name in aliases else name
    if own not in cards and name in ARCHITECTURES:
        raise BadInput(f"{name!r} is an architecture without weights; train it first: satbench train --model {name}")
    if own not in cards:
        raise BadInput(f"unknown model {name!r}; {nearest(name, [*cards, *aliases, *ARCHITECTURES])}")
    return own, cards[own]


def released_card(name: str) -> tuple[str, ReleasedCard]:
    """Like `find_card`, for what can be fetched."""
    own, card = find_card(name)
    if not isinstance(card, ReleasedCard):
        raise BadInput(f"{own} comes with satbench, there is nothing to fetch or import; use it as it is")
    return own, card


__all__ = ["Card", "PackagedCard", "ReleasedCard", "find_card", "read_aliases", "read_cards", "released_card"]
