"""Trackers are given what was saved, each row once, also of a run that was stopped in between."""

import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal
from tiny_training import BATCHES, contents, tiny, write_rows
from typer.testing import CliRunner

from satbench import train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.training import TrainConfig
from satbench.training.checkpoint import read_metrics, read_times
from satbench.training.steps import STEPS
from satbench.training.trackers import TRACKERS, Tracker

EPOCHS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.fixture(scope="module")
def config(dataset: str) -> TrainConfig:
    return tiny(dataset, epochs=EPOCHS, method="standard", schedule="constant")


class PowerCut(BaseException):
    pass


def stop_at(step: int | None) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, what: str) -> None:
        if done == step:
            raise PowerCut

    return report


def go(config: TrainConfig, out: Path, *trackers: str | Tracker, stop: int | None = None, **options: Any) -> None:
    """Train with trackers, in two goes where it is to stop."""
    settings = {"log_steps": 2, "trackers": trackers, **options}
    if stop is not None:
        with pytest.raises(PowerCut):
            train(config, out, "cpu", progress=stop_at(stop), **settings)
    train(config, out, "cpu", **settings)


def logged(out: Path) -> list[dict[str, Any]]:
    """Every row of a run in the order of its updates: steps of an epoch, then the epoch with its times."""
    steps = [json.loads(line) for line in (out / STEPS).read_text().splitlines()]
    found = []
    for row, times in zip(read_metrics(out), read_times(out), strict=True):
        found += [step for step in steps if step["epoch"] == row.epoch]
        found.append(row.to_dict() | times.to_dict())
    return found


