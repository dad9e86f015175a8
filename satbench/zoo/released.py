"""The released checkpoints: from a card to a converted weights file in the cache, fetching only what is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satbench.errors import BadInput
from satbench.models import empty_model
from satbench.models.weights import Conversion, load_model_file, model_digest, read_origin, save_model
from satbench.progress import Progress, silent
from satbench.results.store import atomic_file
from satbench.zoo import cache
from satbench.zoo.card import Card, PackagedCard, ReleasedCard
from satbench.zoo.convert import CONVERTER, Converted, convert
from satbench.zoo.fetch import fetch, sha256_file
from satbench.zoo.tf_bundle import Bundle

ABSENT = "no"


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint on disk. pinned: whether its digests were unknown and are now in the lock file."""

    path: Path
    converted: Converted
    pinned: bool


def obtain(name: str, card: ReleasedCard, progress: Progress = silent) -> Path:
    """The converted weights of `name`; fetches, checks, pins and converts what the cache lacks.

    Raises `BadInput` when bytes do not hash to what the card states or the lock file has pinned.
    """
    path = cache.converted(name)
    if is_current(name, card, path):
        return path
    with cache.locked(name):
        if is_current(name, card, path):  # another process was at it
            return path
        return import_checkpoint(name, card, fetch(name, card.release, card.files, progress)).path


def import_checkpoint(
    name: str, card: ReleasedCard, prefix: Path, out: Path | None = None, ema: str = "auto"
) -> Imported:
    """Convert the checkpoint at `prefix` into the cache, or into `out`, after its digests are matched or pinned.

    `ema` is as for `convert`; whatever differs from the card needs an `out`, for it is another network.
    """
    if ema != "auto" and (ema == "on") != (card.variables == "averaged") and out is None:
        raise BadInput(
            f"--ema {ema} makes another network than {name}, whose variables are {card.variables}; add --out"
        )
    path = out or cache.converted(name)
    if path.suffix != ".safetensors":
        raise BadInput(f"--out {path}: weights are saved as safetensors; give a name that ends in .safetensors")
    with Bundle(prefix) as bundle:
        digests = source_digests(card, bundle)
        pinned = cache.check_or_pin(name, digests, card.stated_digests)
        converted = convert_card(card, bundle, ema)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_model(temporary, converted.model, _conversion(name, card, digests, converted))
    return Imported(path, converted, pinned)


def convert_card(card: ReleasedCard, bundle: Bundle, ema: str = "auto") -> Converted:
    """The network of a card with the weights of `bundle`."""
    return convert(bundle, empty_model(card.spec), card.channel_order, card.scope, card.variables == "averaged", ema)


def source_digests(card: ReleasedCard, bundle: Bundle) -> dict[str, str]:
    """SHA-256 of the checkpoint's files, under the names that the release gives them."""
    return {card.release + file.name[len(bundle.files[0].stem) :]: sha256_file(file) for file in bundle.files}


def known_digests(name: str, card: ReleasedCard) -> dict[str, str] | None:
    """What the card states, or else what was pinned at the first use; None before that."""
    return card.stated_digests or cache.pinned(name) or None


def is_release(conversion: Conversion, name: str, card: ReleasedCard) -> bool:
    """Whether converted weights are exactly those that the card describes."""
    described = (name, known_digests(name, card), CONVERTER, card.variables == "averaged")
    return (conversion.card, conversion.sources, conversion.converter, conversion.averaged) == described


def is_current(name: str, card: ReleasedCard, path: Path) -> bool:
    """Whether `path` holds the card's network as this converter makes it."""
    if not path.is_file():
        return False
    origin = read_origin(path)
    return isinstance(origin, Conversion) and is_release(origin, name, card)


def faults(name: str, card: Card) -> list[str]:
    """What is wrong with the files of a model, one line each.

    Sources are hashed again; a converted network is checked against its digest and its probe logits.
    """
    if isinstance(card, PackagedCard):
        return _fault(card.checked_path)
    known, found = known_digests(name, card), []
    for file in card.files:
        path = cache.folder(name) / file
        if known is not None and path.is_file() and sha256_file(path) != known.get(file):
            found.append(f"{path} has not the SHA-256 {known.get(file)}; delete it and fetch it again")
    path = cache.converted(name)
    if path.is_file():
        found += _fault(lambda: load_model_file(path))
        if not found and not is_current(name, card, path):
            found.append(f"{path} was converted from other files or by another satbench; delete it and import again")
    return found


def _fault(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except BadInput as error:
        return [str(error)]
    return []


def state(name: str, card: Card) -> str:
    """What of a model is on this machine: "packaged", "converted", "fetched", or `ABSENT`."""
    if isinstance(card, PackagedCard):
        return "packaged"
    if cache.converted(name).is_file():
        return "converted"
    return "fetched" if all((cache.folder(name) / file).is_file() for file in card.files) else ABSENT


def _conversion(name: str, card: ReleasedCard, digests: dict[str, str], converted: Converted) -> Conversion:
    return Conversion(
        card=name,
        threat=card.trained_for.threat(),
        dataset=card.dataset,
        loader=card.loader,
        sources=digests,
        converter=CONVERTER,
        averaged=converted.averaged,
        ignored=len(converted.ignored),
        digest=model_digest(converted.model),
    )
