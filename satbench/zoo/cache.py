"""The folder of fetched and converted models: its layout, its locks, and the digests pinned on first use."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from satbench.core.errors import BadInput
from satbench.core.files import to_json, write_text
from satbench.core.home import home
from satbench.core.parsing import parsed

PINS = "zoo.lock"


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


def pinned(name: str) -> dict[str, str]:
    """SHA-256 of each file of card `name` as first met on this machine; raises `BadInput` when zoo.lock is damaged."""
    return _read_pins().get(name, {})


def check(name: str, digests: Mapping[str, str], stated: Mapping[str, str] | None) -> None:
    """Hold the SHA-256 of each file of card `name` against what the card states, or else against what is pinned here.

    Raises `BadInput` at the first that differs, and when the bytes are pinned as another card's. Names with a colon
    are of other collections, which may hold the same bytes twice.
    """
    pins = _read_pins()
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
        pins = _read_pins()
        known = {**pins.get(name, {}), **(stated or {})}
        new = {file: found for file, found in digests.items() if file not in known}
        if new:
            pins[name] = {**pins.get(name, {}), **new}
            write_text(home() / PINS, to_json({key: dict(sorted(pins[key].items())) for key in sorted(pins)}))
    return bool(new)


def _lock(name: str) -> FileLock:
    path = home() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, is_singleton=True)


def _read_pins() -> dict[str, dict[str, str]]:
    path = home() / PINS
    if not path.exists():
        return {}
    advice = "restore the SHA-256 of each file by model, or delete it to pin anew"
    return parsed(dict[str, dict[str, str]], path.read_bytes(), str(path), advice)
