"""Data sets: what is in them, how they are split, and what is refused."""

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from satbench.core.errors import BadInput
from satbench.data import ImageSet, load_images
from satbench.specs.names import check_data_path

SPLITS = ("train", "val", "test")
SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}
RED, BLUE = (255, 0, 0), (0, 0, 255)


def arrays(n: int = 40, side: int = 8, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, C, H, W) noise and two alternating labels."""
    x = np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    return x, np.arange(n) % 2


def save_npz(folder: Path, x: np.ndarray, y: np.ndarray) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "images.npz", x=x, y=y)
    return f"npz:{folder / 'images.npz'}"


def save_image(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def class_tree(root: Path, each: int = 20) -> Path:
    for i in range(each):
        save_image(root / "blue" / f"{i}.png", BLUE)
        save_image(root / "red" / f"{i}.png", RED)
    return root


def labels_by_id(images: ImageSet) -> dict[str, int]:
    return dict(zip(images.ids, images.y.tolist(), strict=True))


# digits


def test_digits_splits_are_disjoint_and_complete() -> None:
    parts = [set(load_images("digits", split).ids) for split in SPLITS]
    whole = load_images("digits", "all")
    assert len(whole) == len(set(whole.ids)) == 1797
    assert sum(map(len, parts)) == 1797
    assert set.union(*parts) == set(whole.ids)
    assert len(parts[2]) >= 350


@pytest.mark.parametrize("split", SPLITS)
def test_digits_splits_are_stratified(split: str) -> None:
    target = load_digits().target
    part = load_images("digits", split)
    for label in range(10):
        share = SHARES[split] * int((target == label).sum())
        assert abs(int((part.y == label).sum()) - share) <= 1, (split, label)


@pytest.mark.parametrize("split", [*SPLITS, "all"])
def test_digits_pixels_and_labels_are_sklearns(split: str) -> None:
    raw = load_digits()
    images = load_images("digits", split)
    rows = [int(sample_id.removeprefix("digits/")) for sample_id in images.ids]
    assert images.x.dtype == torch.float32
    assert images.y.dtype == torch.int64
    assert images.num_classes == 10
    np.testing.assert_array_equal(images.x[:, 0].numpy(), raw.images[rows] / 16)
    np.testing.assert_array_equal(images.y.numpy(), raw.target[rows])


def test_digits_come_in_the_order_of_hashed_ids() -> None:
    ids = load_images("digits", "all").ids
    expected = sorted((f"digits/{i:04d}" for i in range(1797)), key=lambda one: hashlib.sha256(one.encode()).digest())
    assert list(ids) == expected
    assert load_images("digits", "test").ids == load_images("digits", None).ids


def test_sample_hashes_cover_dtype_shape_and_pixels() -> None:
    images = load_images("digits", "val")
    for pixels, found in zip(images.x, images.hashes, strict=True):
        assert found == hashlib.sha256(b"<f4 (1, 8, 8)\n" + pixels.numpy().tobytes()).hexdigest()[:32]


def test_digest_covers_ids_labels_and_hashes_in_order() -> None:
    images = load_images("digits", "test")
    lines = (f"{i}\t{int(y)}\t{h}\n".encode() for i, y, h in zip(images.ids, images.y, images.hashes, strict=True))
    assert images.digest == f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}"
    assert images.take([1, 0]).digest != images.take([0, 1]).digest


def test_digits_refuse_another_size() -> None:
    assert load_images("digits", "val", size=8).x.shape[2:] == (8, 8)
    with pytest.raises(BadInput, match="8 pixels"):
        load_images("digits", "val", size=32)


# ImageSet


def test_batches_yield_ids_images_and_labels_in_order() -> None:
    images = load_images("digits", "val")
    batches = list(images.batches(100))
    assert [len(ids) for ids, _, _ in batches] == [100, 100, len(images) - 200]
    assert sum((ids for ids, _, _ in batches), ()) == images.ids
    assert torch.equal(torch.cat([x for _, x, _ in batches]), images.x)
    assert torch.equal(torch.cat([y for _, _, y in batches]), images.y)


def test_head_is_nested_and_covers_classes() -> None:
    images = load_images("digits", "test")
    small, large = images.head(20), images.head(100)
    assert small.ids == large.ids[:20] == images.ids[:20]
    assert torch.equal(small.x, images.x[:20])
    assert images.head(None).ids == images.head(len(images)).ids == images.ids
    assert large.num_classes == 10
    assert set(large.y.tolist()) == set(range(10))


@pytest.mark.parametrize("n", [0, -1, 10_000])
def test_head_refuses_what_is_not_there(n: int) -> None:
    images = load_images("digits", "val")
    with pytest.raises(BadInput, match=f"--n {n}.*{len(images)}"):
        images.head(n)


def test_channel_statistics_are_over_all_pixels(tmp_path: Path) -> None:
    x = np.zeros((4, 3, 4, 4), dtype=np.uint8)
    x[:2, 0] = 255
    x[:, 1] = 51
    mean, std = load_images(save_npz(tmp_path, x, np.arange(4) % 2)).channel_statistics()
    assert mean == pytest.approx((0.5, 0.2, 0.0), abs=1e-6)
    assert std == pytest.approx((0.5, 1.0, 1.0), abs=1e-6)


# names and places


@pytest.mark.parametrize(
    ("name", "split", "hint"),
    [
        ("digit", None, "digits"),
        ("npz", None, "npz:PATH"),
        ("npz:", None, "npz:PATH"),
        ("digits:here", None, "none of: digits, "),
        ("imagenet:", None, r"imagenet\[:PATH\]"),
        ("npy:here", None, "npz"),
        ("digits", "tets", "test"),
        ("npz:nowhere.npz", None, "nowhere.npz"),
        ("image_folder:nowhere", None, "nowhere"),
    ],
)
def test_unusable_names_say_what_was_meant(name: str, split: str | None, hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        load_images(name, split)


def test_the_size_in_pixels_is_positive(tmp_path: Path) -> None:
    class_tree(tmp_path, each=1)
    for size in (0, -8):
        with pytest.raises(BadInput, match=f"--image-size {size}"):
            load_images(f"image_folder:{tmp_path}", size=size)


@pytest.mark.parametrize("name", ["digits", "npz:images.npz", "image_folder:tree"])
def test_a_loader_is_refused_where_there_is_no_choice(name: str) -> None:
    with pytest.raises(BadInput, match=f"--loader torchvision: {name.partition(':')[0]} has one way"):
        load_images(name, loader="torchvision")
    with pytest.raises(BadInput, match="unknown loader 'opencv'; did you mean opencv-cubic"):
        load_images(name, loader="opencv")


def test_data_dir_wins_over_the_variable_which_wins_over_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = arrays()
    folders = {name: tmp_path / name for name in ("here", "variable", "option")}
    for count, folder in zip((10, 20, 30), folders.values(), strict=True):
        save_npz(folder, x[:count], y[:count])
    monkeypatch.chdir(folders["here"])
    monkeypatch.delenv("SATBENCH_DATA", raising=False)
    assert len(load_images("npz:images.npz")) == 10
    monkeypatch.setenv("SATBENCH_DATA", str(folders["variable"]))
    assert len(load_images("npz:images.npz")) == 20
    assert len(load_images("npz:images.npz", data_dir=folders["option"])) == 30
    assert len(load_images(f"npz:{folders['here'] / 'images.npz'}", data_dir=folders["option"])) == 10


# npz


def test_npz_layouts_and_dtypes_give_equal_images(tmp_path: Path) -> None:
    x, y = arrays()
    nchw = load_images(save_npz(tmp_path / "nchw", x, y))
    nhwc = load_images(save_npz(tmp_path / "nhwc", x.transpose(0, 2, 3, 1), y))
    floats = load_images(save_npz(tmp_path / "floats", x / 255, y.astype(np.uint8)))
    assert nchw.digest == nhwc.digest
    assert nchw.ids == floats.ids
    rows = [int(sample_id.split("/")[1]) for sample_id in nchw.ids]
    for images in (nchw, nhwc, floats):
        np.testing.assert_allclose(images.x.numpy(), x[rows] / 255, atol=1e-7)
        np.testing.assert_array_equal(images.y.numpy(), y[rows])


def test_npz_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    name = save_npz(tmp_path, *arrays())
    parts = {split: load_images(name, split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 24, "val": 6, "test": 10}
    assert set().union(*(part.ids for part in parts.values())) == {f"images.npz/{i:06d}" for i in range(40)}
    assert len(load_images(name)) == 40


def test_one_changed_pixel_or_label_changes_the_digest(tmp_path: Path) -> None:
    x, y = arrays()
    before = load_images(save_npz(tmp_path / "before", x, y))
    again = load_images(save_npz(tmp_path / "again", x, y))
    assert before.digest == again.digest
    relabelled = y.copy()
    relabelled[7] = 1 - relabelled[7]
    x[7, 1, 2, 3] ^= 1
    pixel = load_images(save_npz(tmp_path / "pixel", x, y))
    assert pixel.digest != before.digest
    changed = [i for i, a, b in zip(before.ids, before.hashes, pixel.hashes, strict=True) if a != b]
    assert changed == ["images.npz/000007"]
    x[7, 1, 2, 3] ^= 1
    assert load_images(save_npz(tmp_path / "label", x, relabelled)).digest != before.digest


Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
REFUSED: dict[str, tuple[Change, str]] = {
    "both axes could be channels": (lambda x, y: (x[:, :, :, :3], y), "exactly one"),
    "no axis could be channels": (lambda x, y: (np.zeros((40, 8, 8, 8), np.uint8), y), "exactly one"),
    "no channel axis": (lambda x, y: (x[:, 0], y), r"\(N, H, W, C\)"),
    "not square": (lambda x, y: (x[:, :, :4], y), "4 x 8"),
    "floats in 0..255": (lambda x, y: (x.astype(np.float32), y), "divide by 255"),
    "negative floats": (lambda x, y: (x / 255 - 0.5, y), r"expected \[0, 1\]"),
    "slightly above one": (lambda x, y: (x / 254, y), r"expected \[0, 1\]"),
    "NaN": (lambda x, y: (np.where(x == x.max(), np.nan, x / 255), y), "NaN"),
    "infinity": (lambda x, y: (np.where(x == x.max(), np.inf, x / 255), y), "infinite"),
    "signed integers": (lambda x, y: (x.astype(np.int64), y), "int64"),
    "no images": (lambda x, y: (x[:0], y[:0]), "N > 0"),
    "negative label": (lambda x, y: (x, y - 1), "negative"),
    "float labels": (lambda x, y: (x, y.astype(float)), "expected integers"),
    "too few labels": (lambda x, y: (x, y[:-1]), "40 images"),
    "one-hot labels": (lambda x, y: (x, np.eye(2, dtype=int)[y]), "one label an image"),
    "pickled labels": (lambda x, y: (x, y.astype(object)), "plain arrays"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_npz_refuses(case: str, tmp_path: Path) -> None:
    change, hint = REFUSED[case]
    with pytest.raises(BadInput, match=hint):
        load_images(save_npz(tmp_path, *change(*arrays())))


def test_npz_refuses_another_size(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="8 pixels"):
        load_images(save_npz(tmp_path, *arrays()), size=16)


def test_npz_names_the_missing_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=arrays()[0], labels=arrays()[1])
    with pytest.raises(BadInput, match=r"'y'.*labels"):
        load_images(f"npz:{tmp_path / 'a.npz'}")


def test_npz_with_too_few_images_for_a_split_is_refused(tmp_path: Path) -> None:
    name = save_npz(tmp_path, *(part[:2] for part in arrays()))
    with pytest.raises(BadInput, match="--split all"):
        load_images(name, "val")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def corrupt_compressed(file: Path) -> None:
    x, y = arrays()
    np.savez_compressed(file, x=np.zeros_like(x), y=y)
    with zipfile.ZipFile(file) as archive:
        start = archive.getinfo("x.npy").header_offset + 30 + len("x.npy") + 20
    whole = bytearray(file.read_bytes())
    whole[start : start + 8] = b"\xff" * 8
    file.write_bytes(whole)


def bare_array(file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, arrays()[0])


@pytest.mark.parametrize(
    "damage",
    [truncate, corrupt_compressed, bare_array, lambda f: f.write_bytes(b""), lambda f: f.write_bytes(b"no archive")],
    ids=["truncated", "corrupt", "npy", "empty", "text"],
)
def test_npz_refuses_damaged_files(damage: Callable[[Path], object], tmp_path: Path) -> None:
    name = save_npz(tmp_path, *arrays())
    damage(tmp_path / "images.npz")
    with pytest.raises(BadInput, match=r"images\.npz"):
        load_images(name)


def test_pickled_arrays_are_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return Path.write_text, (tmp_path / "sprung", "x")  # type: ignore[return-value]

    x = np.empty(1, dtype=object)
    x[0] = Trap()
    with pytest.raises(BadInput, match="plain arrays"):
        load_images(save_npz(tmp_path, x, np.zeros(1, int)))
    assert not (tmp_path / "sprung").exists()


# image folders


def test_flat_tree_is_carved_by_class(tmp_path: Path) -> None:
    class_tree(tmp_path / "tree")
    name = f"image_folder:{tmp_path / 'tree'}"
    parts = {split: load_images(name, split, size=8) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 24, "val": 6, "test": 10}
    whole = labels_by_id(load_images(name, size=8))
    assert whole == {f"{c}/{i}.png": label for label, c in enumerate(("blue", "red")) for i in range(20)}
    assert {k: v for part in parts.values() for k, v in labels_by_id(part).items()} == whole


def test_constant_colours_survive_resizing(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "wide.png", RED, (50, 20))
    save_image(tmp_path / "b" / "tall.jpg", BLUE, (20, 50))
    images = load_images(f"image_folder:{tmp_path}", size=16)
    assert images.x.shape == (2, 3, 16, 16)
    for pixels, label in zip(images.x, images.y, strict=True):
        expected = torch.tensor(RED if label == 0 else BLUE) / 255
        assert torch.allclose(pixels, expected.view(3, 1, 1).expand(3, 16, 16), atol=2 / 255)


def test_long_side_is_cropped_to_the_centre(tmp_path: Path) -> None:
    stripes = np.zeros((8, 16, 3), dtype=np.uint8)
    stripes[:, :, 0] = 10 * np.arange(16)
    (tmp_path / "a").mkdir()
    Image.fromarray(stripes).save(tmp_path / "a" / "wide.png")
    Image.fromarray(stripes.transpose(1, 0, 2)).save(tmp_path / "a" / "tall.png")
    images = load_images(f"image_folder:{tmp_path}", size=8)
    columns = torch.arange(40, 120, 10) / 255
    for sample_id, pixels in zip(images.ids, images.x, strict=True):
        red = pixels[0] if "wide" in sample_id else pixels[0].T
        torch.testing.assert_close(red, columns.expand(8, 8))


def test_shrinking_averages(tmp_path: Path) -> None:
    checks = np.zeros((64, 64, 3), dtype=np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    (tmp_path / "a").mkdir()
    Image.fromarray(checks).save(tmp_path / "a" / "checks.png")
    pixels = load_images(f"image_folder:{tmp_path}", size=4).x
    assert pixels.min() > 0.45
    assert pixels.max() < 0.55


def test_grey_images_become_rgb_and_other_files_are_left_alone(tmp_path: Path) -> None:
    class_tree(tmp_path, each=1)
    Image.new("L", (8, 8), 102).save(tmp_path / "red" / "grey.bmp")
    (tmp_path / "red" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    images = load_images(f"image_folder:{tmp_path}", size=8)
    assert sorted(images.ids) == ["blue/0.png", "red/0.png", "red/grey.bmp"]
    assert torch.equal(images.x[images.ids.index("red/grey.bmp")], torch.full((3, 8, 8), 102 / 255))


def test_own_train_and_test_folders_are_the_split(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", each=20)
    class_tree(tmp_path / "test", each=3)
    name = f"image_folder:{tmp_path}"
    test, train, val = (load_images(name, split, size=8) for split in ("test", "train", "val"))
    assert set(test.ids) == {f"test/{c}/{i}.png" for c in ("blue", "red") for i in range(3)}
    assert load_images(name, size=8).ids == test.ids
    assert len(val) == 6
    assert len(train) == 34
    assert set(train.ids) | set(val.ids) == {f"train/{c}/{i}.png" for c in ("blue", "red") for i in range(20)}
    assert (test.split, train.split, val.split) == ("test", "train", "val")


def test_own_val_folder_is_used(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", each=5)
    class_tree(tmp_path / "val", each=2)
    name = f"image_folder:{tmp_path}"
    assert len(load_images(name, "train", size=8)) == 10
    assert set(load_images(name, "val", size=8).ids) == {f"val/{c}/{i}.png" for c in ("blue", "red") for i in range(2)}
    with pytest.raises(BadInput, match=r"train, val.*'test'"):
        load_images(name, "test", size=8)


def test_a_val_folder_alone_is_a_split_and_not_a_class(tmp_path: Path) -> None:
    class_tree(tmp_path / "val", each=2)
    images = load_images(f"image_folder:{tmp_path}", "val", size=8)
    assert labels_by_id(images) == {"val/blue/0.png": 0, "val/blue/1.png": 0, "val/red/0.png": 1, "val/red/1.png": 1}


def test_classes_absent_from_a_split_keep_their_number(tmp_path: Path) -> None:
    class_tree(tmp_path / "train", each=4)
    save_image(tmp_path / "test" / "red" / "0.png", RED)
    test = load_images(f"image_folder:{tmp_path}", "test", size=8)
    assert labels_by_id(test) == {"test/red/0.png": 1}
    assert test.num_classes == 2


@pytest.mark.parametrize("content", [b"", b"plain text", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    class_tree(tmp_path, each=1)
    (tmp_path / "red" / "odd.png").write_bytes(content)
    with pytest.raises(BadInput, match=r"odd\.png is not a readable image"):
        load_images(f"image_folder:{tmp_path}", size=8)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "cut.png"
    Image.fromarray(arrays(1, side=32)[0][0].transpose(1, 2, 0)).save(file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"cut\.png"):
        load_images(f"image_folder:{tmp_path}", size=8)


@pytest.mark.parametrize("folders", [[], ["red"], ["train/red", "test/red"]])
def test_empty_folders_are_refused(tmp_path: Path, folders: list[str]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(BadInput, match="no images"):
        load_images(f"image_folder:{tmp_path}")


def test_pixels_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    """Pillow would clip a 16-bit picture to white."""
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a" / "deep.png")
    with pytest.raises(BadInput, match="8 bits"):
        load_images(f"image_folder:{tmp_path}", size=8)


def test_foreign_byte_order_and_wild_labels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((4, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x.astype(">f4"), y=np.arange(4))
    loaded = load_images(f"npz:{tmp_path / 'a.npz'}", "all")
    for sample_id, image in zip(loaded.ids, loaded.x, strict=True):
        assert torch.equal(image, torch.from_numpy(x[int(sample_id[-6:])]))
    np.savez(tmp_path / "b.npz", x=x, y=np.array([0, 1, 2, 10**9]))
    with pytest.raises(BadInput, match="no class number"):
        load_images(f"npz:{tmp_path / 'b.npz'}")


# CIFAR-10 as JPEG

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty training and three test images a class, of a grey level a class."""
    root = tmp_path_factory.mktemp("jpegs")
    for label, name in enumerate(CIFAR10):
        for file in (
            *(f"train/{name}/{i:04d}.jpg" for i in range(20)),
            *(f"test/{name}/{i:04d}.jpg" for i in range(3)),
        ):
            save_image(root / file, (20 * label, 20 * label, 20 * label), (32, 32))
    return root


