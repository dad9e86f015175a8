"""Networks whose card names one weights file: it must have the digest on the card before it is read."""

import sys
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.offline import is_offline
from satbench.core.plugins import check_allowed
from satbench.core.progress import Progress, silent
from satbench.models import Classifier, build_model, own_code
from satbench.models.weights import load_strictly, read_weights
from satbench.zoo.card import Card, FileCard, ReleasedCard, StateDictCard
from satbench.zoo.fetch import fetch_url, sha256_file
from satbench.zoo.local import is_packaged, weights_path
from satbench.zoo.remote import is_url


def checked_weights(name: str, card: FileCard) -> Path:
    """The card's weights file on this machine; raises `BadInput` unless it hashes to the card's digest."""
    path = weights_path(name, card)
    again = "install satbench again" if is_packaged(path) else "restore it, or correct its card"
    if not path.is_file():
        raise BadInput(f"the weights {path} are missing; {again}")
    found = sha256_file(path)
    if found != card.sha256:
        raise BadInput(f"{path} has SHA-256 {found}, its card says {card.sha256}; {again}")
    return path


def obtain_weights(name: str, card: FileCard, progress: Progress = silent) -> Path:
    """Like `checked_weights`; weights at a URL are downloaded where the caches lack them."""
    if is_url(card.weights) and not weights_path(name, card).is_file():
        announce_download(name, card)
        fetch_url(name, card.weights, card.sha256, progress, card.size)
    return checked_weights(name, card)


def build(card: StateDictCard, path: Path) -> Classifier:
    """The network of a card with the weights of a plain state dict, in eval mode.

    Raises `BadInput` where the weights do not fit it, where it has other parameters than the card says, and where the
    card names code that the user did not allow.
    """
    for name in own_code(card.spec):
        check_allowed(name, f"the card of {path}")
    model = build_model(card.spec)
    load_strictly(model.net, read_weights(path), path)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != card.parameters:
        raise BadInput(f"the card says {card.parameters} parameters, but {path} has {count}; correct the card")
    return model.eval()


def download_size(card: Card) -> int | None:
    """How many bytes a download takes, at least; None where the card does not tell."""
    if isinstance(card, ReleasedCard):
        return 4 * card.parameters  # float32; optimizers' variables may come with it
    return card.size


def announce_download(name: str, card: Card) -> None:
    """Tell on stderr what a download will take, and under which licence; nothing is told, nor downloaded, offline."""
    if is_offline():
        return
    size = download_size(card)
    least = "at least " if isinstance(card, ReleasedCard) else ""
    told = f"{least}{size_words(size)}" if size else "an unknown size"
    sys.stderr.write(f"satbench: {name}: downloading {told}; licence: {card.licence}\n")


def size_words(size: int) -> str:
    """A number of bytes in MB, or in kB where it is less than one."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
