"""ImageNet: found in every layout, decoded batch by batch, measured with the network's own loader."""

import hashlib
import os
import random
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor, nn
from typer.testing import CliRunner

from satbench import evaluate
from satbench.attacks import PGD
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import Images, imagenet, load_images
from satbench.data.loaders import LOADERS
from satbench.recipes import RECIPES
from satbench.results.schema import ModelInfo
from satbench.results.store import Run, read_run
from satbench.training import train
from satbench.zoo import Loaded

WNIDS = [f"n{1_000_000 + 7_919 * i:08d}" for i in range(1000)]
NUMBERS = random.Random(0).sample(range(1, 50_001), 1000)  # which validation image shows which class
ANNOTATION = "<annotation><object><name>{}</name></object><object><name>n99999999</name></object></annotation>"
CLS_LOC = "ILSVRC/Data/CLS-LOC/val"
KIT = "ILSVRC2012_devkit_t12"

Build = Callable[[Path], None]


def colour(label: int) -> tuple[int, int, int]:
    return label // 100 * 25, label // 10 % 10 * 25, label % 10 * 25


def file_name(label: int) -> str:
    return f"ILSVRC2012_val_{NUMBERS[label]:08d}.JPEG"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny image a class, whose colour tells which, in a flat folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for label in range(1000):
        Image.new("RGB", (8, 8), colour(label)).save(folder / file_name(label), quality=95)
    return folder


