"""What CONTRIBUTING.md says of files and table lines holds.

Attacks are added this way in test_attack_info.py, methods in test_new_method.py.
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

import satbench
from satbench.cli import app
from satbench.core import tables
from satbench.data.images import ImageSet, carve, image_set
from satbench.data.sets import EMBEDDED
from satbench.models.table import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[1]
RUNNER = CliRunner()


def test_the_guide_names_files_and_tables_that_exist() -> None:
    """Paths and `TABLE` in `file` of CONTRIBUTING.md; a path with <name> stands for several."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:satbench|tests|docs|leaderboards|benchmarks|examples)/[\w./-]*)", guide):
        assert (ROOT / path).exists(), path
    found = re.findall(r"`([A-Z_]+)`(?:(?:, | or )`([A-Z_]+)`)*(?: there)? in `(\S+\.py)`", guide)
    assert len(found) >= 10
    for *listed, file in found:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert all(re.search(rf"^{name}\b", text, re.MULTILINE) for name in listed if name), (listed, file)


def pooled(act: Callable[[], nn.Module], channels: int, image_size: int, num_classes: int, width: int = 4) -> nn.Module:
    """Means over the image after one convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )


def halves(split: str | None, size: int | None) -> ImageSet:
    """Images (1, 8, 8) whose left or right half is bright."""
    y = np.arange(200) % 2
    x = np.random.default_rng(0).random((200, 1, 8, 8), dtype=np.float32) / 2
    x[y == 0, :, :, :4] += 0.5
    x[y == 1, :, :, 4:] += 0.5
    return carve(image_set("halves", "all", x, y, [f"halves/{i}" for i in range(200)]), split or "test")


def test_an_architecture_and_a_data_set_added_as_the_guide_says_train_and_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "pooled", pooled)
    monkeypatch.setitem(tables.ARCHITECTURES, "pooled", "pooled:pooled")
    monkeypatch.setitem(EMBEDDED, "halves", halves)
    monkeypatch.setitem(tables.DATA_SETS, "halves", tables.DataSet("halves:halves"))
    assert "Means over the image after one convolution." in RUNNER.invoke(app, ["models"]).output
    words = ["train", "digits-quick", "--model", "pooled", "--dataset", "halves", "--activation", "silu"]
    trained = RUNNER.invoke(app, [*words, "--epochs", "1", "--set", "model.width=2", "--out", str(tmp_path / "run")])
    assert trained.exit_code == 0, trained.output
    words = ["eval", "--model", str(tmp_path / "run"), "--attack", "fgsm", "--eps", "0.1", "--no-trust"]
    measured = RUNNER.invoke(app, [*words, "--n", "20", "--out", str(tmp_path / "eval")])
    assert measured.exit_code == 0, measured.output
    run = satbench.load_run(str(tmp_path / "eval"))
    assert (run.manifest.data.name, len(run.records)) == ("halves", 20)
