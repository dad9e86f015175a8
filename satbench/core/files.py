"""Files written whole or not at all, and the folders that commands write to."""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
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


def check_output_folder(out: Path, *markers: str, option: str = "--out") -> None:
    """Refuse, before any work, a path that cannot be a folder, or a non-empty folder with none of the files `markers`.

    Hidden files do not count, such as left-over temporary files of `atomic_file`. `option` begins the message.
    """
    if any((out / marker).exists() for marker in markers):
        return
    check_output_path(out, option)
    if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        lacks = f" and holds no {markers[0]}" if markers else ""
        raise BadInput(f"{option} {out} is not empty{lacks}; give a new folder")


def check_output_file(out: Path, option: str = "--out") -> None:
    """Refuse, before any work, a path that cannot be a plain file."""
    if out.exists() and not out.is_file():
        raise BadInput(f"{option} {out} is not a plain file; give the name of a file")
    check_output_path(out.parent, option)


def check_output_path(out: Path, option: str = "--out") -> None:
    """Refuse a path that cannot be a folder to write to: a URL such as s3:/x, no UTF-8, a file. exp:1 is a name."""
    if len(out.parts) > 1 and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", out.parts[0]):
        raise BadInput(f"{option} {out} begins as a URL does, and a folder is expected; only a study can be at a URL")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise BadInput(f"{option} {out} is not UTF-8; give another name") from None
    for path in (out, *out.parents):
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadInput(f"{option} {out}: {error.strerror}; give another folder") from None
        if not is_folder:
            raise BadInput(f"{option} {out}: {path} is a file; give a folder")
        try:
            tempfile.TemporaryFile(dir=path).close()  # permissions do not tell: root has all, and /proc takes no file
        except OSError:
            raise BadInput(f"{option} {out}: {path} cannot be written to; give another folder") from None
        return


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
