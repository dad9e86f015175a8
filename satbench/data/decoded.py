"""Pixels of image files in memory, and in the cache between starts."""

import hashlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import PIL
from filelock import FileLock
from PIL import features

from satbench.core.files import atomic_file
from satbench.core.home import home
from satbench.data.images import FileImages, Images, ImageSet, image_set
from satbench.data.loaders import ImageFile, is_gray

MOST = 2**28  # bytes of pixels that are kept in memory, where they take four times as much as float32
FEWEST = 2_000  # files from which the pixels are cached; fewer are decoded within a second or two
FOLDER = "decoded"
UNREAD = 30  # days, after which `satbench models gc` deletes a file of the cache
VERSION = 1  # of the cache; raise it with a change of a decoder of `FileImages` that are kept


def settled(images: Images) -> Images:
    """The images in memory where they are kept and take at most `MOST` bytes; else as they are."""
    if isinstance(images, FileImages) and images.is_kept and _size(images) <= MOST:
        return decoded(images)
    return images


def decoded(images: FileImages) -> ImageSet:
    """All images in memory, decoded or from the cache.

    From `FEWEST` files on the pixels are kept in SATBENCH_HOME/decoded: of all images that these were taken from, or of
    these alone where all are more than `MOST` bytes. The file's name covers decoder, side, and path, length and times
    of every image file; its content begins with a SHA-256, and a damaged one is replaced. Where the cache cannot be
    written, a line on stderr says so. Raises `BadInput` for a file that cannot be decoded.
    """
    source = images.whole if images.whole is not None and _size(images.whole) <= MOST else images
    pixels = _pixels(source)
    if source is not images:
        row_of = {sample_id: row for row, sample_id in enumerate(source.ids)}
        pixels = pixels[[row_of[sample_id] for sample_id in images.ids]]
    found = image_set(images.name, images.split, pixels, images.y.numpy(), images.ids)
    return replace(found, num_classes=images.num_classes, class_names=images.class_names, note=images.note)


def all_gray(files: Iterable[Path]) -> bool:
    """Whether every file says that it has gray levels alone; the headers are read up to the first that has colours.

    From `FEWEST` files on a positive answer is cached. Raises `BadInput` for a file that is no image.
    """
    remaining = iter(files)
    first = next(remaining, None)
    if first is None or not is_gray(first):
        return False
    listed = [first, *remaining]
    answer = home() / FOLDER / f"{_digest(['gray'], listed)}.gray"
    if answer.is_file():
        _note_reading(answer)
        return True
    found = all(map(is_gray, listed))
    if found and len(listed) >= FEWEST:
        _write(answer, b"")
    return found


def unread() -> list[Path]:
    """The files of the cache that no start has read for `UNREAD` days."""
    since = time.time() - UNREAD * 24 * 3600
    return [path for path in sorted((home() / FOLDER).glob("*")) if path.is_file() and path.stat().st_mtime < since]


def _size(images: FileImages) -> int:
    return len(images) * prod(images.shape)


def _pixels(images: FileImages) -> np.ndarray:
    """uint8 (N, C, H, W)."""
    files = [file for file in images.files if isinstance(file, Path)]
    if len(images) < FEWEST or len(files) < len(images):
        return _decode(images)
    decoder = f"{images.decode.__module__}.{images.decode.__qualname__}"
    libraries = [f"{PIL.__version__}", f"{features.version('jpg')}"]
    cached = home() / FOLDER / f"{_digest([decoder, *libraries, *map(str, images.shape)], files)}.pixels"
    found = _read(cached, images)
    if found is not None:
        return found
    lock = FileLock(f"{cached}.lock")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        return _decode(images, _not_kept(cached, error))
    try:
        found = _read(cached, images)  # another process may have decoded them
        if found is None:
            found = _decode(images, f"their pixels are kept in {cached}")
            _write(cached, hashlib.sha256(found.data).digest(), found.data)
        return found
    finally:
        lock.release()


def _decode(images: FileImages, note: str = "") -> np.ndarray:
    if note:
        sys.stderr.write(f"satbench: decoding the {len(images)} images of {images.name}; {note}\n")
    pixels = np.empty((len(images), *images.shape), np.uint8)
    with ThreadPoolExecutor() as pool:
        for row, one in enumerate(pool.map(images.pixels, range(len(images)))):
            pixels[row] = one
    return pixels


def _read(cached: Path, images: FileImages) -> np.ndarray | None:
    """The pixels in a file of the cache; None where it cannot be read or is not whole."""
    try:
        with cached.open("rb") as stream:
            digest, content = stream.read(32), stream.read(_size(images) + 1)
    except OSError:
        return None
    _note_reading(cached)
    if len(content) != _size(images) or hashlib.sha256(content).digest() != digest:
        return None
    return np.frombuffer(content, np.uint8).reshape(len(images), *images.shape)


def _note_reading(cached: Path) -> None:
    with suppress(OSError):  # the folder is read-only, or another process deletes the file
        os.utime(cached)


def _write(cached: Path, *parts: bytes | memoryview) -> None:
    try:
        with atomic_file(cached) as temporary, temporary.open("wb") as stream:
            for part in parts:
                stream.write(part)
    except OSError as error:
        sys.stderr.write(f"satbench: {_not_kept(cached, error)}\n")


def _not_kept(cached: Path, error: OSError) -> str:
    return f"{cached} cannot be written ({error.strerror or error}), so the next start decodes them again"


def _digest(words: Sequence[str], files: Sequence[ImageFile]) -> str:
    """Of how the files are read and of path, length and times of each."""
    digest = hashlib.sha256(repr([VERSION, *words]).encode())
    for file in files:
        assert isinstance(file, Path)
        stat = file.stat()
        digest.update(f"{file.absolute()}\t{stat.st_size}\t{stat.st_mtime_ns}\t{stat.st_ctime_ns}\n".encode())
    return digest.hexdigest()[:32]
