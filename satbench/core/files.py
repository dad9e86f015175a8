"""Files written whole or not at all, and the folders that commands write to."""

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from satbench.core.errors import BadInput

FULL = 1 << 16  # bytes; a disk with fewer is full


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    Whatever the block raises because the disk is full becomes an OSError that names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except Exception as error:
        if _is_full(path.parent, error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
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
    check_folder_name(out)
    for place in (out, *out.parents):
        if place.is_file():
            raise BadInput(f"--out {out}: {place} is a file; give a folder")
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else set()
    if not names & set(markers) and any(not name.startswith(".") for name in names):
        raise BadInput(f"--out {out} is not empty and holds no {markers[0]}; give a new folder")


def check_folder_name(out: Path) -> None:
    """Refuse a path that begins as a URL does, such as s3:/x; exp:1 is a name."""
    if len(out.parts) > 1 and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", out.parts[0]):
        raise BadInput(f"--out {out} begins as a URL does, and a folder is expected; only a study can be at a URL")


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether the error says that the disk is full, or it is: the errors of some packages do not say."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return shutil.disk_usage(folder).free < FULL


def file_digest(path: Path) -> str:
    """SHA-256 of a file, or "absent"."""
    if not path.is_file():
        return "absent"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
