"""The released checkpoints: from a card to a converted weights file in the cache, fetching only what is missing."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.files import atomic_file
from satbench.core.home import home
from satbench.core.progress import Progress, silent
from satbench.models import Classifier, ModelSpec, empty_model
from satbench.models.weights import Conversion, Provenance, load_model_file, model_digest, read_header, save_model
from satbench.zoo import cache
from satbench.zoo.card import Card, PackagedCard, ReleasedCard
from satbench.zoo.convert import CONVERTER, Converted, convert
from satbench.zoo.fetch import fetch, sha256_file
from satbench.zoo.tf_bundle import Bundle

ABSENT = "no"


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint, and the file that holds it now."""

    path: Path
    converted: Converted


def obtain(name: str, card: ReleasedCard, progress: Progress = silent) -> Path:
    """The converted weights of `name`; fetches, checks, converts and pins what the cache lacks.

    Raises `BadInput` when bytes do not hash to what the card states or the lock file has pinned, or are no checkpoint
    of this network; the files are then set aside, so that the next call fetches them anew.
    """
    path = cache.converted(name)
    if is_current(name, card, path):
        return path
    known_digests(name, card)  # a damaged lock file or a wrong card is no fault of the files
    _network(card)
    with cache.locked(name):
        if is_current(name, card, path):  # another process was at it
            return path
        prefix = fetch(name, card.release, card.files, progress)
        try:
            return import_checkpoint(name, card, prefix).path
        except BadInput as error:
            for file in card.files:
                source = cache.folder(name) / file
                source.replace(source.with_name(f"{file}.rejected"))
            raise BadInput(
                f"{error} (set aside as {cache.folder(name)}/*.rejected; the next fetch starts anew)"
            ) from None


def obtain_again_if_damaged(name: str, card: ReleasedCard, progress: Progress = silent) -> Path:
    """Like `obtain`; a converted file that fails its check is converted again."""
    path = obtain(name, card, progress)
    if _fault(lambda: load_model_file(path)):
        path.unlink()
        path = obtain(name, card, progress)
    return path


def import_checkpoint(
    name: str, card: ReleasedCard, prefix: Path, out: Path | None = None, ema: str = "auto"
) -> Imported:
    """Convert the checkpoint at `prefix` into the cache, or into `out`.

    Into the cache, digests that were unknown are pinned, with a line on standard error. `ema` is as for `convert`;
    whatever differs from the card needs an `out`, for it is another network.
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
        cache.check(name, digests, card.stated_digests)
        converted = convert_card(card, bundle, ema)
        for ignored in converted.ignored:  # so that every byte is checked before its digest is pinned
            bundle.check(ignored)
            bundle.release(ignored)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_model(temporary, converted.model, _conversion(name, card, digests, converted))
    if out is None and cache.pin(name, digests, card.stated_digests):
        where = home() / cache.PINS
        sys.stderr.write(
            f"satbench: {name}: digests were unknown and are pinned now in {where}: {', '.join(digests)}\n"
        )
    return Imported(path, converted)


def convert_card(card: ReleasedCard, bundle: Bundle, ema: str = "auto") -> Converted:
    """The network of a card with the weights of `bundle`."""
    return convert(bundle, _network(card), card.channel_order, card.scope, card.variables == "averaged", ema)


def _network(card: ReleasedCard) -> Classifier:
    """The card's network without weights; raises `BadInput` when it has other parameters than the card says."""
    model = empty_model(card.spec)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count != card.parameters:
        raise BadInput(
            f"the card says {card.parameters} parameters, but a {card.architecture} has {count}; correct the card"
        )
    return model


def source_digests(card: ReleasedCard, bundle: Bundle) -> dict[str, str]:
    """SHA-256 of the checkpoint's files, under the names that the release gives them."""
    return {card.release + file.name[len(bundle.files[0].stem) :]: sha256_file(file) for file in bundle.files}


def known_digests(name: str, card: ReleasedCard) -> dict[str, str] | None:
    """What the card states, or else what was pinned at the first use; None before that."""
    return card.stated_digests or cache.pinned(name) or None


def is_release(spec: ModelSpec, origin: Provenance | Conversion, name: str, card: ReleasedCard) -> bool:
    """Whether a converted file holds exactly the network that the card describes."""
    if not isinstance(origin, Conversion) or spec != card.spec:
        return False
    found = (origin.card, origin.sources, origin.converter, origin.averaged, origin.channel_order)
    wanted = (name, known_digests(name, card), CONVERTER, card.variables == "averaged", card.channel_order)
    told = (origin.threat, origin.dataset, origin.loader) == (card.trained_for, card.dataset, card.loader)
    return found == wanted and told


def is_current(name: str, card: ReleasedCard, path: Path) -> bool:
    """Whether `path` holds the card's network as this converter makes it."""
    if not path.is_file():
        return False
    try:
        spec, origin = read_header(path)
    except BadInput:
        return False
    return is_release(spec, origin, name, card)


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
            expected = f"the SHA-256 {known[file]}" if file in known else f"a digest in {home() / cache.PINS}"
            found.append(f"{path} has not {expected}; delete it and fetch it again")
    path = cache.converted(name)
    again = f"`satbench models fetch {name}` makes it"
    if not path.is_file():
        return [*found, f"{path} is not there; {again}"]
    found += _fault(lambda: load_model_file(path))
    if not found and not is_current(name, card, path):
        found.append(f"{path} is not what the card describes; {again} anew")
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
        threat=card.trained_for,
        dataset=card.dataset,
        loader=card.loader,
        channel_order=card.channel_order,
        sources=digests,
        converter=CONVERTER,
        averaged=converted.averaged,
        ignored=len(converted.ignored),
        digest=model_digest(converted.model),
    )
