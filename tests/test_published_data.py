"""MNIST, CIFAR and SVHN in small copies of their layouts: pixels, order, splits, damage, and the way into the cache."""

import gzip
import hashlib
import pickle
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from satbench.core.errors import BadInput
from satbench.data import ImageSet, load_images, published

NAMES = ("mnist", "cifar10", "cifar100", "svhn")
COUNT = {"train": 60, "test": 25}
CLASSES = {"mnist": 10, "cifar10": 10, "cifar100": 100, "svhn": 10}
ONE_FILE = {
    "mnist": "MNIST/raw/t10k-images-idx3-ubyte",
    "cifar10": "cifar-10-batches-py/test_batch",
    "cifar100": "cifar-100-python/test",
    "svhn": "test_32x32.mat",
}


def arrays(name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, C, side, side) noise, and labels that meet the first three classes and the last."""
    rng = np.random.default_rng([len(name), len(part)])
    shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    labels = np.array([0, 1, 2, CLASSES[name] - 1])[np.arange(COUNT[part]) % 4]
    return rng.integers(0, 256, (COUNT[part], *shape), dtype=np.uint8), labels


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write(file: Path, content: bytes) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return md5(content)


def idx(array: np.ndarray) -> bytes:
    """The format of MNIST's files: 0, 0, 8 for bytes, the number of axes, their lengths (big-endian), the bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.astype(np.uint8).tobytes()


