"""Released checkpoints from a mirror or from Google Drive: whole, resumable, and never a web page under their name."""

import glob
import hashlib
import os
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from satbench.core.bounded import check_plain
from satbench.core.errors import BadInput
from satbench.core.offline import is_offline
from satbench.core.progress import Progress
from satbench.zoo import cache
from satbench.zoo.remote import need_digest
from satbench.zoo.tf_bundle import MAGIC

MIRROR = "SATBENCH_MIRROR"
DRIVE = "https://drive.google.com/uc?id="
ABSENT = (403, 404, 410)  # object stores say 403 where there is no file
PATIENCE = 120.0  # seconds to a file's first byte; gdown follows pages that lead to pages without end
# timeout: seconds to connect, and between two bytes
OPTIONS: dict[str, Any] = {"quiet": True, "use_cookies": False, "resume": True, "retries": 2, "timeout": (10, 60)}
CHUNK = 1 << 20
MOST_BYTES = 16 << 30  # of a file of unknown size; the largest network of the release takes 2 GB
MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<!--")

Report = Callable[[int, int], None]


class _Failed(Exception):
    """What a place did instead of sending a file: the rest of a sentence that begins with the place's name."""


class _TooLarge(_Failed):
    """The place sends more than the file has."""


class _Absent(_Failed):
    """The place has no such file, or sends nothing at all."""


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hex; raises `BadInput` for a pipe or a folder in its place."""
    check_plain(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def by_hand(name: str, release: str, sources: Mapping[str, str]) -> str:
    """How a person gets the files that the cache lacks, with a browser."""
    folder = cache.folder(name)
    links = [f"{file} from {DRIVE}{source}" for file, source in sources.items() if not (folder / file).is_file()]
    command = f"satbench models import {name} {shlex.quote(str(folder / release))}"
    return f"by hand: save {' and '.join(links)} in {folder} and run `{command}`"


def fetch(
    name: str, release: str, sources: Mapping[str, str], progress: Progress, known: Mapping[str, str] | None = None
) -> Path:
    """Put every missing file of card `name` into the cache; returns the checkpoint's prefix, folder/release.

    sources: Drive id of each file; the mirror `SATBENCH_MIRROR` (a URL or a folder) is tried first for release/file.
    progress: gets the bytes done, the bytes known of so far, and the file. An interrupted download is continued by the
    next call. Files already there are kept. Digests are compared by the caller; those that are `known` allow a mirror
    of plain HTTP. Raises `BadInput` with the way by hand when a file cannot be had or is none of a checkpoint, and
    OSError from the disk.
    """
    folder = cache.folder(name)
    with cache.locked(name):
        folder.mkdir(parents=True, exist_ok=True)
        before = 0
        for file in [file for file in sources if not (folder / file).is_file()]:
            try:
                _obtain(folder / file, release, sources[file], _after(before, file, progress), (known or {}).get(file))
            except _Failed as error:
                raise BadInput(
                    f"{name}: {file} could not be fetched, {error}; {_remedy()}, or {by_hand(name, release, sources)}"
                ) from None
            before += (folder / file).stat().st_size
    return folder / release


def _after(before: int, file: str, progress: Progress) -> Report:
    return lambda done, total: progress(before + done, before + total, file)


def fetch_url(name: str, url: str, digest: str, progress: Progress, size: int | None = None) -> Path:
    """The weights file of card `name` from a URL, in the cache once it has the SHA-256 `digest`.

    size: of the file in bytes, the most that is downloaded; `MOST_BYTES` where it is not known. An interrupted
    download is continued by the next call. Raises `BadInput` when it cannot be had or is another file.
    """
    target = url_target(name, url, digest)
    with cache.locked(name):
        if target.is_file():  # another process was at it
            return target
        fresh = target.with_name(f"{target.name}.new")
        download(name, url, url, fresh, progress, size)
        found = sha256_file(fresh)
        if found != digest:
            fresh.unlink()
            raise BadInput(f"{name}: {url} has SHA-256 {found}, its card says {digest}; ask its author which is right")
        fresh.replace(target)
    return target


def download(name: str, url: str, whose: str, target: Path, progress: Progress, size: int | None = None) -> None:
    """Put the file at `url`, which errors call `whose`, at `target`; its digest is the caller's to check.

    size: as in `fetch_url`. Raises `BadInput` when it cannot be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _place(url, whose, target, _after(0, target.name, progress), size or MOST_BYTES)
    except _TooLarge as error:
        raise BadInput(f"{name}: {error}; correct the size on its card, or ask its author") from None
    except _Failed as error:
        raise BadInput(f"{name}: {error}; {_remedy()}, or save the file as {target}") from None


def _remedy() -> str:
    return "leave out --offline" if is_offline() else "run the same command again to continue the download"


def url_target(name: str, url: str, digest: str) -> Path:
    """Where `fetch_url` puts the file; a card that is given another digest leads to another place."""
    return cache.folder(name) / digest[:16] / (Path(urlsplit(url).path).name or "weights")


