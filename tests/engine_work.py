"""What the workers of tests/test_engines.py do: numbered pieces of a folder, each claimed by a file lock."""

import hashlib
import os
import time
from pathlib import Path

from filelock import FileLock, Timeout

from satbench.core.errors import BadInput
from satbench.core.files import write_text


def work(folder: str, pieces: int, seconds: float = 0.0) -> None:
    """Compute the pieces that nobody else computes, until all are there."""
    while missing := unfinished(folder, pieces):
        for piece in missing:
            lock = FileLock(Path(folder, f".{piece}.lock"))
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            with lock:
                if not Path(folder, str(piece)).exists():
                    time.sleep(seconds)
                    write_text(Path(folder, str(piece)), hashlib.sha256(str(piece).encode()).hexdigest())
        time.sleep(0.05)


def unfinished(folder: str | Path, pieces: int) -> list[int]:
    return [piece for piece in range(pieces) if not Path(folder, str(piece)).exists()]


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Every file but the hidden ones."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith(".")}


def note_pid(folder: str, pieces: int, seconds: float) -> None:
    """As `work`, and leave a file that names this process."""
    Path(folder, f".pid-{os.getpid()}").touch()
    work(folder, pieces, seconds)


def refuse(folder: str) -> None:
    raise BadInput("the recipe nope does not exist; give another")


def fail(folder: str) -> None:
    raise KeyError("a mistake in the code")


def nothing(folder: str) -> None:
    """Return while work is left."""


def other_software() -> dict[str, str]:
    """Differs in each process."""
    return {"satbench": "0.1.0", "revision": str(os.getpid())}
