"""Where satbench keeps what it fetches, and the locks of a folder that several processes share."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from satbench.core.errors import BadInput
from satbench.core.shared import leased

HOME = "SATBENCH_HOME"
LOCK = ".lock"
WORKERS = ".workers"  # a lock file for every process at work in the folder
CLAIMS = ".claims"  # one for every job that a process does


def home() -> Path:
    """The folder that `SATBENCH_HOME` names, or else the user's cache folder. It need not exist yet."""
    named = os.environ.get(HOME)
    try:
        return Path(named).expanduser().absolute() if named else user_cache_path("satbench")
    except RuntimeError:
        raise BadInput(f"{HOME}={named}: there is no such user; give the path of a folder") from None


class Busy(BadInput):
    """Another process has the lock of a folder."""


@contextmanager
def alone_in(out: Path, command: str, patient: bool = False) -> Iterator[None]:
    """Lock the folder `out`, which is created if missing.

    While another process holds the lock, a `patient` one waits; else `Busy` is raised. The operating system locks
    a hidden file inside the folder, so the lock holds for every machine and container that shares the folder, and it
    ends with its process, also when that is killed. The file stays, unless nothing else was written.
    """
    is_new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=-1 if patient else 0)
    except Timeout:
        raise Busy(f"--out {out}: another satbench {command} is at work there; wait, or give another folder") from None
    try:
        yield
    finally:
        _leave(out, is_new)
        lock.release()


@contextmanager
def among_workers(out: Path, command: str, task: str) -> Iterator[None]:
    """Be one of the processes that work on `task`, a digest, in the folder `out`, which is created if missing.

    Raises `Busy` while a process works on another task there. A process that was killed does not count.
    """
    is_new = not out.exists()
    folder = out / WORKERS
    with alone_in(out, command, patient=True):
        folder.mkdir(exist_ok=True)
        if any(name.partition("-")[0] != task for name in _forget_the_dead(folder)):
            raise Busy(
                f"--out {out}: a satbench {command} with other settings, of another version or on another machine is "
                "at work there; wait, or give another folder"
            )
        mine = FileLock(folder / f"{task}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        mine.acquire()
    try:
        yield
    finally:
        Path(mine.lock_file).unlink(missing_ok=True)  # gone where the user has deleted the folder meanwhile
        mine.release()
        for hidden in (folder, out / CLAIMS):
            _forget_the_dead(hidden)
            with suppress(OSError):  # other workers are there, or none was
                hidden.rmdir()
        _leave(out, is_new)


@contextmanager
def claimed(out: Path, name: str) -> Iterator[bool]:
    """Whether this process alone works on the job `name` of folder `out`, until the block or the process ends."""
    (out / CLAIMS).mkdir(parents=True, exist_ok=True)
    with _held(out / CLAIMS / name) as mine:
        if not mine:
            yield False
            return
        with leased(out / CLAIMS / name) as is_leased:
            yield is_leased


@contextmanager
def taken(lock: FileLock) -> Iterator[bool]:
    """Whether this process alone has the lock, which it does not wait for, until the block ends."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _leave(out: Path, is_new: bool) -> None:
    """Delete the lock file of a folder in which nothing else lies, and the folder if it `is_new`."""
    if [entry.name for entry in out.glob("*")] == [LOCK]:
        (out / LOCK).unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):  # another process begins there
                out.rmdir()


@contextmanager
def _held(file: Path) -> Iterator[bool]:
    """Whether this process has the lock file, which is deleted afterwards."""
    with taken(FileLock(file)) as mine:
        try:
            yield mine
        finally:
            if mine:
                file.unlink(missing_ok=True)


def _forget_the_dead(folder: Path) -> list[str]:
    """The names of the lock files that living processes have; those of others are deleted."""
    living = []
    for file in folder.glob("*"):
        with _held(file) as dead:
            if not dead:
                living.append(file.name)
    return living