def _obtain(target: Path, release: str, source: str, report: Report, digest: str | None) -> None:
    mirror = os.environ.get(MIRROR, "").strip()
    if mirror:
        try:
            origin = _in_mirror(mirror, f"{release}/{target.name}")
            if isinstance(origin, str):
                need_digest(origin, digest, f"use https, or pin them: satbench models pins import FILE ({MIRROR})")
            _place(origin, MIRROR, target, report)
            return
        except _Absent as error:
            sys.stderr.write(f"satbench: {release}/{target.name}: {error}; asking Google Drive\n")
    _place(f"{DRIVE}{source}", "Google Drive", target, report)


def _in_mirror(mirror: str, file: str) -> Path | str:
    """Where a mirror would have `file`: a path or a URL."""
    expected = f"{MIRROR}={mirror}: expected a folder that exists, its file:/// URL, or an http(s) URL"
    try:
        parts = urlsplit(mirror)
    except ValueError:
        raise BadInput(expected) from None
    if parts.scheme in ("http", "https"):
        return parts._replace(path=f"{parts.path.rstrip('/')}/{quote(file)}").geturl()
    is_url = parts.scheme == "file" and parts.netloc in ("", "localhost")
    folder = Path(url2pathname(parts.path) if is_url else mirror).expanduser()
    if not folder.is_dir():
        raise BadInput(expected)
    return folder / file


def _place(origin: Path | str, whose: str, target: Path, report: Report, most: int = MOST_BYTES) -> None:
    """Put the file at `origin` under its final name, once it is whole and looks like a checkpoint's."""
    if isinstance(origin, str) and is_offline():
        raise _Failed(f"{whose} is not asked while offline")
    tag = hashlib.sha256(str(origin).encode()).hexdigest()[:8]  # so that bytes of two origins are never joined
    working = target.with_name(f"{target.name}.{tag}")
    try:
        if isinstance(origin, Path):
            _copy(origin, working, report)
        else:
            _download(origin, working, report, most)
        _check_kind(working, target.suffix == ".index")
        working.chmod(0o644)
        working.replace(target)
    except _Failed as error:
        raise type(error)(f"{whose} {error}") from None
    finally:
        working.unlink(missing_ok=True)
    for partial in target.parent.glob(f"{glob.escape(target.name)}.*.part"):
        partial.unlink()


def _copy(origin: Path, working: Path, report: Report) -> None:
    if not origin.is_file():
        raise _Absent("lacks it")
    total = origin.stat().st_size
    with origin.open("rb") as reader, working.open("wb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            report(writer.tell(), total)


def _download(url: str, working: Path, report: Report, most: int) -> None:
    """Download to `working`; an incomplete file is a .part file beside it, and the next call continues it.

    Of more than `most` bytes, counted as they are written, nothing is left.
    """
    import gdown
    import requests

    def heard(done: int, total: int | None) -> None:
        watch.cancel()
        if max(done, total or 0) > most:
            raise _TooLarge(f"sends more than {most:,} bytes, the most that is downloaded")
        report(done, total or done)

    partials = {path: path.stat().st_size for path in working.parent.glob(f"{glob.escape(working.name)}*.part")}
    silence = threading.Event()
    watch = threading.Timer(PATIENCE, silence.set)
    watch.start()
    try:
        gdown.download(url, str(working), progress=heard, cancel=silence, **OPTIONS)
    except _TooLarge:
        for path in working.parent.glob(f"{glob.escape(working.name)}*.part"):
            path.unlink()
        raise
    except gdown.DownloadCancelled:
        raise _Failed(f"sent no byte of it within {PATIENCE:g} s") from None
    except (gdown.FileURLRetrievalError, KeyError):  # KeyError: an answer that says neither its type nor a way on
        raise _Failed("shows a web page instead (download quota used up, sign-in, or not shared any more)") from None
    except requests.HTTPError as error:
        code = 0 if error.response is None else error.response.status_code
        raise (_Absent(f"lacks it (HTTP {code})") if code in ABSENT else _Failed(f"answers HTTP {code}")) from None
    except (gdown.DownloadError, requests.RequestException) as error:
        refused = isinstance(error, gdown.DownloadError) and error.__cause__ is None  # the cause: what requests raised
        if not (refused and partials and all(path.stat().st_size == size for path, size in partials.items())):
            begun = any(working.parent.glob(f"{glob.escape(working.name)}*.part"))
            reason = type(error.__cause__ or error).__name__
            raise (_Failed if begun else _Absent)(f"did not deliver it ({reason})") from None
        for path in partials:  # the server does not go on with it
            path.unlink()
        _download(url, working, report, most)
    finally:
        watch.cancel()


def _check_kind(path: Path, is_index: bool) -> None:
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise _Failed("sent an empty file")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(MARKUP):
        raise _Failed("sent a web page and not a checkpoint")
    if is_index and not path.read_bytes().endswith(MAGIC):
        raise _Failed("sent something that is no index of a TensorFlow checkpoint")
