"""Where satbench keeps what it fetches, and the lock of a run folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from satbench.core.errors import BadInput

HOME = "SATBENCH_HOME"
LOCK = ".lock"


def home() -> Path:
    """The folder that `SATBENCH_HOME` names, or else the user's cache folder. It need not exist yet."""
    named = os.environ.get(HOME)
    return Path(named).expanduser().absolute() if named else user_cache_path("satbench")


class Busy(BadInput):
    """Another process has the lock of a folder."""


@contextmanager
def alone_in(out: Path, command: str) -> Iterator[None]:
    """Lock the run folder `out`, which is created if missing; raises `Busy` when another process holds the lock.

    The operating system locks a hidden file inside the folder, so the lock holds for every machine and container that
    shares the folder, and it ends with its process, also when that is killed. The file stays, unless nothing
    else was written.
    """
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"--out {out}: another satbench {command} is at work there; wait, or give another folder") from None
    try:
        yield
    finally:
        if [entry.name for entry in out.iterdir()] == [LOCK]:
            (out / LOCK).unlink()
            if is_new:
                out.rmdir()
        lock.release()
