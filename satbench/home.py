"""Where satbench keeps what it fetches, and who is at work where."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from satbench.errors import BadInput

HOME = "SATBENCH_HOME"


def home() -> Path:
    """The folder that `SATBENCH_HOME` names, or else the user's cache folder. It need not exist yet."""
    named = os.environ.get(HOME)
    return Path(named).expanduser().absolute() if named else user_cache_path("satbench")


@contextmanager
def alone_in(out: Path, command: str) -> Iterator[None]:
    """Let no other process write into the same folder on this machine; raises `BadInput` when one does."""
    name = hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]
    path = home() / "locks" / f"run-{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(
            f"--out {out}: another satbench {command} is at work there; wait, or give another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
