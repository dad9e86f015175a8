"""MNIST, CIFAR-10, CIFAR-100 and SVHN as published, fetched and checked by torchvision's addresses and digests."""

import hashlib
import pickle
import socket
import sys
import tarfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from io import BytesIO
from pathlib import Path

import numpy as np
from filelock import FileLock

from satbench.core.bounded import MIB, gunzipped, read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import atomic_file
from satbench.core.home import home
from satbench.core.offline import need_network
from satbench.data.images import SHARES, ImageSet, carve, image_set

SPLITS = ("train", "val", "test")
MOST = 256 * MIB  # of a file; the largest, of SVHN, has 174
PATIENCE = 30.0  # seconds without a byte from a server
MNIST_MD5 = {  # of the unpacked files; torchvision lists the packed ones
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
Arrays = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Archive:
    """A file to download, with its MD5, and the paths of the files of the data set that it brings."""

    name: str
    md5: str
    addresses: tuple[str, ...]
    brings: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """The training or the test images. files: path in torchvision's layout and MD5, in the order `decode` wants."""

    files: tuple[tuple[str, str], ...]
    decode: Callable[[Sequence[bytes]], Arrays]
    archives: tuple[Archive, ...]
    side: int
    classes: int


def published(name: str, folder: Path, may_fetch: bool, split: str | None, size: int | None) -> ImageSet:
    """The data set `name` of `PUBLISHED`, uint8 / 255, at its own 28 (MNIST) or 32 pixels a side: no other `size`.

    "test" (the default) keeps the published order, so that its first n images are what papers call the first n;
    "val" is carved out of the published training images and "train" is the rest, both in hash order. A sample is called
    test/00017 or train/00017 by its place in the published files.

    They lie in `folder` as torchvision keeps them, or directly in it; MNIST's may be .gz. With `may_fetch` they may
    also lie in the folder data/NAME of the cache, and are downloaded to it where they do not, by one process at a time.
    No file is read, unpickled or kept before its MD5 is the published one. Raises `BadInput` for a missing or damaged
    file and when the download fails, and OSError from the cache's disk.
    """
    if split not in (None, *SPLITS):
        raise BadInput(f"{name} has its own split, {', '.join(SPLITS)}; there is no {split!r}")
    source = "test" if split in (None, "test") else "train"
    part = PARTS[name](source)
    if size not in (None, part.side):
        raise BadInput(
            f"{name}'s images are {part.side} pixels a side, not {size}; give a network for them, or no --image-size"
        )
    pixels, labels = part.decode([_content(file, md5) for file, md5 in _files(name, part, folder, may_fetch)])
    ids = [f"{source}/{i:05d}" for i in range(len(pixels))]
    whole = replace(image_set(name, source, pixels, labels, ids), num_classes=part.classes)
    return whole if source == "test" else carve(whole, str(split), {"val": SHARES["val"]})


def _mnist(source: str) -> Part:
    from torchvision.datasets import MNIST

    packed = dict(MNIST.resources)
    names = [name for name in MNIST_MD5 if name.startswith("train" if source == "train" else "t10k")]
    archives = [
        Archive(
            f"{name}.gz", packed[f"{name}.gz"], tuple(f"{m}{name}.gz" for m in MNIST.mirrors), (f"MNIST/raw/{name}",)
        )
        for name in names
    ]
    files = tuple((f"MNIST/raw/{name}", MNIST_MD5[name]) for name in names)
    return Part(files, _idx_arrays, tuple(archives), side=28, classes=10)


def _cifar(kind: str, labels: str, classes: int, source: str) -> Part:
    from torchvision import datasets

    known = getattr(datasets, kind)
    lists = {"train": known.train_list, "test": known.test_list}
    files = {one: tuple((f"{known.base_folder}/{name}", md5) for name, md5 in lists[one]) for one in lists}
    brings = tuple(path for path, _ in (*files["train"], *files["test"]))
    archive = Archive(known.filename, known.tgz_md5, (known.url,), brings)
    return Part(files[source], partial(_cifar_arrays, labels), (archive,), side=32, classes=classes)


def _svhn(source: str) -> Part:
    from torchvision.datasets import SVHN

    address, name, md5 = SVHN.split_list[source]
    return Part(((name, md5),), _svhn_arrays, (Archive(name, md5, (address,), (name,)),), side=32, classes=10)


PARTS: dict[str, Callable[[str], Part]] = {
    "mnist": _mnist,
    "cifar10": partial(_cifar, "CIFAR10", "labels", 10),
    "cifar100": partial(_cifar, "CIFAR100", "fine_labels", 100),
    "svhn": _svhn,
}
PUBLISHED: dict[str, Callable[..., ImageSet]] = {name: partial(published, name) for name in PARTS}


def _idx_arrays(contents: Sequence[bytes]) -> Arrays:
    images, labels = contents
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return pixels.copy(), np.frombuffer(labels, np.uint8, offset=8)


def _cifar_arrays(key: str, contents: Sequence[bytes]) -> Arrays:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)  # NumPy 2.4.0 to 2.4.4 on old pickles
        batches = [pickle.loads(content, encoding="latin1") for content in contents]
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return pixels, np.concatenate([batch[key] for batch in batches])


