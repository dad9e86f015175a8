"""Which networks have names: the registry that comes with satbench, those of installed packages, and the user's own."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urljoin

from satbench.core.bounded import check_plain
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.names import check_name
from satbench.core.parsing import parsed
from satbench.core.strict_yaml import PACKAGE, read_mapping, shipped
from satbench.core.tables import ARCHITECTURES
from satbench.specs.names import GROUP, REGISTRY, SEPARATOR, VARIABLE
from satbench.zoo.card import FORMATS, Alias, Card, ReleasedCard, SatbenchCard, StateDictCard
from satbench.zoo.remote import is_url, text_file


@dataclass(frozen=True)
class Entry:
    """A card or an alias and the registry that holds it: a path or a URL."""

    card: Card | Alias
    registry: str


def registry_path() -> Path:
    """The registry inside an installed package, or at the top of a checkout."""
    return shipped(REGISTRY)


def read_registry(path: Path, base: str | None = None) -> dict[str, Card | Alias]:
    """The entries of one registry file; relative `weights` are below `base`, by default the folder of the file.

    Raises `BadInput` naming file, entry and field of the first that is wrong.
    """
    stat = path.stat() if path.is_file() else None
    stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino) if stat else None
    return dict(_parsed(path, base or f"{path.parent.absolute()}/", stamp))


def entries() -> dict[str, Entry]:
    """Every name that is known, with its card.

    `SATBENCH_ZOO`, which --zoo extends, names files and URLs, separated by ";"; an earlier one wins over a later one,
    and all of them win over the registry of satbench. Entry points of the group "satbench.zoo" add names and never
    replace one: `BadInput` tells which package tried.
    """
    found = {name: Entry(card, str(registry_path())) for name, card in _own().items()}
    for distribution, path in _packages():
        for name, card in read_registry(path).items():
            if name in found:
                raise BadInput(
                    f"the package {distribution} names a network {name!r}, which {found[name].registry} has already; "
                    "uninstall it, or ask its authors for another name"
                )
            found[name] = Entry(card, str(path))
    for source in reversed([one.strip() for one in os.environ.get(VARIABLE, "").split(SEPARATOR) if one.strip()]):
        found |= {name: Entry(card, source) for name, card in _given(source).items()}
    return _with_cards_of_aliases(found)


def read_cards(path: Path | None = None) -> dict[str, Card]:
    """All cards by name, or those of one registry file."""
    known = entries()
    if path is not None:
        known = _with_cards_of_aliases({name: Entry(card, str(path)) for name, card in read_registry(path).items()})
    return {name: entry.card for name, entry in known.items() if not isinstance(entry.card, Alias)}


def read_aliases() -> dict[str, Alias]:
    """The other names that cards go by."""
    return {name: entry.card for name, entry in entries().items() if isinstance(entry.card, Alias)}


def is_card(name: str) -> bool:
    """Whether `find_card` would find it."""
    return name in entries()


def find_card(name: str) -> tuple[str, Card]:
    """The card of a model with its own name, whichever name was given; an unknown one meets the nearest known ones."""
    known = entries()
    card = known[name].card if name in known else None
    if isinstance(card, Alias):
        name, card = card.alias, known[card.alias].card
    if card is None and name in ARCHITECTURES:
        raise BadInput(f"{name!r} is an architecture without weights; train it first: satbench train --model {name}")
    if card is None:
        raise BadInput(f"unknown model {name!r}; {nearest(name, [*known, *ARCHITECTURES])}")
    assert not isinstance(card, Alias)  # `entries` has checked it
    return name, card


def matching(pattern: str) -> dict[str, Card]:
    """The card of that name, or all whose names fit a pattern such as "resnet50-*"; raises `BadInput` for none."""
    if not any(sign in pattern for sign in "*?["):
        return dict([find_card(pattern)])
    found = {name: card for name, card in read_cards().items() if fnmatchcase(name, pattern)}
    if not found:
        raise BadInput(f"no model fits {pattern!r}; `satbench models list` shows all")
    return found


def released_card(name: str) -> tuple[str, ReleasedCard]:
    """Like `find_card`, for what can be imported."""
    own, card = find_card(name)
    if not isinstance(card, ReleasedCard):
        raise BadInput(f"{own} is a weights file already, there is nothing to import; use it as it is")
    return own, card


def _own() -> dict[str, Card | Alias]:
    return read_registry(registry_path(), f"{PACKAGE}/")


def _packages() -> Iterator[tuple[str, Path]]:
    """The registries of installed packages, none of which is imported."""
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        distribution = point.dist.name if point.dist else point.name
        top, *inner = point.value.split(".")
        package = find_spec(top)
        folders = (package.submodule_search_locations or []) if package else []
        path = next((path for one in folders if (path := Path(one, *inner, REGISTRY)).is_file()), None)
        if path is None:
            raise BadInput(
                f"the package {distribution} has an entry point {point.name!r} of the group {GROUP!r}, but no "
                f"{REGISTRY} in the folder of {point.value}; uninstall or correct it"
            )
        yield distribution, path


def _given(source: str) -> dict[str, Card | Alias]:
    """A registry of the user's own: a file or a URL, of which a digest may be given as #sha256=HEX."""
    if is_url(source):
        path, base = text_file(source)
        return read_registry(path, base)
    path = Path(os.path.expanduser(source))
    check_plain(path)
    if not path.is_file():
        raise BadInput(f"{VARIABLE} or --zoo {source}: no such file; give a registry file such as {REGISTRY} or a URL")
    return read_registry(path)


def _with_cards_of_aliases(found: dict[str, Entry]) -> dict[str, Entry]:
    """Raises `BadInput` for an alias of what is no card."""
    for name, entry in found.items():
        target = entry.card.alias if isinstance(entry.card, Alias) else name
        if target not in found or (target != name and isinstance(found[target].card, Alias)):
            raise BadInput(f"{entry.registry}: entry {name!r}, field 'alias': {target!r} is no card")
    return found


@lru_cache(maxsize=16)
def _parsed(path: Path, base: str, stamp: object) -> tuple[tuple[str, Card | Alias], ...]:
    """`stamp` tells that the file has changed since."""
    found: list[tuple[str, Card | Alias]] = []
    for name, entry in read_mapping(path).items():
        where = f"{path}: entry {name!r}"
        check_name(name, f"{path}: entry")
        if isinstance(entry, dict) and "alias" in entry:
            found.append((name, parsed(Alias, entry, where)))
            continue
        card: Card = parsed(_schema(where, entry), entry, where)
        if isinstance(card, SatbenchCard | StateDictCard):
            card = card.model_copy(update={"weights": _resolved(where, base, card.weights)})
        found.append((name, card))
    return tuple(found)


def _schema(where: str, entry: object) -> type[SatbenchCard] | type[StateDictCard] | type[ReleasedCard]:
    given = entry.get("format", "safetensors") if isinstance(entry, dict) else "safetensors"
    if given not in FORMATS:
        raise BadInput(f"{where}, field 'format': {given!r}; {nearest(given, FORMATS)}")
    return FORMATS[given]


def _resolved(where: str, base: str, weights: str) -> str:
    """Where a card's weights are; a registry on the web names no file of this machine."""
    if not is_url(base):
        return weights if is_url(weights) else os.path.join(base, os.path.expanduser(weights))
    found = urljoin(base, weights)
    if not is_url(found):
        raise BadInput(f"{where}, field 'weights': {weights!r} is no URL; give one, or a path relative to {base}")
    return found
