"""A run that is made longer ends as one that was that long from the start, or says why it cannot."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refusal
from safetensors.torch import load_file
from tiny_training import contents, tiny, write_rows
from typer.testing import CliRunner

from satbench import train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.models.weights import read_header
from satbench.training import TrainConfig
from satbench.training.state import PREVIOUS, STATE

CONSTANT = {"schedule": "constant"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


def quick(dataset: str, epochs: int, **changes: object) -> TrainConfig:
    """Clean training at a constant rate, five updates an epoch."""
    return tiny(dataset, **{"method": "standard", **CONSTANT, **changes}).with_values({"epochs": epochs})


def everything(folder: Path) -> dict[str, bytes]:
    """All that equal runs share to the byte, the kept epochs included."""
    return contents(folder) | {file.name: file.read_bytes() for file in (folder / "epochs").glob("[!.]*")}


class PowerCut(BaseException):
    pass


# longer


@pytest.mark.one_in(12)
@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({}, {}),
        ({"method": "pgd_at", "method.steps": 1}, {}),
        (
            {"schedule": "piecewise", "schedule.milestones": [0.5]},
            {"schedule": "piecewise", "schedule.milestones": [0.25, 0.75]},
        ),
        ({}, {"schedule": "piecewise", "schedule.milestones": [0.5]}),
        ({"schedule": "triangle", "schedule.peak": 0.5}, None),
        ({"averaging": "ema", "averaging.warmup": 0}, {}),
        ({"averaging": "ema", "averaging.warmup": 0.2}, {"averaging": "ema", "averaging.warmup": 0.1}),
        ({"averaging": "swa", "averaging.start": 1}, {}),
        ({"optimizer.warmup_epochs": 1.5, "stop.patience": 3}, {}),
        ({"optimizer.name": "adamw", "data.val": "none"}, {}),
    ],
)
def test_a_longer_run_ends_with_the_bytes_of_an_uninterrupted_one(
    short: dict[str, object], long: dict[str, object] | None, dataset: str, tmp_path: Path
) -> None:
    first = quick(dataset, 2, **short)
    longer = first.with_values({"epochs": 4, **(long or {})})
    steps: list[int] = []
    report = lambda done, total, what: steps.append(done)  # noqa: E731
    train(first, tmp_path / "run", "cpu", progress=report, keep_every=1, log_steps=2)
    taken = steps[-1]
    steps.clear()
    if long is None:
        with pytest.raises(BadInput, match=r"the learning rate in epoch 1 was 0\.01, and would have been 0\.005"):
            train(longer, tmp_path / "run", "cpu")
        return
    train(longer, tmp_path / "run", "cpu", progress=report, keep_every=1, log_steps=2)
    assert steps[0] == taken + 1
    train(longer, tmp_path / "whole", "cpu", keep_every=1, log_steps=2)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    one, other = (load_file(tmp_path / name / STATE) for name in ("run", "whole"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (tmp_path / "run" / PREVIOUS).exists()


def test_weights_of_an_early_best_epoch_name_the_longer_run(dataset: str, tmp_path: Path) -> None:
    """Where nothing is learnt, the first epoch is the best."""
    first = quick(dataset, 2, **{"optimizer.lr": 1e-6})
    longer = first.with_values({"epochs": 3})
    train(first, tmp_path / "run", "cpu")
    before = read_header(tmp_path / "run" / "best.safetensors")[1]
    trained = train(longer, tmp_path / "run", "cpu")
    after = read_header(tmp_path / "run" / "best.safetensors")[1]
    train(longer, tmp_path / "whole", "cpu")
    assert after == read_header(tmp_path / "whole" / "best.safetensors")[1]
    assert before.config != after.config  # type: ignore[union-attr]
    assert trained.best_epoch == after.epoch == 0  # type: ignore[union-attr]


def test_an_interrupted_run_can_be_made_longer_too_and_more_than_once(dataset: str, tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if done == 8:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(quick(dataset, 2), tmp_path / "run", "cpu", progress=stop, save_seconds=0)
    for epochs in (3, 5):
        train(quick(dataset, epochs), tmp_path / "run", "cpu")
    train(quick(dataset, 5), tmp_path / "whole", "cpu")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_run_goes_on_from_the_save_before_under_another_length(dataset: str, tmp_path: Path) -> None:
    """Its log has come to the end of the shorter run already, but not by updates of that run."""

    def stop(done: int, total: int, what: str) -> None:
        if done == 11:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(quick(dataset, 4), tmp_path / "run", "cpu", progress=stop)
    (tmp_path / "run" / STATE).write_bytes(b"")
    train(quick(dataset, 2), tmp_path / "run", "cpu")
    train(quick(dataset, 2), tmp_path / "whole", "cpu")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_what_cannot_continue_leaves_the_folder_as_it_was(dataset: str, tmp_path: Path) -> None:
    train(quick(dataset, 2), tmp_path / "run", "cpu", log_steps=1)
    other = train(quick(dataset, 2, seed=9), tmp_path / "other", "cpu").folder
    for name, damage, line in (
        ("steps.jsonl", b'{"update": 0, "epoch": 0, "loss": 1.5}\n', "line 1, field 'lr': Field required; remove the"),
        (
            "steps.jsonl",
            b'{"update": 0.5}\n{"upd',
            "line 1, field 'update': give a whole number .*given 0.5.; remove",
        ),
        ("best.safetensors", (other / "best.safetensors").read_bytes(), "holds the weights of another training"),
    ):
        folder = Path(tempfile.mkdtemp(dir=tmp_path)) / name
        shutil.copytree(tmp_path / "run", folder)
        (folder / name).write_bytes(damage)
        before = everything(folder)
        with pytest.raises(BadInput, match=line):
            train(quick(dataset, 3), folder, "cpu")
        assert everything(folder) == before


# not longer


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("short", "long", "line"),
    [
        (
            {"schedule": "one-cycle"},
            {},
            r"the learning rate in epoch 1 was 0\.0166667, and would have been 0\.00833333",
        ),
        ({"schedule": "cosine"}, {}, "the learning rate in epoch 1 was .*, and would have been .*; give a schedule"),
        (
            {"schedule": "piecewise", "schedule.milestones": [0.5]},
            {},
            r"the learning rate in epoch 2 was 0\.01, and would have been 0\.1; give a schedule with the same past",
        ),
        ({"averaging": "ema", "averaging.warmup": 0.2}, {}, "the average of the weights in epoch 1 would have been"),
        (
            {"averaging": "swa", "averaging.start": 0},
            {"averaging": "swa", "averaging.start": 1},
            "the average of the weights would have started in another epoch",
        ),
        ({}, {"epochs": 1}, "2 epochs are done; give more epochs"),
        ({"measure.every": 3}, {}, "epoch 2 was measured, as the last, and would not have been"),
        ({}, {"seed": 1}, r"another seed \(0 there, 1 asked for\); give another --out or the same settings"),
        ({}, {"averaging": "ema"}, r"another averaging\.name \('none' there, 'ema' asked for\); give another --out"),
        ({}, {"recipe": "other"}, r"another recipe \('tiny' there, 'other' asked for\); give another --out"),
    ],
)
def test_a_run_with_another_past_is_refused_and_left_alone(
    short: dict[str, object], long: dict[str, object], line: str, dataset: str, tmp_path: Path
) -> None:
    first = quick(dataset, 2, **short)
    train(first, tmp_path / "run", "cpu")
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with pytest.raises(BadInput, match=line) as caught:
        train(first.with_values({"epochs": 4, **long}), tmp_path / "run", "cpu")
    assert str(caught.value).startswith(f"{tmp_path / 'run'} holds a run with another ")
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_run_that_ended_early_is_not_made_longer(dataset: str, tmp_path: Path) -> None:
    first = quick(dataset, 9, **{"stop.patience": 1, "optimizer.lr": 1e-6})
    trained = train(first, tmp_path / "run", "cpu")
    assert len(trained.history) == 2
    with pytest.raises(BadInput, match=r"cannot continue: the run ended after epoch 2 \(no better epoch in 1\)"):
        train(first.with_values({"epochs": 12}), tmp_path / "run", "cpu")


def test_nor_one_that_would_have_ended_early(dataset: str, tmp_path: Path) -> None:
    """Its patience was over with its last epoch, where there was nothing left to end."""
    first = quick(dataset, 2, **{"stop.patience": 1, "optimizer.lr": 1e-6})
    assert train(first, tmp_path / "run", "cpu").history[-1].ended == ""
    with pytest.raises(BadInput, match=r"it would have ended after epoch 2 \(no better epoch in 1\)"):
        train(first.with_values({"epochs": 4}), tmp_path / "run", "cpu")


def test_a_run_without_its_state_is_read_but_not_made_longer(dataset: str, tmp_path: Path) -> None:
    """As earlier versions left them."""
    history = train(quick(dataset, 2), tmp_path, "cpu").history
    (tmp_path / STATE).unlink()
    assert train(quick(dataset, 2), tmp_path, "cpu").history == history
    with pytest.raises(BadInput, match="and no state to continue from; give another --out"):
        train(quick(dataset, 4), tmp_path, "cpu")


def test_a_damaged_state_is_refused_before_the_folder_changes(dataset: str, tmp_path: Path) -> None:
    train(quick(dataset, 2), tmp_path, "cpu")
    content = bytearray((tmp_path / STATE).read_bytes())
    content[-5] ^= 1
    (tmp_path / STATE).write_bytes(content)
    before = contents(tmp_path)
    with pytest.raises(BadInput, match=r"state\.safetensors is damaged"):
        train(quick(dataset, 4), tmp_path, "cpu")
    assert contents(tmp_path) == before
    assert len(train(quick(dataset, 2), tmp_path, "cpu").history) == 2


# kills


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The process dies before it replaces or removes its `number`-th file, and does neither afterwards."""
    done: list[str] = []

    def dying(name: str) -> Any:
        own = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if len(done) == number:
                raise PowerCut
            done.append(name)
            return own(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(os, name, dying(name))
        yield done


@pytest.mark.slow
@pytest.mark.parametrize("longer", [False, True])
def test_a_kill_at_any_write_leaves_no_trace(
    longer: bool, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run of two epochs from its start, or from one of one epoch."""
    config, options = quick(dataset, 2, batch_size=72), {"keep_every": 1, "log_steps": 1}
    train(config, tmp_path / "whole", "cpu", **options)  # type: ignore[arg-type]
    if longer:
        train(quick(dataset, 1, batch_size=72), tmp_path / "short", "cpu", **options)  # type: ignore[arg-type]
    number, was_killed = 0, True
    while was_killed:
        out = tmp_path / str(number)
        if longer:
            shutil.copytree(tmp_path / "short", out)
        with killed_at(number, monkeypatch) as done:
            try:
                train(config, out, "cpu", **options)  # type: ignore[arg-type]
            except PowerCut:
                assert len(done) == number
            else:
                was_killed = False
        train(config, out, "cpu", **options)  # type: ignore[arg-type]
        assert everything(out) == everything(tmp_path / "whole"), f"killed before {number}"
        assert [json.loads(line)["epoch"] for line in (out / "times.jsonl").read_text().splitlines()] == [0, 1]
        assert sorted(file.name for file in out.rglob(".*")) == [".lock"]
        number += 1
    assert number > (20 if longer else 25)


def test_a_kill_before_the_folder_changed_leaves_the_shorter_run(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(quick(dataset, 1), tmp_path, "cpu")
    before = contents(tmp_path)
    with killed_at(0, monkeypatch), pytest.raises(PowerCut):
        train(quick(dataset, 2), tmp_path, "cpu")
    train(quick(dataset, 1), tmp_path, "cpu")
    assert contents(tmp_path) == before


# the command


@pytest.mark.left_out
def test_the_command_continues_a_finished_run(dataset: str, tmp_path: Path) -> None:
    words = ["train", "digits-standard", "--dataset", dataset, "--device", "cpu", "--set", "schedule=constant"]
    words += ["--set", "model.width=4", "--set", "batch_size=36"]
    for out, epochs in (("run", "1"), ("run", "2"), ("whole", "2")):
        done = CliRunner().invoke(app, [*words, "--epochs", epochs, "--out", str(tmp_path / out)])
        assert done.exit_code == 0, done.output
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    refused = CliRunner().invoke(app, [*words, "--epochs", "1", "--out", str(tmp_path / "run")])
    assert refused.exit_code == 2
    assert "2 epochs are done; give more epochs" in refusal(refused.stderr)