@pytest.fixture(scope="module")
def layouts(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same thousand images in every layout."""
    builders: dict[str, Build] = {
        "class folders": lambda root: class_folders(pictures, root / "val"),
        "bare class folders": lambda root: class_folders(pictures, root),
        "kaggle": lambda root: kaggle(pictures, root),
        "annotations": lambda root: annotations(pictures, root),
        "devkit": lambda root: devkit(pictures, root),
        "archives": lambda root: archives(pictures, root),
    }
    roots = {}
    for name, build in builders.items():
        roots[name] = tmp_path_factory.mktemp("layout") / name
        build(roots[name])
    return roots


def link_all(pictures: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for label in range(1000):
        os.link(pictures / file_name(label), folder / file_name(label))


def class_folders(pictures: Path, folder: Path) -> None:
    for label, wnid in enumerate(WNIDS):
        (folder / wnid).mkdir(parents=True)
        os.link(pictures / file_name(label), folder / wnid / file_name(label))


def kaggle(pictures: Path, root: Path) -> None:
    link_all(pictures, root / CLS_LOC)
    rows = [f"ILSVRC2012_val_{NUMBERS[label]:08d},{wnid} 1 2 3 4 " for label, wnid in enumerate(WNIDS)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))


def annotations(pictures: Path, root: Path) -> None:
    link_all(pictures, root / CLS_LOC)
    folder = root / "ILSVRC/Annotations/CLS-LOC/val"
    folder.mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        (folder / file_name(label)).with_suffix(".xml").write_text(ANNOTATION.format(wnid))


def devkit(pictures: Path, root: Path) -> None:
    """Ids 1 to 1000 in another order than the WordNet ids, and inner nodes above them, as in the real one."""
    link_all(pictures, root / "ILSVRC2012_img_val")
    data = root / KIT / "data"
    data.mkdir(parents=True)
    shuffled = random.Random(1).sample(WNIDS, 1000)
    ids = {wnid: number for number, wnid in enumerate(shuffled, 1)}
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    leaves = [(number, wnid, "a leaf", 0) for wnid, number in ids.items()]
    inner = [(number, f"n9{number:07d}", "an inner node", 2) for number in range(1001, 1100)]
    savemat(data / "meta.mat", {"synsets": np.array(leaves + inner, dtype=kind)[:, None]})
    truth = [str(ids[WNIDS[0]])] * 50_000
    for label, wnid in enumerate(WNIDS):
        truth[NUMBERS[label] - 1] = str(ids[wnid])
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(truth) + "\n")


def archives(pictures: Path, root: Path) -> None:
    devkit(pictures, root)
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for file in (root / "ILSVRC2012_img_val").iterdir():
            tar.add(file, file.name)
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as tar:
        tar.add(root / KIT, KIT)
    shutil.rmtree(root / "ILSVRC2012_img_val")
    shutil.rmtree(root / KIT)


@pytest.fixture
def few(layouts: dict[str, Path]) -> Images:
    """Forty of them at 16 pixels."""
    return load_images(f"imagenet:{layouts['class folders']}", size=16).head(40)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layouts: dict[str, Path]) -> Path:
    monkeypatch.delenv("SATBENCH_DATA", raising=False)
    kit = hashlib.md5((layouts["archives"] / f"{KIT}.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(imagenet, "DEVKIT_MD5", kit)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# layouts


LAYOUTS = ["class folders", "bare class folders", "kaggle", "annotations", "devkit", "archives"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_follow_the_sorted_wordnet_ids_in_every_layout(layout: str, layouts: dict[str, Path]) -> None:
    images = load_images(f"imagenet:{layouts[layout]}", size=8)
    assert (images.name, images.split, images.num_classes) == ("imagenet", "val", 1000)
    assert sorted(images.ids) == [f"{wnid}/{file_name(label)}" for label, wnid in enumerate(WNIDS)]
    for _, x, y in images.head(200).batches(100):
        expected = torch.tensor([colour(label) for label in y.tolist()]) / 255
        torch.testing.assert_close(x.mean((2, 3)), expected, atol=4 / 255, rtol=0)
    assert [WNIDS[label] for label in images.y.tolist()] == [sample_id[:9] for sample_id in images.ids]


def test_every_layout_gives_the_same_samples_in_the_same_order(layouts: dict[str, Path]) -> None:
    found = [load_images(f"imagenet:{layouts[layout]}", size=4) for layout in LAYOUTS]
    expected = sorted(found[0].ids, key=lambda one: hashlib.sha256(one.encode()).digest())
    assert all(list(images.ids) == expected for images in found)
    assert len({images.head(200).digest for images in found}) == 1
    assert len(set(found[0].head(500).y.tolist())) == 500


@pytest.mark.parametrize("folder", ["", "imagenet", "ILSVRC2012"])
def test_imagenet_is_found_where_the_data_are(
    folder: str, layouts: dict[str, Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layouts["kaggle"]
    sets = here / "sets"
    if folder:
        sets.mkdir()
    (sets / folder).symlink_to(root)
    ids = load_images("imagenet", data_dir=sets).ids
    assert len(ids) == 1000
    assert load_images(f"imagenet:{sets}").ids == load_images("imagenet:sets").ids == ids
    monkeypatch.setenv("SATBENCH_DATA", "sets")
    assert load_images("imagenet").ids == ids
    monkeypatch.chdir(sets)
    monkeypatch.delenv("SATBENCH_DATA")
    assert load_images("imagenet").ids == ids


def test_training_images_come_from_class_folders(pictures: Path, here: Path) -> None:
    for label, wnid in enumerate(WNIDS):
        (here / "train" / wnid).mkdir(parents=True)
        os.link(pictures / file_name(label), here / "train" / wnid / f"{wnid}_7.JPEG")
    for other in ("._odd.JPEG", "notes.txt"):
        (here / "train" / WNIDS[0] / other).touch()
    for name in ("imagenet", "imagenet:train"):
        images = load_images(name, "train")
        assert (len(images), images.split) == (1000, "train")
        assert [WNIDS[label] for label in images.y.tolist()] == [sample_id[:9] for sample_id in images.ids]
        with pytest.raises(BadInput, match="no ImageNet val images"):
            load_images(name)


@pytest.mark.parametrize(("split", "hint"), [("test", "not public"), ("all", "val and train apart")])
def test_other_splits_are_refused(split: str, hint: str, layouts: dict[str, Path]) -> None:
    with pytest.raises(BadInput, match=f"no '{split}' split.*{hint}.*--split val or train$"):
        load_images(f"imagenet:{layouts['kaggle']}", split)


def test_no_imagenet_says_how_to_point_to_one(here: Path) -> None:
    (here / "val" / "cats").mkdir(parents=True)
    for name in ("imagenet", "imagenet:nowhere"):
        with pytest.raises(BadInput) as caught:
            load_images(name, data_dir=here)
        for hint in ("--data-dir", "SATBENCH_DATA", "val/<wnid>", CLS_LOC, "ILSVRC2012_img_val", "imagenet-sample"):
            assert hint in str(caught.value)
        assert "\n" not in str(caught.value)


Spoil = Callable[[Path], object]


def spoil_first_label(root: Path) -> None:
    file = root / "LOC_val_solution.csv"
    file.write_text(file.read_text().replace(f"_{NUMBERS[0]:08d},", "_0,"))


def overwrite(name: str, keep: int) -> Spoil:
    """Cut a file after its first `keep` bytes."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:keep])


def fewer_labels(root: Path) -> None:
    file = root / "LOC_val_solution.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:11]))
    for picture in sorted((root / CLS_LOC).iterdir()):
        if picture.stem not in file.read_text():
            picture.unlink()


SPOILT: dict[str, tuple[str, Spoil, str]] = {
    "999 classes": ("class folders", lambda root: shutil.rmtree(root / "val" / WNIDS[5]), "999 classes.*image_folder"),
    "1001 classes": ("class folders", lambda root: (root / "val" / "n00000001").mkdir(), "1001 classes"),
    "no images": ("class folders", lambda root: [f.unlink() for f in root.rglob("*.JPEG")], "has no images"),
    "kaggle without labels": ("kaggle", lambda root: (root / "LOC_val_solution.csv").unlink(), "no labels.*neither"),
    "kaggle with one label less": ("kaggle", spoil_first_label, rf"{file_name(0)} has no label"),
    "kaggle with ten labels": ("kaggle", fewer_labels, "10 classes"),
    "broken xml": (
        "annotations",
        overwrite(f"ILSVRC/Annotations/CLS-LOC/val/{file_name(0)}".replace(".JPEG", ".xml"), 30),
        r"\.xml is damaged",
    ),
    "no kit": ("devkit", lambda root: shutil.rmtree(root / KIT), f"no labels: {KIT} or"),
    "kit without truth": (
        "devkit",
        lambda root: (root / KIT / "data/ILSVRC2012_validation_ground_truth.txt").unlink(),
        "ground_truth",
    ),
    "kit of words": ("devkit", lambda root: (root / KIT / "data/meta.mat").write_text("meta"), "damaged"),
    "kit of nothing": ("devkit", lambda root: (root / KIT / "data/meta.mat").write_bytes(b""), "damaged"),
    "cut kit": ("devkit", overwrite(f"{KIT}/data/meta.mat", 9_000), "damaged"),
    "cut truth": (
        "devkit",
        overwrite(f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt", 90_000),
        "has no label|classes",
    ),
    "cut archive": ("archives", overwrite("ILSVRC2012_img_val.tar", 700), "no whole tar archive"),
    "archive of words": (
        "archives",
        lambda root: (root / "ILSVRC2012_img_val.tar").write_text("words" * 999),
        "no whole tar archive",
    ),
    "cut kit archive": ("archives", overwrite(f"{KIT}.tar.gz", 3_000), "damaged"),
    "no kit archive": ("archives", lambda root: (root / f"{KIT}.tar.gz").unlink(), "no labels"),
}


@pytest.mark.one_in(15)
@pytest.mark.parametrize("case", SPOILT)
def test_a_partial_or_damaged_imagenet_is_refused(case: str, layouts: dict[str, Path], here: Path) -> None:
    layout, spoil, hint = SPOILT[case]
    shutil.copytree(layouts[layout], here / "copy")
    spoil(here / "copy")
    with pytest.raises(BadInput, match=hint) as caught:
        load_images("imagenet:copy")
    assert "\n" not in str(caught.value)


# images in files


def test_images_are_what_the_loader_gives(few: Images, layouts: dict[str, Path]) -> None:
    assert few.shape == (3, 16, 16)
    assert few.loader == "torchvision"
    batches = list(few.batches(16))
    assert [len(ids) for ids, _, _ in batches] == [16, 16, 8]
    assert sum((ids for ids, _, _ in batches), ()) == few.ids
    assert torch.equal(torch.cat([y for _, _, y in batches]), few.y)
    x = torch.cat([x for _, x, _ in batches])
    assert x.dtype == torch.float32
    for sample_id, pixels, found in zip(few.ids, x, few.hashes, strict=True):
        expected = LOADERS["torchvision"](layouts["class folders"] / "val" / sample_id, 16)
        assert torch.equal(pixels, torch.from_numpy(expected).float() / 255)
        assert found == hashlib.sha256(b"|u1 (3, 16, 16)\n" + expected.tobytes()).hexdigest()[:32]


def test_hashes_are_taken_while_decoding(layouts: dict[str, Path], here: Path) -> None:
    shutil.copytree(layouts["archives"], here / "copy")
    images = load_images("imagenet:copy", size=8).head(20)
    part = images.take([3, 1])
    before = part.hashes
    list(images.batches(7))
    shutil.rmtree(here / "copy")
    assert images.take([3, 1]).hashes == part.hashes == before == (images.hashes[3], images.hashes[1])
    lines = (f"{i}\t{int(y)}\t{h}\n".encode() for i, y, h in zip(images.ids, images.y, images.hashes, strict=True))
    assert images.digest == f"sha256:{hashlib.sha256(b''.join(lines)).hexdigest()}"


def damage(root: Path, sample_id: str) -> str:
    """Overwrite the end of one image inside the archive below `root`; gives the image's file name."""
    name = sample_id.split("/")[1]
    archive = root / "ILSVRC2012_img_val.tar"
    with tarfile.open(archive) as tar:
        member = tar.getmember(name)
    with archive.open("r+b") as stream:
        stream.seek(member.offset_data + 20)
        stream.write(bytes(member.size - 20))
    return name


def test_nothing_is_decoded_before_its_turn_and_a_damaged_image_is_named(layouts: dict[str, Path], here: Path) -> None:
    shutil.copytree(layouts["archives"], here / "copy")
    images = load_images("imagenet:copy", size=8).head(12)
    name = damage(here / "copy", images.ids[9])
    batches = images.batches(4)
    assert [len(next(batches)[0]) for _ in range(2)] == [4, 4]
    with pytest.raises(BadInput, match=rf"ILSVRC2012_img_val\.tar/{name} is not a readable image"):
        next(batches)
    with pytest.raises(BadInput, match=name):
        _ = images.digest


def test_an_archive_that_ends_early_is_named(layouts: dict[str, Path], here: Path) -> None:
    """The headers of a cut archive may all be there, so that it shows only when the last image is read."""
    shutil.copytree(layouts["archives"], here / "copy")
    with tarfile.open(here / "copy" / "ILSVRC2012_img_val.tar") as tar:
        last = tar.getmembers()[-1]
    overwrite("ILSVRC2012_img_val.tar", last.offset_data + last.size - 20)(here / "copy")
    with pytest.raises(BadInput, match=r"no whole tar archive|JPEG is not a readable image"):
        _ = load_images("imagenet:copy", size=8).digest


def test_an_abandoned_pass_leaves_no_thread(few: Images) -> None:
    before = threading.active_count()
    batches = few.batches(8)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.left_out
def test_training_decodes_batch_by_batch_and_never_sees_what_networks_are_measured_on(
    layouts: dict[str, Path], few: Images, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="images of imagenet are decoded batch by batch"):
        few.in_memory()
    monkeypatch.setattr("satbench.data.sets.HELD_OUT", 0.5)
    for folder in (layouts["class folders"] / "val").iterdir():
        (here / "sets" / "train" / folder.name).mkdir(parents=True)
        for copy in ("a", "b"):
            file = next(folder.iterdir())
            (here / "sets" / "train" / folder.name / f"{copy}{file.suffix}").symlink_to(file)
    changes = {
        "dataset": "imagenet:sets",
        "image_size": 8,
        "augment": "random-resized-crop",
        "measure.evaluators": "clean+fgsm+pgd:steps=1",
    }
    changes |= {"model": "mlp", "model.width": 4, "epochs": 1, "method": "standard"}
    row = train(RECIPES["digits-sat"]().with_values(changes), here / "run", "cpu").history[0]
    assert row.val.n == 1000
    assert row.forward == row.backward == 1


# the sample


def test_the_sample_has_twenty_images_with_imagenets_labels() -> None:
    images = load_images("imagenet-sample", size=32)
    assert (len(images), images.split, images.num_classes) == (20, "all", 1000)
    assert images.ids == tuple(sorted(images.ids, key=lambda one: hashlib.sha256(one.encode()).digest()))
    labels = dict(zip(images.ids, images.y.tolist(), strict=True))
    # of the sorted ImageNet classes: 243 bull mastiff, 541 drum, 949 strawberry
    assert labels["imagenet_00_243.jpg"] == 243
    assert labels["imagenet_10_541.jpg"] == 541
    assert labels["imagenet_04_949.jpg"] == 949
    for _, x, _ in images.batches(8):
        assert x.shape[1:] == (3, 32, 32)
        assert x.std((1, 2, 3)).min() > 0.05


def test_the_sample_goes_through_the_loader() -> None:
    images = {loader: load_images("imagenet-sample", size=16, loader=loader) for loader in LOADERS}
    assert [one.loader for one in images.values()] == list(LOADERS)
    assert len({one.digest for one in images.values()}) == 3
    usual = load_images("imagenet-sample")
    assert (usual.loader, usual.shape) == ("torchvision", (3, 224, 224))


@pytest.mark.parametrize(
    ("name", "options", "hint"),
    [
        ("imagenet-sample", {"split": "test"}, "leave --split out"),
        ("imagenet-sample:here", {}, "none of: .*imagenet-sample"),
        ("imagenet-sample", {"loader": "tf1-bicubik"}, "tf1-bicubic"),
        ("imagenet-sample", {"size": -1}, "--image-size -1"),
        ("imagenet", {"loader": "tourchvision"}, "torchvision"),
        ("imagenet-smaple", {}, "imagenet-sample"),
    ],
)
def test_unusable_requests_are_refused(name: str, options: dict[str, object], hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        load_images(name, **options)  # type: ignore[arg-type]


# measuring


class Colours(nn.Module):
    """1000 logits from the mean colour: the class that `colour` gives it, for the fake ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.tensor([colour(label) for label in range(1000)]) / 255)

    def forward(self, x: Tensor) -> Tensor:
        points = self.points
        return 50 * (2 * x.mean((2, 3)) @ points.T - points.square().sum(1))


def carded() -> Loaded:
    """A network whose card says ImageNet, a loader and a size."""
    info = ModelInfo(ref="colours", digest="sha256:0", label="colours")
    return Loaded(Colours(), info, "imagenet", image_size=12, loader="opencv-cubic")


def measured(out: Path, **options: object) -> Run:
    settings: dict[str, object] = {"eps": "4/255", "n": 15, "device": "cpu", **options}
    return evaluate(carded(), out, [PGD(steps=2)], **settings)  # type: ignore[arg-type]


def test_a_network_is_measured_on_imagenet_with_its_own_loader(layouts: dict[str, Path], here: Path) -> None:
    run = measured(here / "run", data_dir=layouts["class folders"], batch_size=4)
    images = load_images(f"imagenet:{layouts['class folders']}", "val", 12, loader="opencv-cubic").head(15)
    data = run.manifest.data
    assert (data.name, data.split, data.n, data.loader, data.image_size) == ("imagenet", "val", 15, "opencv-cubic", 12)
    assert data.digest == images.digest
    assert run.records["sample_id"].tolist() == list(images.ids)
    assert run.records["sample_hash"].tolist() == list(images.hashes)
    assert run.records["label"].tolist() == images.y.tolist() == run.records["clean_prediction"].tolist()
    measured(here / "again", data_dir=layouts["archives"], batch_size=4)
    one, two = ((here / name / "records.parquet").read_bytes() for name in ("run", "again"))
    assert one == two


def test_the_sample_takes_loader_and_size_of_the_card_unless_told_otherwise(here: Path) -> None:
    own = measured(here / "own", dataset="imagenet-sample").manifest.data
    assert (own.name, own.split, own.loader, own.image_size) == ("imagenet-sample", "all", "opencv-cubic", 12)
    told = measured(here / "told", dataset="imagenet-sample", loader="tf1-bicubic", image_size=9).manifest.data
    assert (told.loader, told.image_size) == ("tf1-bicubic", 9)
    assert told.digest == load_images("imagenet-sample", size=9, loader="tf1-bicubic").head(15).digest


def test_a_cards_loader_stays_away_from_other_data_but_a_given_one_is_refused(here: Path) -> None:
    np.savez(here / "a.npz", x=np.zeros((15, 3, 12, 12), np.uint8), y=np.arange(15))
    data = measured(here / "run", dataset="npz:a.npz").manifest.data
    assert (data.loader, data.image_size) == (None, 12)
    with pytest.raises(BadInput, match="--loader torchvision: npz has one way"):
        measured(here / "refused", dataset="npz:a.npz", loader="torchvision")
    assert not (here / "refused").exists()


def test_a_damaged_image_stops_the_measurement_and_nothing_is_written(layouts: dict[str, Path], here: Path) -> None:
    shutil.copytree(layouts["archives"], here / "imagenet")
    name = damage(here / "imagenet", load_images("imagenet").ids[11])
    with pytest.raises(BadInput, match=name):
        measured(here / "run", dataset="imagenet")
    assert not (here / "run").exists()


def test_the_command_line_takes_a_loader(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "painted.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(300, 1000))\n"
    )
    words = ["eval", "--model", "painted:net", "--attack", "fgsm", "--eps", "4/255", "--dataset", "imagenet-sample"]
    words += ["--loader", "tf1-bicubic", "--image-size", "10", "--device", "cpu", "--n", "4", "--out", "run"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    manifest = read_run(here / "run").manifest
    assert (manifest.data.loader, manifest.data.image_size, manifest.batch_size) == ("tf1-bicubic", 10, 256)


# batch sizes


class Wide(nn.Module):
    """Puts out `elements` numbers that take no memory, then a colour's logits."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.wide = Spread(elements)
        self.inner = Colours()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x + self.wide(x).flatten()[0])
        return out


class Spread(nn.Module):
    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(1).expand(len(x), self.elements)


@pytest.mark.parametrize(
    ("elements", "expected"),  # 2^32 bytes / (4 * 1.25 bytes an element) = 858,993,459 elements in a batch
    [(10**3, 256), (3_350_000, 256), (3_360_000, 128), (40_570_000, 16), (850_000_000, 1), (10**10, 1)],
)
def test_the_usual_batch_size_follows_what_the_modules_put_out(elements: int, expected: int, here: Path) -> None:
    model = Wide(elements).train()
    run = evaluate(
        model, here / "run", [PGD(steps=1)], eps=0.1, dataset="imagenet-sample", image_size=8, n=1, device="cpu"
    )
    assert run.manifest.batch_size == expected
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_given_batch_size_is_kept(here: Path) -> None:
    assert measured(here / "run", dataset="imagenet-sample", batch_size=300).manifest.batch_size == 300


@pytest.mark.parametrize("size", [0, -5, 4097, 100_000])
def test_a_side_that_no_image_has_is_refused(size: int) -> None:
    with pytest.raises(BadInput, match=f"--image-size {size}; give 1 to 4096 pixels"):
        load_images("imagenet-sample", size=size)
