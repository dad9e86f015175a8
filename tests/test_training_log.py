"""A training's log as it is read: figures in their range, every epoch once, and equal to what the state says."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal
from tiny_training import SMALL
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.recipes import RECIPES
from satbench.reporting.leaderboard_folder import training_of
from satbench.results.store import read_run
from satbench.results.training_log import METRICS, Epoch
from satbench.training.checkpoint import read_logged, read_metrics
from satbench.training.evaluators import evaluators_of
from satbench.training.state import STATE
from satbench.training.steps import read_steps

Rows = list[dict[str, Any]]
ROW = {"epoch": 0, "lr": 0.1, "train_loss": 2.0, "val_n": 10, "val_alone": 2, "val_clean": 1.0, "val_mine": 7.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of three epochs, with a run of its network below."""
    folder = tmp_path_factory.mktemp("finished") / "training"
    ran = CliRunner().invoke(app, ["train", *SMALL, "--epochs", "3", "--device", "cpu", "--out", str(folder)])
    assert ran.exit_code == 0, ran.output
    words = ["eval", "--model", folder, "--attack", "fgsm", "--n", "8", "--no-trust", "--out", folder / "run"]
    ran = CliRunner().invoke(app, list(map(str, words)))
    assert ran.exit_code == 0, ran.output
    return folder


def write(folder: Path, rows: Rows, name: str = METRICS) -> Path:
    (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows).replace("Infinity", "1e999"))
    return folder / name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("val_clean", 7.0),
        ("val_clean", -0.1),
        ("val_robust", 1.5),
        ("val_fgsm", -1),
        ("val_pgd:steps=20", 2),
        ("val_foolbox:LinfPGD", 2),
        ("val_knn_robust", 2),
        ("val_clean", float("nan")),
        ("val_mine", float("inf")),
        ("val_alone", 11),
        ("train_loss", float("nan")),
        ("train_loss", float("inf")),
        ("train_accuracy", 1.1),
        ("method", {"scale": float("nan")}),
        ("epoch", 1),
    ],
)
def test_a_figure_out_of_its_range_is_refused(name: str, value: object, tmp_path: Path) -> None:
    write(tmp_path, [ROW])
    assert len(read_metrics(tmp_path)) == 1
    write(tmp_path, [{**ROW, name: value}])
    with pytest.raises(BadInput, match=r"metrics\.jsonl, line 1"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("epochs", [(0, 0), (0, 2), (1,), (0, 1, 1), (1, 0), (0, 7)])
def test_every_epoch_is_there_once(epochs: tuple[int, ...], tmp_path: Path) -> None:
    write(tmp_path, [{**ROW, "epoch": epoch} for epoch in epochs])
    with pytest.raises(BadInput, match="field 'epoch'"):
        read_metrics(tmp_path)


def test_an_update_is_logged_once(tmp_path: Path) -> None:
    rows: Rows = [{"update": update, "epoch": 0, "loss": 1.0, "lr": 0.1} for update in (4, 9, 9)]
    with pytest.raises(BadInput, match="line 3: update 9 follows 9"):
        read_steps(write(tmp_path, rows, "steps.jsonl"))
    with pytest.raises(BadInput, match="'loss'"):
        read_steps(write(tmp_path, [{**rows[0], "loss": float("nan")}], "steps.jsonl"))


def test_a_figure_named_as_an_accuracy_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RECIPES["digits-sat"]().with_values({"measure.evaluators": ["own_code:Confidence"]})
    assert evaluators_of(config)
    monkeypatch.setattr("own_code.Confidence.names", ("robust",))
    with pytest.raises(BadInput, match="'robust' is the name of an accuracy"):
        evaluators_of(config)


EDITS: dict[str, Callable[[Rows], Rows]] = {
    "a figure": lambda rows: [{**row, "val_robust": 0.99, "val_clean": 0.99} for row in rows],
    "a loss": lambda rows: [*rows[:-1], {**rows[-1], "train_loss": 0.01}],
    "more epochs": lambda rows: [*rows, {**rows[-1], "epoch": len(rows)}],
    "an alarm": lambda rows: [{**row, "alarm": "fgsm"} for row in rows],
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_log_is_refused(edit: str, finished: Path, tmp_path: Path) -> None:
    shutil.copy(finished / STATE, tmp_path)
    shutil.copy(finished / METRICS, tmp_path)
    rows = [row.to_dict() for row in read_logged(tmp_path)]
    write(tmp_path, EDITS[edit](rows))
    assert len(read_metrics(tmp_path)) >= len(rows)
    with pytest.raises(BadInput, match=r"metrics\.jsonl does not say what state\.safetensors says"):
        read_logged(tmp_path)


def test_an_edited_log_is_not_reported(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "training")
    log = tmp_path / "training" / METRICS
    log.write_text(re.sub('"val_robust": [0-9.]+', '"val_robust": 0.99', log.read_text()))
    ran = CliRunner().invoke(app, ["report", str(tmp_path / "training"), "--out", str(tmp_path / "page")])
    assert ran.exit_code == 2
    assert "does not say what" in refusal(ran.stderr)
    assert not (tmp_path / "page").exists()


def test_a_log_is_read_while_the_training_goes_on_and_without_its_state(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "training")
    folder = tmp_path / "training"
    rows = read_metrics(folder)
    write(folder, [row.to_dict() for row in rows[:2]])  # the state is written first
    assert read_logged(folder) == rows[:2]
    (folder / STATE).write_bytes((folder / STATE).read_bytes()[:100])
    with pytest.raises(BadInput, match=r"state\.safetensors is not a whole"):
        read_logged(folder)
    (folder / STATE).unlink()
    assert read_logged(folder) == rows[:2]
    (folder / METRICS).unlink()
    assert read_logged(folder) == []


def test_the_file_of_a_leaderboard_has_the_log_of_the_networks_training(finished: Path, tmp_path: Path) -> None:
    run = read_run(finished / "run")
    assert training_of(run) == tuple(read_metrics(finished))
    copy = shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))

    def of(**changes: object) -> tuple[Epoch, ...]:
        model = run.manifest.model.model_copy(update={"ref": str(copy), **changes})
        return training_of(replace(run, manifest=run.manifest.model_copy(update={"model": model})))

    assert len(of()) == 3
    assert of(ref=str(copy / "best.safetensors")) == of()
    assert of(seed=99) == of(config="another") == of(ref="hf:owner/name") == ()
