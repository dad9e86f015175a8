"""Weights of every k-th epoch, and the log of every k-th update, which a kill leaves as they would have been."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_training import BATCHES, contents, tiny, write_rows
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.methods import METHODS
from satbench.methods.base import Step
from satbench.methods.standard import Standard
from satbench.models.weights import read_header
from satbench.reporting.lines import model_lines
from satbench.training import TrainConfig
from satbench.training.steps import STEPS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.fixture(scope="module")
def config(dataset: str) -> TrainConfig:
    return tiny(dataset, epochs=5, method="standard")


class PowerCut(BaseException):
    pass


@pytest.mark.left_out
def test_weights_of_every_second_epoch_are_kept_and_change_nothing_else(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "run", "cpu", keep_every=2)
    train(config, tmp_path / "without", "cpu")
    assert contents(tmp_path / "run") == contents(tmp_path / "without")
    kept = sorted((tmp_path / "run" / "epochs").iterdir())
    assert [file.name for file in kept] == ["0002.safetensors", "0004.safetensors"]
    assert [read_header(file)[1].epoch for file in kept] == [1, 3]  # type: ignore[union-attr]
    train(config, tmp_path / "all", "cpu", keep_every=1)
    for name in ("last", "best"):
        whole = tmp_path / "all" / f"{name}.safetensors"
        epoch = read_header(whole)[1].epoch  # type: ignore[union-attr]
        same = load_file(tmp_path / "all" / "epochs" / f"{epoch + 1:04d}.safetensors")
        assert all(same[name].equal(tensor) for name, tensor in load_file(whole).items())


def test_kept_averages_are_those_that_are_measured(config: TrainConfig, tmp_path: Path) -> None:
    train(config.with_values({"averaging": "ema"}), tmp_path, "cpu", keep_every=5)
    kept, last = (load_file(tmp_path / name) for name in ("epochs/0005.safetensors", "last.safetensors"))
    assert all(kept[name].equal(last[name]) for name in last)


@pytest.mark.left_out
def test_kept_epochs_are_different_networks_in_a_report(config: TrainConfig, tmp_path: Path) -> None:
    folder = train(config, tmp_path / "run", "cpu", keep_every=2).folder
    files = sorted((folder / "epochs").iterdir())
    runs = [
        evaluate(str(file), tmp_path / file.stem, "fgsm", eps=0.1, n=6, device="cpu", trust=False) for file in files
    ]
    assert [run.manifest.model.recipe for run in runs] == ["tiny at epoch 2", "tiny at epoch 4"]
    lines = model_lines(run.manifest.model for run in runs)
    assert len(set(lines.values())) == 2
    assert all(line.model.startswith("tiny") for line in lines.values())
    done = CliRunner().invoke(app, ["report", *(str(run.path) for run in runs), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    page = "".join(file.read_text() for file in (tmp_path / "report").rglob("*.md"))
    assert all(line.model in page for line in lines.values())


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("stop", "save_seconds"),
    [(1, 0), (BATCHES + 2, 0), (BATCHES, 600), (4 * BATCHES, 600), (5 * BATCHES, 600)],
)
def test_steps_and_epochs_of_a_killed_run_are_those_of_a_whole_one(
    stop: int, save_seconds: float, config: TrainConfig, tmp_path: Path
) -> None:
    def cut(done: int, total: int, what: str) -> None:
        if done == stop:
            raise PowerCut

    def go(folder: Path) -> dict[str, bytes]:
        train(config, folder, "cpu", save_seconds=save_seconds, keep_every=2, log_steps=3)
        return contents(folder) | {file.name: file.read_bytes() for file in (folder / "epochs").iterdir()}

    with pytest.raises(PowerCut):
        train(config, tmp_path / "run", "cpu", progress=cut, save_seconds=save_seconds, keep_every=2, log_steps=3)
    if stop > 2:
        with (tmp_path / "run" / STEPS).open("a") as file:
            file.write('{"update": 99')  # cut while it was written
    assert go(tmp_path / "run") == go(tmp_path / "whole")


@pytest.mark.left_out
def test_the_step_log_holds_every_kth_update(config: TrainConfig, tmp_path: Path) -> None:
    trained = train(config, tmp_path, "cpu", log_steps=2)
    rows = [json.loads(line) for line in (tmp_path / STEPS).read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(1, 5 * BATCHES, 2))
    assert [row["epoch"] for row in rows] == [row["update"] // BATCHES for row in rows]
    total = 5 * BATCHES
    for row in rows:
        progress = (row["update"] + 0.5) / total  # one cycle: up over 30% of the run, then down
        assert row["lr"] == pytest.approx(0.1 * (progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7))
        assert row.keys() == {"update", "epoch", "lr", "loss", "accuracy"}
    every = train(config, tmp_path / "every", "cpu", log_steps=1)
    losses = [json.loads(line)["loss"] for line in (every.folder / STEPS).read_text().splitlines()]
    for row in trained.history:
        own = losses[row.epoch * BATCHES : (row.epoch + 1) * BATCHES]
        assert row.train_loss == pytest.approx(sum(own) / BATCHES)
    assert [row["loss"] for row in rows] == losses[1::2]


class Flipped(Standard):
    """Learns from changed images in two passes, none of which shows the logits of the crafted ones."""

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return sum(functional.cross_entropy(model(x), step.y) for x in (x_adv.flip(3), x_adv.flip(2)))


def test_accuracy_is_left_out_where_it_is_not_known(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "flipped", Flipped)
    trained = train(config.with_values({"method": "flipped", "epochs": 1}), tmp_path, "cpu", log_steps=1)
    rows = [json.loads(line) for line in (tmp_path / STEPS).read_text().splitlines()]
    assert len(rows) == BATCHES
    assert all(row.keys() == {"update", "epoch", "lr", "loss"} for row in rows)
    assert trained.history[0].train_accuracy is None


@pytest.mark.parametrize("name", ["keep_every", "log_steps"])
def test_counts_below_one_are_refused(name: str, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{name} is 0; give a whole number from 1"):
        train(config, tmp_path / "run", "cpu", **{name: 0})  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.left_out
def test_the_command_names_what_it_kept_and_what_was_over(dataset: str, tmp_path: Path) -> None:
    words = ["train", "digits-standard", "--dataset", dataset, "--device", "cpu", "--set", "schedule=constant"]
    words += ["--set", "model.width=4", "--set", "batch_size=36", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, [*words, "--epochs", "1", "--log-steps", "1"]).exit_code == 0
    done = CliRunner().invoke(app, [*words, "--epochs", "2", "--keep-every", "1", "--log-steps", "1"])
    assert f"{tmp_path}/epochs/0001.safetensors was not kept: that epoch was over before --keep-every\n" in done.stdout
    assert f"{tmp_path}/epochs/0002.safetensors\n" in done.stdout
    assert len((tmp_path / STEPS).read_text().splitlines()) == 4
