"""Class folders against a network's outputs, and clean accuracy that is no better than chance."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import SMALL
from torch import Tensor, nn
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.evaluation import evaluate
from satbench.evaluation.classes import chance_note, with_labels_of
from satbench.evaluation.verify import verify
from satbench.results.metrics import wilson
from satbench.results.schema import ModelInfo
from satbench.results.store import read_run
from satbench.zoo import Loaded, load

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Brightness(nn.Module):
    """The class is the brightness in tenths: pictures of grey 0.1 k + 0.05 are of class k."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 10

    def forward(self, x: Tensor) -> Tensor:
        return -100 * (x.mean((1, 2, 3))[:, None] - torch.arange(self.classes) / 10 - 0.05).square()


def build() -> nn.Module:
    return Brightness()


def network(**known: object) -> Loaded:
    return Loaded(Brightness(), ModelInfo(ref="b", digest="sha256:0", label="b"), **known)


def folders(root: Path, classes: dict[str, int], each: int = 6) -> str:
    """Grey pictures in a folder a class."""
    for name, label in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(each):
            grey = np.full((8, 8, 3), round(255 * (label / 10 + 0.05)) + i % 3, np.uint8)
            Image.fromarray(grey).save(root / name / f"{i}.png")
    return f"image_folder:{root}"


def clean(model: Loaded | nn.Module, data: str, out: Path) -> tuple[float, list[str]]:
    run = evaluate(model, out, "fgsm", eps=0.001, dataset=data, image_size=8, trust=False)
    return (run.records["clean_prediction"] == run.records["label"]).mean(), run.manifest.notes


def test_folders_are_matched_by_the_names_that_the_network_knows(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", {"cat": 3, "ship": 8})
    for number, known in enumerate(({"class_names": TEN}, {"dataset": "cifar10"})):
        accuracy, notes = clean(network(**known), data, tmp_path / f"run{number}")
        assert accuracy == 1
        assert notes == ["image_folder:data: 2 class folders were matched by name with the network's 10 classes"]


def test_a_run_on_matched_folders_can_be_verified(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", {"cat": 3, "ship": 8})
    known = network(class_names=TEN)
    run = evaluate(known, tmp_path / "run", eps=0.1, dataset=data, image_size=8, save_examples=True, trust=False)
    assert run.records["broken"].any()
    assert verify(run, known, dataset=data).faults == []


def test_folders_of_numbers_are_the_outputs(tmp_path: Path) -> None:
    accuracy, notes = clean(Brightness(), folders(tmp_path / "data", {"3": 3, "08": 8}), tmp_path / "run")
    assert accuracy == 1
    assert notes == ["image_folder:data: the 2 class folders are numbers and were taken as the network's outputs"]


def test_as_many_folders_as_outputs_keep_their_order(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", {name: label for label, name in enumerate(TEN)}, each=2)
    for number, known in enumerate(({}, {"class_names": TEN}, {"class_names": tuple("abcdefghij")})):
        assert clean(network(**known), data, tmp_path / f"run{number}") == (1, [])


@pytest.mark.parametrize(
    ("names", "known", "said"),
    [
        ({"cat": 3, "ship": 8}, {}, "2 class folders (cat, ship) but the network has 10 outputs without names"),
        ({"1": 1, "cat": 3}, {}, "name each folder by its output, 0 to 9"),
        ({"9": 9, "10": 3}, {}, "2 class folders (10, 9)"),
        ({"3": 3, "03": 3}, {}, "two class folders are the same output"),
        ({"cat": 3, "shipp": 8}, {"class_names": TEN}, "knows no class 'shipp'; did you mean ship?"),
        ({"n01440764": 3}, {"class_names": TEN}, "knows no class 'n01440764'"),
    ],
)
def test_folders_that_are_no_outputs_are_refused(
    names: dict[str, int], known: dict[str, object], said: str, tmp_path: Path
) -> None:
    data = folders(tmp_path / "data", names, each=1)
    with pytest.raises(BadInput) as refused:
        clean(network(**known), data, tmp_path / "run")
    assert said in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_wordnet_ids_are_those_of_an_imagenet_network(tmp_path: Path) -> None:
    """Numbers from the lists that come with ImageNet: English springer is output 217, parachute 701."""
    pytest.importorskip("timm")
    images = load_images(folders(tmp_path / "data", {"n02102040": 1, "n03888257": 2}, each=1), size=8)
    found = with_labels_of(network(dataset="imagenet"), images)
    assert {sample.split("/")[0]: label for sample, label in zip(found.ids, found.y.tolist(), strict=True)} == {
        "n02102040": 217,
        "n03888257": 701,
    }


def test_a_network_trained_on_class_folders_knows_their_names(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", {"cat": 1, "dog": 5, "ship": 8}, each=12)
    words = ["train", *SMALL, "--dataset", data, "--epochs", "1", "--out", str(tmp_path / "net")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    loaded = load(str(tmp_path / "net"))
    assert loaded.class_names == ("cat", "dog", "ship")
    subset = load_images(folders(tmp_path / "other", {"ship": 8}, each=2), size=32)
    assert with_labels_of(loaded, subset).y.tolist() == [2, 2]


def test_chance_is_said_where_the_interval_reaches_it() -> None:
    """By hand: Wilson's lower end for 3 of 30 is below 10%, for 8 of 30 above."""
    assert wilson(3, 30)[0] < 0.1 < wilson(8, 30)[0]
    assert chance_note(8, 30, 10) is None
    assert chance_note(0, 9, 10) is None
    note = chance_note(3, 30, 10)
    assert note is not None
    assert note.startswith(
        "WARNING: clean accuracy is 10.0% (95% interval 3.5% to 25.6%, n=30), not above chance (10.0%"
    )


def test_the_command_line_warns_of_labels_that_are_not_the_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = folders(tmp_path / "data", {"3": 4, "8": 7})
    words = ["eval", "--model", f"{__name__}:build", "--dataset", data, "--image-size", "8", "--attack", "fgsm"]
    result = CliRunner().invoke(app, [*words, "--eps", "0.001", "--no-trust", "--out", "run"])
    assert result.exit_code == 0, result.output
    assert "note: WARNING: clean accuracy is 0.0%" in result.output
    assert read_run(tmp_path / "run").manifest.notes[0].startswith("WARNING")
