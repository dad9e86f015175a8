"""The folder of fetched and converted models: its layout, its locks, and the digests pinned on first use.

A group shares read-only folders of the same layout by `SATBENCH_SHARED`: what lies there is found, and pinned there is
pinned here; nothing is ever written to them.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import AfterValidator

from satbench.core.bounded import read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import check_output_file, to_json, write_text
from satbench.core.home import home, taken
from satbench.core.parsing import parsed

PINS = "zoo.lock"
SHARED = "SATBENCH_SHARED"


def _digest(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", text):
        raise BadInput(f"{text!r} is no SHA-256 and no commit")
    return text


Digest = Annotated[str, AfterValidator(_digest)]
Pins = dict[str, dict[str, Digest]]  # of each model, what its files were at the first use, or a revision's commit


def caches() -> list[Path]:
    """The user's own folder, then those that `SATBENCH_SHARED` names, separated as in PATH.

    Raises `BadInput` for one that is not there.
    """
    shared = [Path(os.path.expanduser(one)) for one in os.environ.get(SHARED, "").split(os.pathsep) if one.strip()]
    for one in shared:
        if not one.is_dir():
            raise BadInput(f"{SHARED}: {one} is no folder; give the SATBENCH_HOME of your group, or unset it")
    return [home(), *shared]


def found(path: Path) -> Path:
    """`path`, which is below `home()`, or the same file or folder of a shared cache where that alone has it."""
    relative = path.relative_to(home())
    return next((there for cache in caches() if (there := cache / relative).exists()), path)


def folder(name: str) -> Path:
    """Where the released files of card `name` lie."""
    return home() / "checkpoints" / name


def converted(name: str) -> Path:
    """Where the network of card `name` lies once converted."""
    return home() / "models" / f"{name}.safetensors"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time works on model `name`; the others say once on standard error that they wait.

    May be nested. A killed process leaves no lock behind.
    """
    lock = _lock(name)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        sys.stderr.write(f"satbench: another process works on {name}; waiting for it\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def free(name: str) -> Iterator[bool]:
    """Whether no other process works on model `name`; then none begins to until the block ends."""
    with taken(_lock(name)) as mine:
        yield mine


def pinned(name: str) -> dict[str, str]:
    """What is pinned of model `name`, here or in a shared cache; raises `BadInput` where a zoo.lock is damaged."""
    return read_pins().get(name, {})


def check(name: str, digests: Mapping[str, str], stated: Mapping[str, str] | None) -> None:
    """Hold the SHA-256 of each file of card `name` against what the card states, or else against what is pinned here.

    Raises `BadInput` at the first that differs, and when the bytes are pinned as another card's. Names with a colon
    are of other collections, which may hold the same bytes twice.
    """
    pins = read_pins()
    known = {**pins.get(name, {}), **(stated or {})}
    for file, found in digests.items():
        if known.get(file, found) != found:
            by = "its card says" if stated and file in stated else f"{home() / PINS} has pinned"
            raise BadInput(
                f"{name}: {file} has SHA-256 {found}, {by} {known[file]}; give or fetch the other file, or, if the "
                f"release itself has changed, take the entry {name!r} out of {home() / PINS}"
            )
        for other, files in pins.items():
            if other != name and ":" not in other and found in files.values():
                raise BadInput(
                    f"{name}: {file} has the SHA-256 that is pinned for {other}; give {name}'s own checkpoint"
                )


def pin(name: str, digests: Mapping[str, str], stated: Mapping[str, str] | None) -> bool:
    """Pin what neither the card states nor is pinned yet, after `check`; returns whether there was anything."""
    with _lock(PINS):
        check(name, digests, stated)
        known = {**pinned(name), **(stated or {})}
        new = {file: found for file, found in digests.items() if file not in known}
        if new:
            pins = _pins_of(home())
            _write(pins | {name: {**pins.get(name, {}), **new}})
    return bool(new)


def export_pins(out: Path) -> int:
    """Write all pins to a file for `import_pins`; returns of how many models.

    Raises `BadInput` for a path that is there and is no such file.
    """
    check_output_file(out, "OUT")
    if out.exists():
        _read(out, "it would be overwritten; give a new file")
    pins = read_pins()
    write_text(out, pins_text(pins))
    return len(pins)


def import_pins(source: Path) -> int:
    """Add the pins of a file that `satbench models pins export` wrote; returns how many were new.

    Raises `BadInput`, and adds none, where the file is no such file or one of them differs from what is pinned here.
    """
    if not source.is_file():
        raise BadInput(f"no such file: {source}; give one that `satbench models pins export` wrote")
    given = _read(source, "give a file that `satbench models pins export` wrote")
    with _lock(PINS):
        known, own = read_pins(), _pins_of(home())
        merged = _merged(known, given, f"{source}")
        new = {
            name: {file: digest for file, digest in files.items() if file not in known.get(name, {})}
            for name, files in merged.items()
        }
        _write({name: {**own.get(name, {}), **new.get(name, {})} for name in own.keys() | new.keys()})
    return sum(len(files) for files in new.values())


def read_pins() -> Pins:
    """All pins, of the user's own folder and of the shared ones; raises `BadInput` where two differ."""
    pins: Pins = {}
    for cache in caches():
        pins = _merged(pins, _pins_of(cache), str(cache / PINS))
    return pins


def _merged(pins: Pins, more: Pins, source: str) -> Pins:
    for name, files in more.items():
        for file, digest in files.items():
            known = pins.get(name, {}).get(file, digest)
            if known != digest:
                raise BadInput(
                    f"{source}: {name}, {file} is pinned as {digest}, elsewhere as {known}; find out which one is the "
                    f"release's, and take the other out of its {PINS}"
                )
    return {name: {**pins.get(name, {}), **more.get(name, {})} for name in pins.keys() | more.keys()}


def _pins_of(cache: Path) -> Pins:
    path = cache / PINS
    if not path.exists():
        return {}
    advice = "restore the SHA-256 of each file by model, or delete it to pin anew"
    return _read(path, advice)


def _read(path: Path, advice: str) -> Pins:
    return parsed(Pins, read_bounded(path), str(path), advice)


def _write(pins: Pins) -> None:
    write_text(home() / PINS, pins_text(pins))


def pins_text(pins: Pins) -> str:
    """Pins as zoo.lock holds them, sorted."""
    return to_json({name: dict(sorted(pins[name].items())) for name in sorted(pins) if pins[name]})


def _lock(name: str) -> FileLock:
    path = home() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, is_singleton=True)
