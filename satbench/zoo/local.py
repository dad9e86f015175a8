"""What of the registry's networks is on this machine; nothing is read but names of files, and torch is not needed."""

from pathlib import Path

from satbench.core.strict_yaml import PACKAGE
from satbench.zoo import cache
from satbench.zoo.card import Card, FileCard, ReleasedCard
from satbench.zoo.fetch import url_target
from satbench.zoo.remote import is_url

ABSENT = "no"


def state(name: str, card: Card) -> str:
    """What of a model is on this machine: "packaged", "file", "converted", "fetched", or `ABSENT`."""
    if not isinstance(card, ReleasedCard):
        return _file_state(weights_path(name, card), is_url(card.weights))
    if cache.found(cache.converted(name)).is_file():
        return "converted"
    files = [cache.found(cache.folder(name) / file) for file in card.files]
    return "fetched" if all(file.is_file() for file in files) else ABSENT


def weights_path(name: str, card: FileCard) -> Path:
    """Where the card's weights are, or would be once they are downloaded."""
    if is_url(card.weights):
        return cache.found(url_target(name, card.weights, card.sha256))
    return Path(card.weights)


def is_packaged(path: Path) -> bool:
    """Whether the file came with satbench."""
    return path.is_relative_to(PACKAGE)


def _file_state(path: Path, is_remote: bool) -> str:
    if not path.is_file():
        return ABSENT
    if is_packaged(path):
        return "packaged"
    return "fetched" if is_remote else "file"
