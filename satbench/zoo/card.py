"""The registry file: one typed card a model."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from satbench.errors import BadInput
from satbench.lookup import nearest
from satbench.models import ARCHITECTURES

PACKAGE = Path(__file__).resolve().parents[1]
REGISTRY = "model_zoo.yaml"


class TrainedFor(BaseModel):
    """The threat of the training recipe; `eps` is spelled as on a command line."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: str
    eps: str


class Card(BaseModel):
    """One entry of `model_zoo.yaml`: where the weights lie, what they must hash to, and what they were made for.

    `weights` is relative to the package; the architecture and the data set are in the weights file itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str
    architecture: str
    activation: str
    dataset: str
    recipe: str
    method: str
    seed: int
    trained_for: TrainedFor
    parameters: int = Field(gt=0)
    weights: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    licence: str

    @property
    def path(self) -> Path:
        return PACKAGE / self.weights


class _UniqueKeys(yaml.SafeLoader):
    """Plain YAML that refuses a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = [key for position, key in enumerate(keys) if key in keys[:position]]
        if doubled:
            raise BadInput(f"{REGISTRY} has {doubled[0]!r} twice; remove one")
        return super().construct_mapping(node, deep)


def registry_path() -> Path:
    """The registry inside an installed package, or at the top of a checkout."""
    installed = PACKAGE / REGISTRY
    return installed if installed.is_file() else PACKAGE.parent / REGISTRY


def read_cards(path: Path | None = None) -> dict[str, Card]:
    """All cards by name; raises `BadInput` naming file, entry and field of the first that is wrong."""
    path = path or registry_path()
    try:
        raw: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read as YAML ({type(error).__name__}); restore it") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{path} holds a {type(raw).__name__}; expected a mapping from model names to cards")
    cards = {}
    for name, entry in raw.items():
        try:
            cards[str(name)] = Card.model_validate(entry)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the entry"
            raise BadInput(f"{path}: entry {name!r}, field {field!r}: {first['msg']}") from None
    return cards


def find_card(name: str) -> Card:
    """The card of a model; an unknown name is refused with the nearest known ones."""
    cards = read_cards()
    if name not in cards:
        raise BadInput(f"unknown model {name!r}; {nearest(name, [*cards, *ARCHITECTURES])}")
    return cards[name]