def python2_pickle(value: object) -> bytes:
    """Protocol 2 with 0 and 1 for the dtype's flags, where Python 3 writes False and True."""
    return pickle.dumps(value, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def write_mnist(root: Path, patch: pytest.MonkeyPatch) -> None:
    packed = []
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels, labels = arrays("mnist", part)
        for name, array in (("images-idx3", pixels[:, 0]), ("labels-idx1", labels)):
            file = f"{prefix}-{name}-ubyte"
            patch.setitem(published.MNIST_MD5, file, write(root / "MNIST" / "raw" / file, idx(array)))
            packed.append((f"{file}.gz", md5(gzip.compress(idx(array), mtime=0))))
    patch.setattr(datasets.MNIST, "resources", packed)


def write_cifar(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    key, folder = {"cifar10": "labels", "cifar100": "fine_labels"}[name], root / kind.base_folder
    for part, attribute in (("train", "train_list"), ("test", "test_list")):
        pixels, labels = arrays(name, part)
        known = getattr(kind, attribute)
        listed = []
        for (file, _), rows in zip(known, np.array_split(np.arange(len(labels)), len(known)), strict=True):
            batch = {"data": pixels[rows].reshape(len(rows), -1), key: labels[rows].tolist(), "filenames": []}
            content = python2_pickle(batch)
            assert b"K\x00K\x01\x87" in content
            listed.append([file, write(folder / file, content)])
        patch.setattr(kind, attribute, listed)
    names = {kind.meta["key"]: [str(i) for i in range(CLASSES[name])]}
    patch.setattr(kind, "meta", {**kind.meta, "md5": write(folder / kind.meta["filename"], python2_pickle(names))})


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    listed = {}
    for part, (address, file, _) in datasets.SVHN.split_list.items():
        pixels, labels = arrays("svhn", part if part in COUNT else "train")
        root.mkdir(exist_ok=True)
        ten_for_zero = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(root / file, {"X": pixels.transpose(2, 3, 1, 0), "y": ten_for_zero})
        listed[part] = [address, file, md5((root / file).read_bytes())]
    patch.setattr(datasets.SVHN, "split_list", listed)


WRITERS: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "mnist": write_mnist,
    "cifar10": partial(write_cifar, "cifar10"),
    "cifar100": partial(write_cifar, "cifar100"),
    "svhn": write_svhn,
}
on_every_set = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder; satbench's cache and the current folder are empty too."""
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SATBENCH_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "data"


def assert_holds(images: ImageSet, name: str, part: str) -> None:
    """Every image is the one of `arrays` that its id says, and so is its label."""
    pixels, labels = arrays(name, part)
    rows = [int(one.removeprefix(f"{part}/")) for one in images.ids]
    assert images.x.dtype == torch.float32
    assert torch.equal(images.x, torch.from_numpy(pixels[rows]).float() / 255)
    assert images.y.tolist() == labels[rows].tolist()
    assert (images.name, images.num_classes) == (name, CLASSES[name])


# what is read


@on_every_set
def test_the_test_split_keeps_the_published_order(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](root, monkeypatch)
    images = load_images(f"{name}:{root}")
    assert images.split == "test"
    assert images.ids == tuple(f"test/{i:05d}" for i in range(COUNT["test"]))
    assert images.head(3).ids == ("test/00000", "test/00001", "test/00002")
    assert_holds(images, name, "test")


@on_every_set
def test_val_and_train_share_the_published_training_images(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](root, monkeypatch)
    train, val = (load_images(f"{name}:{root}", split) for split in ("train", "val"))
    assert_holds(train, name, "train")
    assert_holds(val, name, "train")
    assert {*train.ids, *val.ids} == {f"train/{i:05d}" for i in range(COUNT["train"])}
    assert len(train) + len(val) == COUNT["train"]
    for label in val.y.unique():
        assert (val.y == label).sum() == round(0.15 * COUNT["train"] / 4)
    assert load_images(f"{name}:{root}", "val").digest == val.digest


@on_every_set
def test_torchvision_reads_the_same_from_the_same_files(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](root, monkeypatch)
    kind: Any = {"mnist": datasets.MNIST, "svhn": datasets.SVHN}.get(name) or getattr(datasets, name.upper())
    with pytest.MonkeyPatch.context() as quiet:
        quiet.setattr("warnings.warn", lambda *_, **__: None)
        theirs = kind(root, split="test") if name == "svhn" else kind(root, train=False)
    ours = load_images(f"{name}:{root}", "test")
    for i, (image, label) in enumerate(theirs):
        pixels = np.array(image).reshape(*ours.shape[1:], -1).transpose(2, 0, 1)
        assert torch.equal(ours.x[i], torch.from_numpy(pixels).float() / 255)
        assert int(ours.y[i]) == label


@on_every_set
def test_the_files_may_lie_directly_in_the_folder(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](root, monkeypatch)
    assert_holds(load_images(f"{name}:{(root / ONE_FILE[name]).parent}"), name, "test")


def test_what_numpy_warns_of_in_old_pickles_is_not_passed_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar("cifar10", root, monkeypatch)
    file = root / ONE_FILE["cifar10"]
    # NumPy 2.4.0 to 2.4.4 warn of the flag 0 as later ones do of 2
    digest = write(file, file.read_bytes().replace(b"K\x00K\x01\x87", b"K\x02K\x01\x87"))
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", digest]])
    assert_holds(load_images(f"cifar10:{root}"), "cifar10", "test")


def test_packed_mnist_is_read_and_its_test_part_alone_is_enough(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(root / "all", monkeypatch)
    for file in (root / "all/MNIST/raw").glob("t10k*"):
        write(root / "packed" / f"{file.name}.gz", gzip.compress(file.read_bytes()))
    assert_holds(load_images(f"mnist:{root / 'packed'}"), "mnist", "test")
    with pytest.raises(BadInput, match=r"train-images-idx3-ubyte is missing"):
        load_images(f"mnist:{root / 'packed'}", "train")


def test_a_half_unpacked_file_beside_its_archive_does_no_harm(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(root, monkeypatch)
    file = root / ONE_FILE["mnist"]
    write(file.with_name(f"{file.name}.gz"), gzip.compress(file.read_bytes()))
    file.write_bytes(file.read_bytes()[:100])
    assert_holds(load_images(f"mnist:{root}"), "mnist", "test")


def test_without_a_path_they_are_looked_for_where_data_lies(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_svhn(root, monkeypatch)
    assert_holds(load_images("svhn", data_dir=root), "svhn", "test")
    monkeypatch.setenv("SATBENCH_DATA", str(root))
    assert_holds(load_images("svhn"), "svhn", "test")
    assert_holds(load_images("svhn:data", data_dir=root.parent), "svhn", "test")


# what is refused


def truncated(content: bytes) -> bytes:
    return content[:-7]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: b""], ids=["truncated", "flipped", "empty"])
@on_every_set
def test_a_file_that_is_not_the_published_one_is_named(
    name: str, damage: Callable[[bytes], bytes], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](root, monkeypatch)
    file = root / ONE_FILE[name]
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadInput, match=rf"{file.name} has MD5 \w+ where \w+ was published") as error:
        load_images(f"{name}:{root}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [truncated, flipped, lambda content: b"no archive"], ids=["cut", "flipped", "text"])
def test_a_damaged_archive_is_named(
    damage: Callable[[bytes], bytes], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(root, monkeypatch)
    file = root / ONE_FILE["mnist"]
    write(file.with_name(f"{file.name}.gz"), damage(gzip.compress(file.read_bytes())))
    with pytest.raises(BadInput, match=rf"{file.name}\.gz cannot be read"):
        load_images(f"mnist:{root}")


def test_a_pickle_is_not_executed_before_its_digest_is_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path, str]]:
            return Path.write_text, (root / "sprung", "x")

    write_cifar("cifar10", root, monkeypatch)
    (root / ONE_FILE["cifar10"]).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BadInput, match="MD5"):
        load_images(f"cifar10:{root}")
    assert not (root / "sprung").exists()


