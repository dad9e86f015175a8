"""The released checkpoints: from a card to a converted weights file in the cache, fetching only what is missing."""

import glob
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.files import atomic_file, check_output_file
from satbench.core.home import home
from satbench.core.progress import Progress, silent
from satbench.models import Classifier, ModelSpec, empty_model
from satbench.models.weights import (
    Conversion,
    Provenance,
    is_of_satbench,
    load_model_file,
    model_digest,
    read_header,
    save_model,
)
from satbench.zoo import cache
from satbench.zoo.card import Card, ReleasedCard
from satbench.zoo.convert import CONVERTER, Converted, convert
from satbench.zoo.fetch import fetch, sha256_file
from satbench.zoo.registry import read_cards
from satbench.zoo.tf_bundle import Bundle
from satbench.zoo.tf_graph import activation_of
from satbench.zoo.weights_file import announce_download, checked_weights


@dataclass(frozen=True)
class Imported:
    """A converted checkpoint, the file that holds it now, and whether its graph was there to be checked."""

    path: Path
    converted: Converted
    has_graph: bool


def obtain(name: str, card: ReleasedCard, progress: Progress = silent, damaged: Path | None = None) -> Path:
    """The converted weights of `name`; fetches, checks, converts and pins what the caches lack.

    `damaged` is a conversion that is not to be used; it is made again. Source files that are not those a card states,
    because it was changed, are fetched again. Raises `BadInput` when bytes do not hash to what the card states or the
    lock file has pinned, or are no checkpoint of this network; the files are then set aside, so that the next call
    fetches them anew.
    """
    path = current(name, card, damaged)
    if path is not None:
        return path
    known_digests(name, card)  # a damaged lock file or a wrong card is no fault of the files
    _network(card)
    with cache.locked(name):
        if damaged == cache.converted(name):
            damaged.unlink(missing_ok=True)
        path = current(name, card, damaged)
        if path is not None:  # another process was at it
            return path
        prefix = _sources(name, card, progress)
        try:
            path = import_checkpoint(name, card, prefix).path
        except BadInput as error:
            if prefix.parent != cache.folder(name):  # of a shared cache
                raise
            _set_aside(name, card.files)
            raise BadInput(
                f"{error} (set aside as {cache.folder(name)}/*.rejected; the next fetch starts anew)"
            ) from None
        for rest in leftovers(name):
            rest.unlink()
    return path


def _sources(name: str, card: ReleasedCard, progress: Progress) -> Path:
    """The prefix of the released files, in a shared cache or in the user's own, to which missing ones are fetched."""
    for folder in (one / "checkpoints" / name for one in cache.caches()):
        if all((folder / file).is_file() for file in card.files):
            stated = card.stated_digests or {}
            if all(sha256_file(folder / file) == digest for file, digest in stated.items()):
                return folder / card.release
    outdated = [
        file
        for file, digest in (card.stated_digests or {}).items()
        if (cache.folder(name) / file).is_file() and sha256_file(cache.folder(name) / file) != digest
    ]
    if outdated:
        _set_aside(name, outdated)
        sys.stderr.write(f"satbench: {name}: {', '.join(outdated)} are not what its card states now; fetching again\n")
    announce_download(name, card)
    return fetch(name, card.release, card.files, progress, known_digests(name, card))


def _set_aside(name: str, files: Iterable[str]) -> None:
    for file in files:
        source = cache.folder(name) / file
        if source.is_file():
            source.replace(source.with_name(f"{file}.rejected"))


def load_released(name: str, card: ReleasedCard, progress: Progress = silent) -> tuple[Path, Classifier, Conversion]:
    """The converted file of `name` and what it holds; a file that fails its check is converted again."""
    path = obtain(name, card, progress)
    try:
        model, origin = load_model_file(path)
    except BadInput as error:
        sys.stderr.write(f"satbench: {error}; converting it again\n")
        path = obtain(name, card, progress, damaged=path)
        model, origin = load_model_file(path)
    assert isinstance(origin, Conversion)  # `current` has checked it
    return path, model, origin


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
    if out is not None and out.exists() and not _is_replaceable(out):
        raise BadInput(f"--out {out} is there, and satbench did not write it; give another name, or delete it first")
    check_output_file(path)
    _check_release(name, card, prefix)
    with Bundle(prefix) as bundle:
        digests = source_digests(card, bundle)
        _check_stated(name, digests)
        cache.check(name, digests, card.stated_digests)
        converted = convert_card(card, bundle, ema)
        for ignored in converted.ignored:  # so that every byte is checked before its digest is pinned
            bundle.check(ignored)
            bundle.release(ignored)
        has_graph = _graph_of(bundle).is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        save_model(temporary, converted.model, _conversion(name, card, digests, converted))
    if out is None and cache.pin(name, digests, card.stated_digests):
        where = home() / cache.PINS
        sys.stderr.write(
            f"satbench: {name}: digests were unknown and are pinned now in {where}: {', '.join(digests)}\n"
        )
    return Imported(path, converted, has_graph)