class Notes:
    """A tracker of one's own that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_train_begin(self, config: TrainConfig, out: Path) -> None:
        self.told.append((config, out))

    def on_step_end(self, row: dict[str, Any]) -> None:
        assert "update" in row
        self.told.append(row)

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        assert "update" not in row
        self.told.append(row)

    def on_train_end(self, finished: bool) -> None:
        self.told.append(finished)


def test_an_own_tracker_is_told_the_whole_log(config: TrainConfig, tmp_path: Path) -> None:
    notes = Notes()
    go(config, tmp_path, notes)
    assert notes.told == [(config, tmp_path), *logged(tmp_path), True]
    notes.told.clear()
    go(config, tmp_path, notes)
    assert notes.told == []  # a finished run is left alone


@pytest.mark.one_in(8)
@pytest.mark.parametrize("save_seconds", [0, 600])
@pytest.mark.parametrize("stop", [3, BATCHES, 8, EPOCHS * BATCHES])
def test_a_stopped_run_tells_no_row_with_other_values(
    stop: int, save_seconds: float, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, named = Notes(), Notes()
    monkeypatch.setitem(TRACKERS, "notes", lambda: named)
    go(config, tmp_path, own, "notes", stop=stop, save_seconds=save_seconds)
    once = [one for one in named.told if isinstance(one, dict)]
    assert once == logged(tmp_path)  # each once, where satbench keeps the count
    assert [one for one in named.told if isinstance(one, bool)] == [False, True]
    second = own.told[own.told.index(False) + 1 :]
    assert second == [(config, tmp_path), *logged(tmp_path), True]
    assert all(row in logged(tmp_path) for row in own.told if isinstance(row, dict))


def test_a_longer_run_tells_what_is_new(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setitem(TRACKERS, "notes", lambda: notes)
    go(config, tmp_path, "notes")
    go(config.with_values({"epochs": EPOCHS + 1}), tmp_path, "notes")
    assert [one for one in notes.told if isinstance(one, dict)] == logged(tmp_path)


class Failing(Notes):
    """Its server is gone for an epoch."""

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise ConnectionError("no route to host")
        super().on_epoch_end(row)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("again", [True, False])
def test_a_tracker_that_fails_loses_nothing(
    again: bool, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(config, tmp_path / "whole")
    failing, notes = Failing(), Notes()
    monkeypatch.setitem(TRACKERS, "notes", lambda: failing)
    with pytest.raises(BadInput, match=r"^tracker notes: ConnectionError: no route to host; the run is saved, and"):
        go(config, tmp_path / "run", "notes")
    assert failing.told[-1] is False
    monkeypatch.setitem(TRACKERS, "notes", lambda: notes)
    steps: list[int] = []
    report = lambda done, total, what: steps.append(done)  # noqa: E731
    train(config, tmp_path / "run", "cpu", progress=report, log_steps=2, trackers=["notes"] if again else [])
    assert steps[0] == 2 * BATCHES + 1  # the epoch was saved
    found = {name: one for name, one in contents(tmp_path / "run").items() if name != "tracking.json"}
    assert found == contents(tmp_path / "whole")
    if again:
        rows = logged(tmp_path / "run")
        told = [one for one in failing.told + notes.told if isinstance(one, dict)]
        assert {json.dumps(row) for row in told} == {json.dumps(row) for row in rows}


def test_a_failure_after_the_last_epoch_is_made_up_for(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing, notes = Failing(), Notes()
    short = config.with_values({"epochs": 2})
    monkeypatch.setitem(TRACKERS, "notes", lambda: failing)
    with pytest.raises(BadInput, match="tracker notes"):
        go(short, tmp_path, "notes")
    monkeypatch.setitem(TRACKERS, "notes", lambda: notes)
    go(short, tmp_path, "notes")
    assert notes.told[-2] == logged(tmp_path)[-1]


MISSING = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_extra_is_one_line_before_anything_is_written(
    name: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, MISSING[name], None)
    line = rf"^tracker {name} needs its extra: pip install 'satbench\[{name}\]'$"
    with pytest.raises(BadInput, match=line):
        train(config, tmp_path / "run", "cpu", trackers=[name])
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused_by_the_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "digits-quick", "--track", "tensorbord", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert "unknown tracker 'tensorbord'; did you mean tensorboard" in refusal(done.stderr)
    assert not (tmp_path / "run").exists()


# the real ones


def expected(out: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of every curve: epochs over epochs, steps over updates."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in logged(out):
        prefix, at = ("step/", row["update"]) if "update" in row else ("", row["epoch"])
        for name, value in row.items():
            if not isinstance(value, str):
                curves.setdefault(prefix + name, []).append((at, value))
    return curves


def assert_curves(found: dict[str, list[tuple[int, float]]], out: Path) -> None:
    wanted = expected(out)
    assert found.keys() == wanted.keys()
    for name, points in found.items():
        assert [at for at, _ in points] == [at for at, _ in wanted[name]], name
        assert [value for _, value in points] == pytest.approx([value for _, value in wanted[name]], rel=1e-6), name


@pytest.mark.one_in(3)
@pytest.mark.parametrize("stop", [None, 3, BATCHES, 8])
def test_tensorboard_shows_the_log(stop: int | None, config: TrainConfig, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    go(config, tmp_path, "tensorboard", stop=stop)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = events.Tags()["scalars"]
    assert_curves({name: [(one.step, one.value) for one in events.Scalars(name)] for name in names}, tmp_path)
    before = len(list((tmp_path / "tensorboard").iterdir()))
    go(config, tmp_path, "tensorboard")
    assert len(list((tmp_path / "tensorboard").iterdir())) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("stop", [None, 8])
def test_mlflow_shows_the_log_in_one_run(
    stop: int | None, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    go(config, tmp_path, "mlflow", stop=stop)
    longer = config.with_values({"epochs": EPOCHS + 1})
    go(longer, tmp_path, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("satbench")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.1"
    assert (run.data.params["epochs"], run.data.tags["epochs"]) == ("3", "4")
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    assert_curves({name: [(one.step, one.value) for one in points] for name, points in histories.items()}, tmp_path)


def wandb_rows(file: Path) -> list[dict[str, Any]]:
    """The history of a run file of W&B: a header of 7 bytes, then a LevelDB log of protobuf records."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[import-not-found]

    content, at, pending, rows = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        pending += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the end of one
            record = Record.FromString(pending)
            pending = b""
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append({name: json.loads(value) for name, value in items.items() if not name.startswith("_")})
    return rows


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("stop", [None, 8])
def test_wandb_keeps_the_log_offline_in_one_run(
    stop: int | None, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    go(config, tmp_path, "wandb", stop=stop)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1 + (stop is not None)
    assert len({file.name for file in files}) == 1  # it is named after the run
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in (row for file in files for row in wandb_rows(file)):
        at = row["step/update"] if "step/update" in row else row["epoch"]
        for name, value in row.items():
            curves.setdefault(name, []).append((at, value))
    assert_curves(curves, tmp_path)