def test_cifar10_jpeg_keeps_its_split_and_carves_val_out_of_train(jpegs: Path) -> None:
    parts = {split: load_images(f"cifar10-jpeg:{jpegs}", split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 170, "val": 30, "test": 30}
    assert len({sample_id for part in parts.values() for sample_id in part.ids}) == 230
    assert load_images(f"cifar10-jpeg:{jpegs}").digest == parts["test"].digest
    for split, part in parts.items():
        assert (part.name, part.split, part.num_classes, part.shape) == ("cifar10-jpeg", split, 10, (3, 32, 32))
        assert all(sample_id.startswith("test/" if split == "test" else "train/") for sample_id in part.ids)
        assert part.y.bincount(minlength=10).tolist() == [len(part) // 10] * 10
        assert list(part.ids) == sorted(part.ids, key=lambda one: hashlib.sha256(one.encode()).digest())


def test_cifar10_jpeg_labels_and_pixels_are_the_files(jpegs: Path) -> None:
    images = load_images(f"cifar10-jpeg:{jpegs}", "val").in_memory()
    for sample_id, x, y in zip(images.ids, images.x, images.y.tolist(), strict=True):
        assert sample_id.split("/")[1] == CIFAR10[y]
        with Image.open(jpegs / sample_id) as image:
            np.testing.assert_array_equal(x.numpy(), np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
        assert x.mean() == pytest.approx(20 * y / 255, abs=1.5 / 255)


def drop_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")


def enlarge(root: Path) -> None:
    save_image(root / "train" / "cat" / "0007.jpg", RED, (33, 32))


def write_text(root: Path) -> None:
    (root / "train" / "cat" / "0007.jpg").write_text("no image")


def move_away(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("spoil", "hint"),
    [
        (drop_class, r"no images in .*train/dog; .*train/<class>/\*\.jpg and test/<class>/\*\.jpg"),
        (move_away, r"no images in .*train/airplane; .*train/<class>/\*\.jpg and test/<class>/\*\.jpg"),
        (enlarge, r"cat/0007\.jpg is 33 x 32 pixels"),
        (write_text, r"cat/0007\.jpg is not a readable image"),
    ],
)
def test_cifar10_jpeg_refuses(spoil: Callable[[Path], None], hint: str, jpegs: Path, tmp_path: Path) -> None:
    shutil.copytree(jpegs, tmp_path / "copy")
    spoil(tmp_path / "copy")
    with pytest.raises(BadInput, match=hint):
        load_images(f"cifar10-jpeg:{tmp_path / 'copy'}", "train")


def test_cifar10_jpeg_without_a_path_is_the_folder_of_its_name(jpegs: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar10-jpeg").symlink_to(jpegs)
    assert load_images("cifar10-jpeg", "test", data_dir=tmp_path).digest == load_images(f"cifar10-jpeg:{jpegs}").digest
    check_data_path("cifar10-jpeg", tmp_path)
    with pytest.raises(BadInput, match=r"no such file: .*nowhere/cifar10-jpeg; give another path"):
        check_data_path("cifar10-jpeg", tmp_path / "nowhere")


def test_cifar10_jpeg_has_one_size_and_three_splits(jpegs: Path) -> None:
    with pytest.raises(BadInput, match="32 pixels a side, not 64"):
        load_images(f"cifar10-jpeg:{jpegs}", "test", 64)
    with pytest.raises(BadInput, match="train, val, test; there is no 'all'"):
        load_images(f"cifar10-jpeg:{jpegs}", "all")