def _is_replaceable(path: Path) -> bool:
    try:
        return path.is_file() and is_of_satbench(path)
    except BadInput:
        return False


def _check_release(name: str, card: ReleasedCard, prefix: Path) -> None:
    """Refuse files that bear the name of another card's release."""
    release = prefix.name.removesuffix(".index")
    for other, known in read_cards().items():
        if isinstance(known, ReleasedCard) and known.release == release != card.release:
            raise BadInput(
                f"{prefix} is called as the release of {other} is, not {name}'s, {card.release}; import it as {other}, "
                "or rename its files if they are misnamed"
            )


def _check_stated(name: str, digests: Mapping[str, str]) -> None:
    """Refuse bytes that another card states as its own."""
    for other, known in read_cards().items():
        stated = (known.stated_digests or {}).values() if isinstance(known, ReleasedCard) and other != name else ()
        for file in (file for file, digest in digests.items() if digest in stated):
            raise BadInput(f"{name}: {file} is a file of {other}, whose card states its SHA-256; import it as {other}")


def convert_card(card: ReleasedCard, bundle: Bundle, ema: str = "auto") -> Converted:
    """The network of a card with the weights of `bundle`.

    Raises `BadInput` as `convert` does, and where the checkpoint's graph, if it lies beside it, computes another
    activation than the card names: networks that differ in nothing else have equal variables.
    """
    meta = _graph_of(bundle)
    found = activation_of(meta) if meta.is_file() else None
    if found not in (None, card.activation):
        others = [
            other
            for other, known in read_cards().items()
            if isinstance(known, ReleasedCard) and (known.architecture, known.activation) == (card.architecture, found)
        ]
        belongs = f"; it is the graph of {' or '.join(others)}" if others else ""
        raise BadInput(f"{meta} computes {found}, but the card says {card.activation}{belongs}")
    return convert(bundle, _network(card), card.channel_order, card.scope, card.variables == "averaged", ema)


def _graph_of(bundle: Bundle) -> Path:
    return bundle.files[0].with_suffix(".meta")


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


def current(name: str, card: ReleasedCard, damaged: Path | None = None) -> Path | None:
    """The converted file of `name` that can be used, in the user's own cache or a shared one, but not `damaged`."""
    files = [one / cache.converted(name).relative_to(home()) for one in cache.caches()]
    return next((file for file in files if file != damaged and is_current(name, card, file)), None)


def leftovers(name: str) -> list[Path]:
    """What killed or failed commands have left of `name` in the user's own cache; for whoever has its lock."""
    folder, converted = cache.folder(name), cache.converted(name)
    partial = re.compile(r".+\.([0-9a-f]{8}(.*\.part)?|rejected|new)")
    found = [path for path in folder.glob("**/*") if path.is_file() and partial.fullmatch(path.name)]
    return sorted([*found, *converted.parent.glob(f".{glob.escape(converted.name)}.*")])


def faults(name: str, card: Card) -> list[str]:
    """What is wrong with the files of a model, one line each.

    Sources are hashed again; a converted network is checked against its digest and its probe logits.
    """
    if not isinstance(card, ReleasedCard):
        return _fault(lambda: checked_weights(name, card))
    known, found = known_digests(name, card), []
    for file in card.files:
        path = cache.found(cache.folder(name) / file)
        if known is not None and path.is_file() and sha256_file(path) != known.get(file):
            expected = f"the SHA-256 {known[file]}" if file in known else f"a digest in {home() / cache.PINS}"
            found.append(f"{path} has not {expected}; delete it and fetch it again")
    path = cache.found(cache.converted(name))
    again = f"`satbench models pull {name}` makes it"
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