def _svhn_arrays(contents: Sequence[bytes]) -> Arrays:
    from scipy.io import loadmat

    (content,) = contents
    arrays = loadmat(BytesIO(content))
    return arrays["X"].transpose(3, 2, 0, 1), arrays["y"].ravel() % 10  # the file calls the digit 0 ten


def _files(name: str, part: Part, folder: Path, may_fetch: bool) -> list[tuple[Path, str]]:
    """Where the part's files lie, and the MD5 of each; fetches them where they lie nowhere."""
    found = _found(part, folder)
    if may_fetch and None in found:
        cache = home() / "data" / name
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if None in _found(part, cache):
                _fetch(name, part, cache, folder)
        found = _found(part, cache)
    if None in found:
        missing = part.files[found.index(None)][0]
        raise BadInput(
            f"{folder} is no folder with {name}: {missing} is missing; unpack torchvision's {name} there, or leave the "
            f"path out to have it downloaded: --dataset {name}"
        )
    return [(file, md5) for file, (_, md5) in zip(found, part.files, strict=True) if file]


def _found(part: Part, folder: Path) -> list[Path | None]:
    """The file of each path of the part: packed or not, in torchvision's layout or directly in `folder`."""
    return [
        next((file for one in (path, Path(path).name) for file in _forms(folder / one) if file.is_file()), None)
        for path, _ in part.files
    ]


def _forms(file: Path) -> tuple[Path, Path]:
    """Packed first: what lies beside it may be the rest of an interrupted unpacking."""
    return file.with_name(f"{file.name}.gz"), file


def _content(file: Path, md5: str) -> bytes:
    """What a file holds, unpacked; raises `BadInput` unless it is what was published."""
    try:
        content = read_bounded(file, MOST)
        if file.suffix == ".gz":
            content = gunzipped(content, MOST)
    except BadInput:
        raise
    except (OSError, ValueError, zlib.error) as error:
        raise BadInput(f"{file} cannot be read ({type(error).__name__}); replace or delete it") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise BadInput(f"{file} has MD5 {found} where {md5} was published: damaged or not it; replace or delete it")
    return content


def _fetch(name: str, part: Part, folder: Path, instead_of: Path) -> None:
    """Download what the part's missing files come in; every file gets its name in `folder` once it is whole."""
    from torchvision.datasets.utils import download_url

    need_network(f"{name} is", f"unpack it in a folder and give that: --dataset {name}:FOLDER")
    working = folder.parent / "partial"
    sys.stderr.write(f"satbench: {instead_of} has no {name}; downloading it to {folder}\n")
    for archive in part.archives:
        failures = []
        for address in archive.addresses:
            try:
                with _patience():
                    download_url(address, working, archive.name, archive.md5)
                break
            except (OSError, RuntimeError, HTTPException) as error:
                failures.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
        else:
            needed = " and ".join(one.addresses[0] for one in part.archives)
            raise BadInput(
                f"{name} is not in {instead_of} and could not be downloaded ({'; '.join(failures)}); try again with a "
                f"network, or unpack {needed} in a folder and give it: --dataset {name}:FOLDER"
            )
        for path, content in _unpacked(working / archive.name, archive.brings):
            with atomic_file(folder / path) as temporary:
                temporary.write_bytes(content)
        (working / archive.name).unlink()


@contextmanager
def _patience() -> Iterator[None]:
    """A server that is silent for `PATIENCE` is given up; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unpacked(archive: Path, brings: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as packed:
            for path in brings:
                stream = packed.extractfile(path)
                yield path, stream.read() if stream else b""
    else:
        content = archive.read_bytes()
        yield brings[0], gunzipped(content, MOST) if archive.suffix == ".gz" else content