@on_every_set
def test_a_missing_file_is_named_and_nothing_is_fetched_for_a_path(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](root, monkeypatch)
    (root / ONE_FILE[name]).unlink()
    with pytest.raises(BadInput, match=f"{ONE_FILE[name]} is missing.*--dataset {name}$"):
        load_images(f"{name}:{root}")
    assert not (root.parent / "home").exists()


@on_every_set
def test_what_they_do_not_have_is_refused(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](root, monkeypatch)
    side = arrays(name, "test")[0].shape[-1]
    file = root / ONE_FILE[name]
    for arguments, hint in (
        ((f"{name}:{root}", "all"), "train, val, test; there is no 'all'"),
        ((f"{name}:{root}", "tset"), "did you mean test"),
        ((f"{name}:{root}", "test", 64), f"{side} pixels a side, not 64"),
        ((f"{name}:{file}",), f"{file.name} is no folder with {name}"),
        ((f"{name}:{root / 'nowhere'}",), f"nowhere is no folder with {name}"),
        ((f"{name}:",), rf"none of: .*{name}\[:PATH\]"),
    ):
        with pytest.raises(BadInput, match=hint):
            load_images(*arguments)
    assert load_images(f"{name}:{root}", size=side).shape[-1] == side
    with pytest.raises(BadInput, match="one way of reading"):
        load_images(f"{name}:{root}", loader="torchvision")


# the way into the cache


@dataclass
class Mirror:
    """A server on this machine. asked: the files it was asked for.

    limit: after how many bytes it hangs up. pause: seconds before it answers.
    """

    folder: Path
    url: str = ""
    limit: int | None = None
    pause: float = 0.0
    asked: list[str] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """torchvision hangs up on its question where an address leads."""


