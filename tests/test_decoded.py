"""Image files for training at real sizes: decoded once and cached, streamed where they do not fit, gray kept gray."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import contents, tiny
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import decoded, image_folder, load_images, training_splits
from satbench.data.images import FileImages, ImageSet
from satbench.data.loaders import ImageFile
from satbench.models.weights import Provenance, load_model_file
from satbench.zoo import load

CLASSES, EACH, SIDE = ("left", "right"), 16, 12


def write_tree(root: Path, mode: str = "RGB", name: str = "train") -> str:
    """Noise images of two classes, one half of each brighter; the name of the data set."""
    generated = np.random.default_rng(0)
    for label, folder in enumerate(CLASSES):
        (root / name / folder).mkdir(parents=True)
        for i in range(EACH):
            pixels = generated.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[:, label * SIDE // 2 :][:, : SIDE // 2] += 100
            Image.fromarray(pixels).convert(mode).save(root / name / folder / f"{i:02d}.png")
    return f"image_folder:{root}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caching begins with four files here."""
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(decoded, "FEWEST", 4)
    return tmp_path / "home" / "decoded"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every image file that is decoded."""
    names: list[str] = []
    decode = image_folder.open_rgb

    def counted(file: ImageFile) -> Image.Image:
        names.append(file.name)
        return decode(file)

    monkeypatch.setattr(image_folder, "open_rgb", counted)
    return names


# the cache


def test_gc_deletes_what_no_start_has_read_for_a_month(tmp_path: Path, cache: Path) -> None:
    name = write_tree(tmp_path / "images")
    load_images(name, "train")
    (kept,) = cache.glob("*.pixels")
    old = cache / f"{'0' * 32}.pixels"
    old.write_bytes(b"pixels")
    month = time.time() - 31 * 24 * 3600
    for path in (kept, old):
        os.utime(path, (month, month))
    load_images(name, "train")  # which reads `kept`
    result = CliRunner().invoke(app, ["models", "gc"])
    assert result.exit_code == 0
    assert f"deleted {old} " in result.output
    assert kept.is_file()
    assert not old.exists()


def test_the_second_start_decodes_nothing_and_has_the_same_images(tmp_path: Path, opened: list[str]) -> None:
    name = write_tree(tmp_path / "data")
    opened.clear()
    first = training_splits(name)
    assert len(opened) == 2 * EACH
    for val, train_n in ((None, None), (4, None), (None, 3), ("none", 7)):
        images, _ = training_splits(name, val=val, train_n=train_n)
        assert len(images) == (train_n or (2 * EACH - 4 if val else len(first[0])))
    assert training_splits(name)[0].digest == first[0].digest
    assert load_images(name, "val").digest == first[1].digest  # type: ignore[union-attr]
    assert len(opened) == 2 * EACH
    load_images(name, "train", size=7)
    assert len(opened) == 4 * EACH


def test_cached_pixels_are_those_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_tree(tmp_path / "data")
    load_images(name, "train")
    cached = load_images(name, "train")
    monkeypatch.setattr(decoded, "FEWEST", 1000)
    alone = load_images(name, "train")
    assert isinstance(cached, ImageSet)
    assert isinstance(alone, ImageSet)
    assert torch.equal(cached.x, alone.x)
    assert (cached.ids, cached.hashes, cached.class_names) == (alone.ids, alone.hashes, CLASSES)


def test_a_changed_file_is_decoded_again_though_length_and_time_are_the_same(tmp_path: Path) -> None:
    name = write_tree(tmp_path / "data")
    for file in (tmp_path / "data").rglob("*.png"):  # without compression every image has one length
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    before = load_images(name, "train")
    changed = tmp_path / "data/train/left/03.bmp"
    stat = changed.stat()
    Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(changed)
    os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (changed.stat().st_size, changed.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert load_images(name, "train").digest != before.digest


@pytest.mark.parametrize("damage", ["bit", "short", "long", "empty"])
def test_a_damaged_cache_is_replaced(damage: str, tmp_path: Path, cache: Path) -> None:
    name = write_tree(tmp_path / "data")
    before = load_images(name, "train")
    (file,) = cache.glob("*.pixels")
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[1000] ^= 1
    file.write_bytes({"bit": bytes(flipped), "short": whole[:-1], "long": whole + b"0", "empty": b""}[damage])
    assert load_images(name, "train").digest == before.digest
    assert file.read_bytes() == whole


def test_without_a_place_for_the_cache_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "file"))
    name = write_tree(tmp_path / "data")
    assert len(load_images(name, "train")) + len(load_images(name, "val")) == 2 * EACH
    assert "cannot be written (Not a directory), so the next start decodes them again" in capsys.readouterr().err


# gray


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_gray_files_have_one_channel(mode: str, tmp_path: Path) -> None:
    name = write_tree(tmp_path / "data", mode)
    gray, rgb = load_images(name, "train"), load_images(name, "train", channels=3)
    assert isinstance(gray, ImageSet)
    assert isinstance(rgb, ImageSet)
    assert gray.shape[0] == 1
    assert torch.equal(gray.x.expand(-1, 3, -1, -1), rgb.x)
    assert load_images(name, "train").digest == gray.digest


def test_one_colour_image_in_any_split_makes_all_rgb(tmp_path: Path) -> None:
    name = write_tree(tmp_path / "data", "L")
    write_tree(tmp_path / "data", "L", "test")
    assert load_images(name, "train").shape[0] == 1
    file = tmp_path / "data/test/right/15.png"
    Image.open(file).convert("RGB").save(file)
    assert {load_images(name, split).shape[0] for split in ("train", "val", "test")} == {3}


def test_a_network_of_three_channels_is_measured_on_gray_files_as_before(tmp_path: Path) -> None:
    coloured = write_tree(tmp_path / "colour")
    train(tiny(coloured, epochs=1, image_size=8), tmp_path / "run", "cpu")
    gray = write_tree(tmp_path / "gray", "L")
    run = evaluate(str(tmp_path / "run"), attack="fgsm", eps=0.1, dataset=gray, split="train", out=tmp_path / "out")
    assert run.manifest.data.digest == load_images(gray, "train", 8, channels=3).digest


# training


def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "MOST", 0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_streamed_files_train_the_same_network(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_tree(tmp_path / "data", mode)
    config = tiny(name, epochs=2, image_size=8, batch_size=8, augment="crop-flip")
    train(config, tmp_path / "memory", "cpu")
    streamed(monkeypatch)
    assert isinstance(training_splits(name, 8)[0], FileImages)
    train(config, tmp_path / "files", "cpu")
    one, other = (load_model_file(tmp_path / run / "last.safetensors") for run in ("memory", "files"))
    assert one[0].spec.channels == (1 if mode == "L" else 3)
    for (key, tensor), twin in zip(one[0].state_dict().items(), other[0].state_dict().values(), strict=True):
        if key not in ("mean", "std"):
            torch.testing.assert_close(tensor, twin, rtol=1e-3, atol=1e-4, msg=key)


def stop_in_second_epoch(done: int, total: int, words: str) -> None:
    if done > total / 2 + 1:
        raise KeyboardInterrupt


@pytest.mark.one_in(2)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_random_resized_crops_of_a_folder_train_and_resume(mode: str, tmp_path: Path) -> None:
    name = write_tree(tmp_path / "data", mode)
    config = tiny(name, epochs=2, image_size=8, batch_size=8, augment="random-resized-crop")
    train(config, tmp_path / "whole", "cpu")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", "cpu", progress=stop_in_second_epoch)
    train(config, tmp_path / "cut", "cpu")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    plain = config.with_values({"augment": "none", "recipe": "tiny"})
    with pytest.raises(BadInput, match="augment"):
        train(plain, tmp_path / "whole", "cpu")
    train(plain, tmp_path / "plain", "cpu")
    assert contents(tmp_path / "plain")["last.safetensors"] != contents(tmp_path / "whole")["last.safetensors"]
    run = evaluate(str(tmp_path / "whole"), attack="fgsm", eps=0.1, split="val", out=tmp_path / "out")
    assert run.manifest.data.digest == training_splits(name, 8)[1].digest  # type: ignore[union-attr]


def test_a_run_on_part_of_the_images_says_so_and_is_measured_on_the_same_ones(tmp_path: Path) -> None:
    name = write_tree(tmp_path / "data")
    config = tiny(name, epochs=1, image_size=8, batch_size=8, **{"data.train_n": "10"})
    assert "data.train_n=10" in tiny(name, recipe="digits-sat", **{"data.train_n": 10}).named_after(tiny(name)).recipe
    train(config, tmp_path / "run", "cpu")
    _, origin = load_model_file(tmp_path / "run" / "best.safetensors")
    images, held_out = training_splits(name, 8, train_n=10)
    everything, same_held_out = training_splits(name, 8)
    assert isinstance(origin, Provenance)
    assert (origin.train_n, origin.train_digest, len(images)) == (10, images.digest, 10)
    assert set(images.ids) <= set(everything.ids)
    assert images.y.bincount().tolist() == [5, 5]
    assert held_out.digest == same_held_out.digest  # type: ignore[union-attr]
    assert load(str(tmp_path / "run")).train_n == 10
    run = evaluate(str(tmp_path / "run"), attack="fgsm", eps=0.1, split="train", out=tmp_path / "out")
    assert (run.manifest.data.n, run.manifest.data.digest) == (10, images.digest)


@pytest.mark.parametrize(("train_n", "words"), [(1, "from 2"), (0, "from 2"), ("some", "from 2"), (99, "28 training")])
def test_a_number_of_images_that_there_are_not_is_refused(train_n: object, words: str, tmp_path: Path) -> None:
    name = write_tree(tmp_path / "data")
    with pytest.raises(BadInput, match=words):
        train(tiny(name, image_size=8, **{"data.train_n": train_n}), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()
