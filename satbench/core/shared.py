"""A folder that several machines share: a path that all of them see, or a URL of object storage."""

import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput, reason

EVERY = 5.0  # seconds between two exchanges of files
LEASE = 120.0  # seconds after which a lease that was not renewed has ended
SETTLE = 0.5  # seconds after which whoever wrote a lease first sees the one that replaced it
LEASES = ".leases"
LOCKS = (".claims", ".workers")  # folders of lock files, which say nothing on another machine

Stamp = tuple[Any, ...]  # equal where a file has not changed

_mirrors: list["_Mirror"] = []


def is_url(place: str | Path) -> bool:
    """Whether the place is a URL of fsspec, such as `s3://bucket/study`."""
    return "://" in str(place)


def file_system(place: str | Path) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the place inside it; raises `BadInput` where fsspec knows none."""
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(str(place))
    except (ImportError, ValueError) as error:
        raise BadInput(f"{place}: {reason(error)}; give a folder or a URL that fsspec opens") from None
    return system, root.rstrip("/")


@contextmanager
def shared(place: str | Path) -> Iterator[Path]:
    """The folder to work in: `place` itself, or for a URL a temporary folder that is kept equal to it.

    At a URL, files are exchanged every few seconds, at every lease, and at the end. A file appears whole or not at all,
    in the order in which files were written; a file rewritten or deleted on one side is so on the other. Where both
    sides changed a file, the later exchange wins: what several workers write must be equal, or be under a lease. Left
    out are files whose name begins with a dot, and lock files; locks therefore hold on one machine only, and `leased`
    takes their place.

    Raises `BadInput` for a URL that cannot be opened, and `OSError` when the storage fails at the end.
    """
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="satbench-") as scratch:
        mirror = _Mirror(str(place), Path(scratch))
        mirror.exchange()
        _mirrors.append(mirror)
        ended = threading.Event()
        thread = threading.Thread(target=mirror.keep_up, args=(ended,), daemon=True)
        thread.start()
        try:
            yield mirror.local
        finally:
            ended.set()
            thread.join()
            _mirrors.remove(mirror)
            mirror.exchange()


def exchange_now(folder: Path) -> None:
    """Upload what was written to a folder that `shared` gave, and download what is new; nothing without a URL."""
    for mirror in _mirrors:
        if folder.is_relative_to(mirror.local):
            mirror.exchange()


@contextmanager
def leased(file: Path) -> Iterator[bool]:
    """Whether no other machine has the lease named by the lock file `file`; always true outside of a mirrored URL.

    Before the block the folder is brought up to date, after it what was written is uploaded, and then the lease ends.
    A lease is an object with its owner and time, renewed every few seconds; one that was not renewed for two minutes,
    by the clock of the reader, has ended. Two machines can get one lease at the same moment, or when one stood still:
    both then compute the same bytes.
    """
    mirror = next((one for one in _mirrors if file.is_relative_to(one.local)), None)
    if mirror is None:
        yield True
        return
    name = file.relative_to(mirror.local).as_posix().replace("/", "--")
    if not mirror.take(name):
        yield False
        return
    try:
        mirror.exchange()
        yield True
    finally:
        mirror.exchange()
        mirror.release(name)


class _Mirror:
    """A local folder and the URL that it is kept equal to."""

    def __init__(self, url: str, local: Path) -> None:
        self.local = local
        self._system, self._root = file_system(url)
        self._known: dict[str, tuple[Stamp, Stamp]] = {}  # as of the last exchange, here and there
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._held: set[str] = set()
        self._lock = threading.Lock()

    def keep_up(self, ended: threading.Event) -> None:
        """Exchange files and renew leases until told to end; what fails is done at the next exchange."""
        while not ended.wait(EVERY):
            with suppress(OSError):
                self.exchange()
                for name in tuple(self._held):
                    self._write_lease(name)

    def exchange(self) -> None:
        """Upload what changed here, then download what changed there, each in the order of writing."""
        with self._lock:
            here, there = self._here(), self._there()
            for name in sorted(here, key=lambda one: here[one][0]):
                if here[name] != self._known.get(name, (None,))[0]:
                    there[name] = self._upload(name)
                    self._known[name] = here[name], there[name]
            for name in [one for one in self._known if one not in here]:
                if there.pop(name, None) == self._known.pop(name)[1]:
                    self._system.rm_file(f"{self._root}/{name}")
            self._download({name: there[name] for name in there if there[name] != self._known.get(name, (0, 0))[1]})
            for name in [one for one in self._known if one not in there]:
                (self.local / name).unlink(missing_ok=True)
                del self._known[name]

    def take(self, name: str) -> bool:
        """Whether the lease is now this process's."""
        if name in self._held or self._owner_of(name) not in ("", self._owner):
            return False
        self._write_lease(name)
        time.sleep(SETTLE)
        if self._owner_of(name) != self._owner:
            return False
        self._held.add(name)
        return True

    def release(self, name: str) -> None:
        """End a lease."""
        self._held.discard(name)
        with self._lock, suppress(FileNotFoundError):
            self._system.rm_file(f"{self._root}/{LEASES}/{name}")

    def _owner_of(self, name: str) -> str:
        """The process that has the lease, "" for none."""
        self._system.invalidate_cache()
        try:
            lease = json.loads(self._system.cat_file(f"{self._root}/{LEASES}/{name}"))
        except (FileNotFoundError, ValueError):
            return ""
        return str(lease["owner"]) if time.time() < lease["time"] + LEASE else ""

    def _write_lease(self, name: str) -> None:
        self._system.makedirs(f"{self._root}/{LEASES}", exist_ok=True)
        text = json.dumps({"owner": self._owner, "time": time.time()})
        self._system.pipe_file(f"{self._root}/{LEASES}/{name}", text.encode())

    def _here(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for file in self.local.rglob("*"):
            name = file.relative_to(self.local)
            if not file.name.startswith(".") and not set(name.parts[:-1]) & set(LOCKS):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = file.stat()
                    if not file.is_dir():
                        found[name.as_posix()] = (status.st_mtime_ns, status.st_size)
        return found

    def _there(self) -> dict[str, Stamp]:
        self._system.invalidate_cache()
        found = self._system.find(self._root, detail=True)
        names = {path.removeprefix(self._root).lstrip("/"): about for path, about in found.items()}
        return {
            name: _stamp(about)
            for name, about in names.items()
            if not name.rpartition("/")[2].startswith(".") and not set(name.split("/")[:-1]) & {*LOCKS, LEASES}
        }

    def _upload(self, name: str) -> Stamp:
        target = f"{self._root}/{name}"
        self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
        with self._system.transaction, self._system.open(target, "wb") as there, (self.local / name).open("rb") as here:
            shutil.copyfileobj(here, there)  # appears when the transaction ends
        self._system.invalidate_cache()
        return _stamp(self._system.info(target))

    def _download(self, names: dict[str, Stamp]) -> None:
        """Fetch all files beside the folder, then put them into it at once."""
        with tempfile.TemporaryDirectory(dir=self.local.parent, prefix="satbench-") as beside:
            fetched: list[tuple[str, Stamp, Path]] = []
            for name, stamp in sorted(names.items(), key=lambda one: str(one[1][0])):
                copy = Path(beside, str(len(fetched)))
                with suppress(FileNotFoundError):  # deleted meanwhile
                    self._system.get_file(f"{self._root}/{name}", str(copy))
                    fetched.append((name, stamp, copy))
            for name, stamp, copy in fetched:
                file = self.local / name
                file.parent.mkdir(parents=True, exist_ok=True)
                copy.replace(file)
                status = file.stat()
                self._known[name] = (status.st_mtime_ns, status.st_size), stamp


def _stamp(about: dict[str, Any]) -> Stamp:
    """When an object was written, its size, and its digest where the storage has one."""
    times = ("mtime", "LastModified", "last_modified", "updated", "created")
    when = next((about[key] for key in times if key in about), "")
    return when, about["size"], about.get("ETag", about.get("etag", ""))