@pytest.fixture
def mirror(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Serves the small data sets, at the addresses that torchvision is made to know."""
    site = Mirror(root.parent / "site")
    site.folder.mkdir()
    content = root.parent / "content"
    for write_one in WRITERS.values():
        write_one(content, monkeypatch)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            file = site.folder / self.path.strip("/")
            site.asked.append(file.name)
            time.sleep(site.pause)
            if site.limit is None or not file.is_file():
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Length", str(file.stat().st_size))
            self.end_headers()
            self.wfile.write(file.read_bytes()[: site.limit])
            return None

        def log_message(self, *_: object) -> None: ...

    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(site.folder)))
    site.url = f"http://127.0.0.1:{server.server_port}"
    for file in (content / "MNIST/raw").iterdir():
        (site.folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    for file in content.glob("*.mat"):
        (site.folder / file.name).write_bytes(file.read_bytes())
    for kind in (datasets.CIFAR10, datasets.CIFAR100):
        with tarfile.open(site.folder / kind.filename, "w:gz") as archive:
            archive.add(content / kind.base_folder, kind.base_folder)
        monkeypatch.setattr(kind, "url", f"{site.url}/{kind.filename}")
        monkeypatch.setattr(kind, "tgz_md5", md5((site.folder / kind.filename).read_bytes()))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{site.url}/gone/", f"{site.url}/"])
    listed = {
        part: [f"{site.url}/{file}", file, digest] for part, (_, file, digest) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def cached(root: Path) -> list[str]:
    """The files in the cache, but for locks."""
    home = root.parent / "home"
    return sorted(
        file.relative_to(home).as_posix() for file in home.rglob("*") if file.is_file() and file.suffix != ".lock"
    )


@on_every_set
def test_what_is_nowhere_is_downloaded_once(
    name: str, root: Path, mirror: Mirror, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_images(name)
    assert_holds(first, name, "test")
    said = capsys.readouterr()
    assert said.out == ""
    assert f". has no {name}; downloading it to {root.parent / 'home' / 'data' / name}" in said.err
    assert f"data/{name}/{ONE_FILE[name]}" in cached(root)
    assert not [file for file in cached(root) if file.endswith((".gz", ".part")) or "partial" in file]
    asked = len(mirror.asked)
    assert load_images(name).digest == first.digest
    assert len(mirror.asked) == asked
    assert capsys.readouterr().err == ""
    assert_holds(load_images(name, "train"), name, "train")


def test_no_more_is_downloaded_than_the_split_needs(root: Path, mirror: Mirror) -> None:
    load_images("mnist")
    load_images("svhn")
    assert [file for file in cached(root) if "train" in file] == []
    load_images("cifar10")
    asked = len(mirror.asked)
    load_images("cifar10", "train")
    assert len(mirror.asked) == asked


@on_every_set
def test_an_interrupted_download_leaves_nothing_that_is_used(name: str, root: Path, mirror: Mirror) -> None:
    mirror.limit = 150
    with pytest.raises(BadInput, match=rf"{name} is not in \. and could not be downloaded.*{name}:FOLDER") as error:
        load_images(name)
    assert "\n" not in str(error.value)
    assert [file for file in cached(root) if not file.startswith("data/partial/")] == []
    mirror.limit = None
    assert_holds(load_images(name), name, "test")
    assert [file for file in cached(root) if file.startswith("data/partial/")] == []


@on_every_set
def test_without_a_network_one_line_says_what_to_get(name: str, root: Path, mirror: Mirror) -> None:
    for file in mirror.folder.iterdir():
        file.unlink()
    with pytest.raises(BadInput, match=rf"HTTPError.*unpack {mirror.url}/.* in a folder and give it: ") as error:
        load_images(name)
    assert "\n" not in str(error.value)
    assert cached(root) == []


def test_a_silent_server_is_given_up(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.pause = 1.0
    monkeypatch.setattr(published, "PATIENCE", 0.05)
    with pytest.raises(BadInput, match=r"could not be downloaded \(\w*(Timeout|URL)Error"):
        load_images("svhn")
    assert socket.getdefaulttimeout() is None


def test_a_damaged_file_in_the_cache_is_named_and_fetched_anew_once_deleted(root: Path, mirror: Mirror) -> None:
    load_images("svhn")
    file = root.parent / "home/data/svhn" / ONE_FILE["svhn"]
    file.write_bytes(truncated(file.read_bytes()))
    with pytest.raises(BadInput, match=f"{file} has MD5.*delete it"):
        load_images("svhn")
    file.unlink()
    assert_holds(load_images("svhn"), "svhn", "test")


def test_several_at_once_download_once(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    mirror.pause = 0.2
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(load_images("svhn").digest)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert capsys.readouterr().err.count("downloading it") == 1


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mnist", (10_000, 51_000, 9_000)),
        ("cifar10", (10_000, 42_500, 7_500)),
        ("cifar100", (10_000, 42_500, 7_500)),
        ("svhn", (26_032, 62_269, 10_988)),
    ],
)
def test_the_published_files_are_read(name: str, counts: tuple[int, int, int], root: Path) -> None:
    try:
        test = load_images(name)
    except BadInput as error:
        pytest.skip(str(error))
    train, val = load_images(name, "train"), load_images(name, "val")
    assert len(test) == counts[0]
    assert len(train) + len(val) == sum(counts[1:])
    assert abs(len(val) - counts[2]) <= CLASSES[name]
