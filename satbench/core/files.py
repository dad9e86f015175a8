"""Files written whole or not at all, and the folders that commands write to."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satbench.core.errors import BadInput


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with line feeds on every platform."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)


def to_json(value: object) -> str:
    """JSON as this project stores it: indented, in the given key order, ending in a line feed."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def check_output_folder(out: Path, *markers: str) -> None:
    """Refuse, before any work, an output path that is no folder, or a full folder with none of the files `markers`.

    Left-over temporary files of `atomic_file` do not count.
    """
    for place in (out, *out.parents):
        if place.is_file():
            raise BadInput(f"--out {out}: {place} is a file; give a folder")
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if not names & set(markers) and any(not name.startswith(".") for name in names):
        raise BadInput(f"--out {out} is not empty and holds no {markers[0]}; give a new folder")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or "absent"."""
    if not path.is_file():
        return "absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
