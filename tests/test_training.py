"""The trainer: its configuration, what it leaves behind, and that stopping it leaves no trace."""

import contextlib
import inspect
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refusal
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.attacks import PGD
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.home import HOME, LOCK, alone_in
from satbench.core.parsing import parsed
from satbench.methods import METHODS
from satbench.models import ARCHITECTURES, canonical
from satbench.recipes import RECIPES
from satbench.training import TrainConfig
from satbench.training.averaging import AVERAGES
from satbench.training.config import methods_in
from satbench.training.schedule import SCHEDULES
from satbench.zoo import load

RESULTS = ("best.safetensors", "last.safetensors", "metrics.jsonl", "config.json")
STATE, PREVIOUS = "state.safetensors", "state.previous.safetensors"
STEPS = 5  # of an epoch: 72 of the 120 images are for training, in batches of 16
EPOCHS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """120 grey noise images whose class shows as a bright row."""
    file = tmp_path_factory.mktemp("data") / "rows.npz"
    y = np.arange(120) % 3
    x = np.random.default_rng(0).random((120, 1, 8, 8)) * 0.6
    x[np.arange(120), 0, 2 * y] += 0.4
    np.savez(file, x=x.astype(np.float32), y=y)
    return f"npz:{file}"


@pytest.fixture(scope="module")
def config(dataset: str) -> TrainConfig:
    return RECIPES["digits-sat"]().with_values(
        {
            "recipe": "tiny",
            "dataset": dataset,
            "model.width": 4,
            "method.steps": 1,
            "threat.eps": 0.1,
            "epochs": EPOCHS,
            "batch_size": 16,
            "measure.evaluators": "clean+fgsm+pgd:steps=2",
            "optimizer.lr": 0.1,
        }
    )


@pytest.fixture(scope="module")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config, tmp_path_factory.mktemp("run") / "finished", device="cpu").folder


def contents(folder: Path) -> dict[str, bytes]:
    """What equal runs share to the byte: neither times, nor the state, which holds them too, nor the lock."""
    return {file.name: file.read_bytes() for file in folder.glob("[!.]*") if file.name not in ("times.jsonl", STATE)}


def stop_at(step: int, how: Callable[[], None]) -> Callable[[int, int, str], None]:
    """A progress report that stops the run after `step` steps, once."""

    def report(done: int, total: int, what: str) -> None:
        if done == step:
            how()

    return report


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class PowerCut(Exception):
    pass


def cut_power() -> None:
    raise PowerCut


def provenance(weights: Path) -> dict[str, Any]:
    with safe_open(weights, "pt") as file:
        return json.loads(file.metadata()["satbench"])["provenance"]  # type: ignore[no-any-return]


# what a run leaves


def test_a_finished_folder_holds_results_and_one_state(finished: Path, config: TrainConfig) -> None:
    assert {file.name for file in finished.glob("[!.]*")} == {*RESULTS, "times.jsonl", STATE}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(EPOCHS))
    assert all(row["val_n"] == 18 and math.isfinite(row["train_loss"]) for row in rows)
    assert TrainConfig.model_validate(json.loads((finished / "config.json").read_text())["config"]) == config


def test_the_best_epoch_has_the_highest_logged_robust_accuracy(config: TrainConfig, tmp_path: Path) -> None:
    trained = train(config.with_values({"epochs": 6, "optimizer.lr": 0.3}), tmp_path / "run", device="cpu")
    figures = [(row.val.figures["robust"], row.val.figures["clean"]) for row in trained.history]
    assert len(set(figures)) > 1
    assert trained.best_epoch == figures.index(max(figures))
    assert provenance(tmp_path / "run" / "best.safetensors")["epoch"] == trained.best_epoch
    assert provenance(tmp_path / "run" / "last.safetensors")["epoch"] == 5


def test_the_best_weights_give_the_logged_validation_figures(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    best = rows[provenance(finished / "best.safetensors")["epoch"]]
    run = evaluate(str(finished), tmp_path / "eval", [PGD(steps=2)], eps="0.1", split="val", device="cpu")
    assert 1 - run.records["broken"].mean() == pytest.approx(best["val_robust"])
    clean = (run.records["clean_prediction"] == run.records["label"]).mean()
    assert clean == pytest.approx(best["val_clean"])


def test_training_learns(config: TrainConfig, tmp_path: Path) -> None:
    trained = train(config.with_values({"epochs": 8, "method": "standard"}), tmp_path / "run", device="cpu")
    assert trained.history[-1].val.figures["clean"] > 0.9
    assert trained.history[-1].train_loss < trained.history[0].train_loss


def test_equal_configs_give_equal_bytes_and_another_seed_does_not(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)
    again = train(config, tmp_path / "again", device="cpu").folder
    assert contents(again) == contents(finished)
    other = train(config.with_values({"seed": 1}), tmp_path / "other", device="cpu").folder
    weights, others = load_file(finished / "last.safetensors"), load_file(other / "last.safetensors")
    assert not torch.equal(weights["net.0.weight"], others["net.0.weight"])


def test_training_leaves_the_global_generator_alone(config: TrainConfig, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(config.with_values({"epochs": 1}), tmp_path / "run", device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_an_epoch_leaves_out_what_fills_no_batch_unless_told_otherwise(config: TrainConfig, tmp_path: Path) -> None:
    assert RECIPES["cifar10-sat"]().drop_last
    assert not config.drop_last  # the small recipes need every image
    for drop_last, updates in ((True, 72 // 16), (False, 72 // 16 + 1)):
        done: list[int] = []
        changed = config.with_values({"drop_last": drop_last, "epochs": 1})
        train(changed, tmp_path / str(drop_last), "cpu", progress=lambda one, total, what: done.append(total))  # noqa: B023
        assert set(done) == {updates}


# interruption


@pytest.mark.one_in(3)
@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, STEPS + 2, EPOCHS * STEPS])
def test_an_interrupted_run_continues_without_a_trace(
    step: int, config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", device="cpu", progress=stop_at(step, press_ctrl_c))
    assert signal.getsignal(signal.SIGINT) is handler
    assert (tmp_path / "run" / STATE).is_file()
    first: list[int] = []
    train(config, tmp_path / "run", device="cpu", progress=lambda done, total, what: first.append(done))
    assert first[0] == (step + 1 if step % STEPS else step)
    assert contents(tmp_path / "run") == contents(finished)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_several_stops_of_both_kinds_leave_no_trace(optimizer: str, config: TrainConfig, tmp_path: Path) -> None:
    config = config.with_values({"optimizer.name": optimizer, "optimizer.lr": 0.01, "activation": "smoothrelu"})
    whole = train(config, tmp_path / "whole", device="cpu").folder
    for step, how, error in ((2, press_ctrl_c, KeyboardInterrupt), (3, cut_power, PowerCut), (8, cut_power, PowerCut)):
        with pytest.raises(error):
            train(config, tmp_path / "run", device="cpu", progress=stop_at(step, how))
    train(config, tmp_path / "run", device="cpu")
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.parametrize("step", [1, STEPS + 1])
def test_a_run_that_died_continues_from_its_last_epoch(
    step: int, config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(PowerCut):
        train(config, tmp_path / "run", device="cpu", progress=stop_at(step, cut_power))
    first: list[int] = []
    train(config, tmp_path / "run", device="cpu", progress=lambda done, total, what: first.append(done))
    assert first[0] == step // STEPS * STEPS + 1
    assert contents(tmp_path / "run") == contents(finished)


def command(folder: Path, dataset: str) -> list[str]:
    settings = ("model.width=4", "method.steps=2", "batch_size=16", "measure.evaluators=clean+fgsm+pgd:steps=1")
    words = ["train", "--epochs", "20", "--dataset", dataset, "--device", "cpu", "--out", str(folder)]
    return words + [word for setting in settings for word in ("--set", setting)]


def run_here(folder: Path, dataset: str) -> dict[str, bytes]:
    """The same command in this process, which has torch imported already, on one thread like the stopped process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = CliRunner().invoke(app, command(folder, dataset))
    finally:
        torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    return contents(folder)


@pytest.fixture(scope="module")
def uninterrupted(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = run_here(tmp_path_factory.mktemp("process") / "run", dataset)
    assert sorted(found) == sorted([*RESULTS, "curves.png", "curves.svg"])
    return {name: found[name] for name in RESULTS}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_continues_with_the_same_command(
    number: signal.Signals, dataset: str, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "satbench", *command(folder, dataset)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (folder / STATE).is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.05))  # any moment must do, so none is chosen
        process.send_signal(number)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), complaint
    assert (folder / STATE).is_file()
    if number == signal.SIGINT:
        assert refusal(complaint) == "satbench: interrupted; run the same command again to resume"
        with safe_open(folder / STATE, "pt") as file:
            position = json.loads(file.metadata()["position"])
        assert position["epoch"] + position["step"] > 0
    kept = run_here(folder, dataset)
    assert {name: kept[name] for name in RESULTS} == uninterrupted
    assert not (folder / PREVIOUS).exists()


def test_a_finished_run_is_left_alone(config: TrainConfig, finished: Path) -> None:
    before = {file.name: file.stat().st_mtime_ns for file in finished.iterdir()}
    steps: list[int] = []
    trained = train(config, finished, device="cpu", progress=lambda done, total, what: steps.append(done))
    assert not steps
    assert {file.name: file.stat().st_mtime_ns for file in finished.iterdir()} == before
    assert trained.best_epoch == provenance(finished / "best.safetensors")["epoch"]


# refusals


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("seed", 1, r"seed \(0 there, 1 asked for\)"),
        ("optimizer.lr", 0.2, r"optimizer\.lr \(0\.1 there, 0\.2 asked for\)"),
        ("method.steps", 2, r"method\.params\.steps \(1 there, 2 asked for\)"),
        ("model", "mlp", r"model\.name \('cnn-small' there, 'mlp' asked for\)"),
        ("method", "standard", r"method\.name \('pgd_at' there, 'standard' asked for\)"),
    ],
)
def test_another_config_in_the_same_folder_names_the_field(
    key: str, value: object, hint: str, config: TrainConfig, finished: Path
) -> None:
    before = contents(finished)
    with pytest.raises(BadInput, match=hint):
        train(config.with_values({key: value}), finished, device="cpu")
    assert contents(finished) == before


def test_a_foreign_folder_or_file_is_refused_and_untouched(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(BadInput, match="not empty"):
        train(config, tmp_path / "thesis", device="cpu")
    assert contents(tmp_path / "thesis") == {"chapter1.tex": b"years of work"}
    for out in (tmp_path / "thesis" / "chapter1.tex", tmp_path / "thesis" / "chapter1.tex" / "run"):
        with pytest.raises(BadInput, match="is a file"):
            train(config, out, device="cpu")


def interrupted_run(config: TrainConfig, folder: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train(config, folder, device="cpu", progress=stop_at(STEPS + 1, press_ctrl_c))
    return folder


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as whole:
        metadata: dict[str, str] = whole.metadata()
    return metadata


def with_another_weight(file: Path) -> None:
    """One bit of one number, where no format would notice."""
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def without_position(file: Path) -> None:
    save_file(load_file(file), file)


def with_bad_position(file: Path) -> None:
    save_file(load_file(file), file, metadata={**metadata_of(file), "position": "{"})


def with_another_position(file: Path) -> None:
    save_file(load_file(file), file, metadata={**metadata_of(file), "position": '{"era": 3}'})


def without_weights(file: Path) -> None:
    metadata = metadata_of(file)
    tensors = {name: tensor for name, tensor in load_file(file).items() if name != "model.net.0.weight"}
    save_file(tensors, file, metadata=metadata)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.one_in(5)
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        empty,
        with_another_weight,
        without_position,
        with_bad_position,
        with_another_position,
        without_weights,
    ],
)
def test_a_damaged_state_gives_way_to_the_one_before(
    damage: Callable[[Path], None], config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    folder = interrupted_run(config, tmp_path / "run")
    damage(folder / STATE)
    first: list[int] = []
    train(config, folder, device="cpu", progress=lambda done, total, what: first.append(done))
    assert first[0] == STEPS + 1
    assert contents(folder) == contents(finished)


def test_states_that_are_all_damaged_are_refused_by_name(config: TrainConfig, tmp_path: Path) -> None:
    folder = interrupted_run(config, tmp_path / "run")
    truncate(folder / STATE)
    truncate(folder / PREVIOUS)
    with pytest.raises(BadInput, match=r"run/state\.safetensors .*remove .*run to train it from the start"):
        train(config, folder, device="cpu")


def test_a_state_of_another_run_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    one = interrupted_run(config, tmp_path / "one")
    other = interrupted_run(config.with_values({"seed": 1}), tmp_path / "other")
    (other / STATE).replace(one / STATE)
    (other / PREVIOUS).replace(one / PREVIOUS)
    with pytest.raises(BadInput, match="is of another run, with another seed"):
        train(config, one, device="cpu")


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
@pytest.mark.parametrize("damage", [truncate, empty, Path.unlink])
@pytest.mark.parametrize("ended", [True, False])
def test_weights_that_were_lost_are_noticed(
    ended: bool, damage: Callable[[Path], None], name: str, config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """Neither a finished run nor one that goes on says that all is well without them."""
    folder = tmp_path / "run"
    if ended:
        shutil.copytree(finished, folder)
    else:
        interrupted_run(config, folder)
    damage(folder / name)
    with pytest.raises(BadInput, match=rf"{name}.*; remove .*run to train it again"):
        train(config, folder, device="cpu")


def test_weights_of_another_training_are_noticed(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    """Of the same epochs, but another seed."""
    shutil.copytree(finished, tmp_path / "run")
    other = train(config.with_values({"seed": 9}), tmp_path / "other", device="cpu").folder
    shutil.copy(other / "last.safetensors", tmp_path / "run")
    with pytest.raises(BadInput, match=r"last\.safetensors holds the weights of another training"):
        train(config, tmp_path / "run", device="cpu")


def test_an_unfinished_training_is_no_seed_and_says_so(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    folder = interrupted_run(config, tmp_path / "run")
    begun, whole = load(str(folder)), load(str(finished))
    of = f"of {config.epochs}"
    assert begun.info.config is None
    assert begun.info.recipe is not None
    assert begun.info.recipe.startswith(f"{config.recipe}, epoch ")
    assert begun.info.recipe.endswith(of)
    assert begun.note is not None
    assert f"{of} of a training that has not ended" in begun.note
    assert (whole.info.recipe, whole.note) == (config.recipe, None)
    assert whole.info.config is not None
    run = evaluate(str(folder), tmp_path / "eval", "fgsm", eps="0.1", n=5, device="cpu", trust=False)
    assert begun.note in run.manifest.notes
    assert contents(train(config, folder, device="cpu").folder) == contents(finished)


def test_a_damaged_log_of_a_run_that_goes_on_is_written_again(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    folder = interrupted_run(config, tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"epoch": 0, "train_lo')
    assert contents(train(config, folder, device="cpu").folder) == contents(finished)


def test_two_trainings_in_one_folder_take_turns(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    with alone_in(tmp_path / "run", "train"):
        for spelling in (tmp_path / "run", tmp_path / "link" / "run", tmp_path / "sub" / ".." / "run"):
            with pytest.raises(BadInput, match="another satbench train is at work there"):
                train(config, spelling, device="cpu")


HOLDING = """import sys; from pathlib import Path; from satbench.core.home import alone_in
with alone_in(Path(sys.argv[1]), "train"): print("held", flush=True); sys.stdin.read()"""


def test_the_lock_holds_for_a_process_with_another_cache_and_ends_when_it_is_killed(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """As on another machine or in a container that shares the folder, and nothing else."""
    words = [sys.executable, "-c", HOLDING]
    other = {**os.environ, HOME: str(tmp_path / "cache")}
    with subprocess.Popen(
        [*words, str(tmp_path / "run")], env=other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BadInput, match="another satbench train is at work there"):
            train(config, tmp_path / "run", device="cpu")
        process.kill()
    assert (tmp_path / "run" / LOCK).is_file()
    assert contents(train(config, tmp_path / "run", device="cpu").folder) == contents(finished)


def test_no_cache_is_needed_to_train_and_to_measure(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(HOME, str(tmp_path / "file" / "cache"))  # cannot be made, by root neither
    trained = train(config.with_values({"epochs": 1}), tmp_path / "run", device="cpu")
    assert len(evaluate(str(trained.folder), tmp_path / "eval", "fgsm", eps=0.1, n=2, device="cpu").records) == 2


def test_what_a_killed_process_was_writing_is_removed(config: TrainConfig, tmp_path: Path) -> None:
    folder = interrupted_run(config, tmp_path / "run")
    (folder / f".{STATE}.abcd").write_bytes(b"half")
    train(config, folder, device="cpu")
    assert [file.name for file in folder.glob(".*")] == [LOCK]


def test_a_full_disk_is_an_error_of_the_system(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("satbench.models.weights.save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(config, tmp_path / "run", device="cpu")
    assert sorted(contents(tmp_path / "run")) == ["config.json"]


def test_a_save_within_an_epoch_is_what_a_dead_run_continues_from(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    stopping = stop_at(STEPS + 3, cut_power)
    with pytest.raises(PowerCut):
        train(config, tmp_path / "run", device="cpu", progress=stopping, save_seconds=0)
    first: list[int] = []
    train(config, tmp_path / "run", device="cpu", progress=lambda done, total, what: first.append(done))
    assert first[0] == STEPS + 3
    assert contents(tmp_path / "run") == contents(finished)


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', '{"schema_version": 999, "config": {}}'])
def test_a_damaged_config_file_is_refused_by_name(text: str, config: TrainConfig, tmp_path: Path) -> None:
    folder = interrupted_run(config, tmp_path / "run")
    (folder / "config.json").write_text(text)
    with pytest.raises(BadInput, match=r"config\.json.*(damaged|schema version)"):
        train(config, folder, device="cpu")


def test_a_damaged_log_of_a_finished_run_is_refused_by_name(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for name, content in contents(finished).items():
        (tmp_path / "run" / name).write_bytes(content)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 0, "train_lo')
    with pytest.raises(BadInput, match=r"metrics\.jsonl"):
        train(config, tmp_path / "run", device="cpu")


def test_a_loss_that_explodes_names_the_step(config: TrainConfig, tmp_path: Path) -> None:
    wild = config.with_values({"optimizer.lr": 1e30, "schedule": "constant", "method": "standard", "model": "mlp"})
    with pytest.raises(BadInput, match=r"loss is (nan|inf) at epoch 0, step \d"):
        train(wild, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"model": "cnn-smal"}, "cnn-small"),
        ({"activation": "sillu"}, "silu"),
        ({"method": "pgd_ta"}, "pgd_at"),
        ({"method.stepz": 3}, "steps"),
        ({"method.steps": 0}, "whole number"),
        ({"method.steps": "many"}, "whole number"),
        ({"method.step_size": "abc"}, "step_size"),
        ({"method.step_size": "-1/255"}, "step_size"),
        ({"method.init": "unifrom"}, "uniform"),
        ({"method.init": "7"}, "init"),
        ({"model.widht": 4}, "width"),
        ({"model.width": 0}, "whole number from 1"),
        ({"model.num_classes": 4}, "comes from its data set"),
        ({"threat.eps": 8}, "8/255"),
        ({"image_size": 16}, "8 pixels"),
    ],
)
def test_settings_that_cannot_be_met_leave_nothing(
    changes: dict[str, object], hint: str, config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        train(config.with_values(changes), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_image_is_no_crash(tmp_path: Path) -> None:
    """Batch norm cannot normalise one image that is one pixel wide; 25 training images in batches of 8 leave one."""
    x, y = np.random.default_rng(0).random((41, 1, 4, 4)), np.arange(41) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)
    values = {"dataset": f"npz:{tmp_path / 'a.npz'}", "model.width": 4, "method": "standard", "epochs": 1}
    config = RECIPES["digits-sat"]().with_values(
        {**values, "batch_size": 8, "measure.evaluators": "clean+fgsm+pgd:steps=1"}
    )
    with contextlib.suppress(BadInput):
        train(config, tmp_path / "run", device="cpu")


# configuration


def test_values_are_read_as_the_type_of_their_field() -> None:
    config = RECIPES["digits-sat"]().with_values(
        {
            "optimizer.lr": "0.05",
            "optimizer.name": "adamw",
            "batch_size": "32",
            "epochs": 7,
            "image_size": "16",
            "threat.eps": "8/255",
            "threat.norm": "L2",
            "method.steps": "3",
            "method.step_size": "2/255",
            "method.init": "zero",
            "model.width": "12",
            "schedule": "cosine",
        }
    )
    assert (config.optimizer.lr, config.optimizer.name, config.batch_size, config.epochs) == (0.05, "adamw", 32, 7)
    assert (config.image_size, config.threat.norm, config.schedule.name) == (16, "L2", "cosine")
    assert config.threat.eps == pytest.approx(8 / 255)
    assert config.method.params == {"steps": 3, "step_size": pytest.approx(2 / 255), "init": "zero"}
    assert config.model.params == {"width": 12}
    assert isinstance(config.method.params["steps"], int)


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("epoch", "3", "epochs"),
        ("optimiser.lr", "0.1", "optimizer"),
        ("optimizer.learning_rate", "0.1", "known: .*lr"),
        ("optimizer.wieght_decay", "0.1", "weight_decay"),
        ("threat.esp", "0.1", "eps"),
        ("optimizer", "adamw", "optimizer.name"),
        ("epochs.first", "1", "no parts"),
        ("epochs", "2.5", "epochs.*2.5"),
        ("epochs", "0", "epochs"),
        ("batch_size", "many", "batch_size.*many"),
        ("seed", "-1", "seed"),
        ("image_size", "3", "image_size"),
        ("optimizer.lr", "nan", "lr"),
        ("optimizer.lr", "-0.1", "lr"),
        ("optimizer.momentum", "1", "momentum"),
        ("optimizer.name", "adam", "adamw"),
        ("schedule", "triangel", "triangle"),
        ("threat.norm", "l2", "L2"),
        ("threat.eps", "-1/255", "negative"),
        ("threat.eps", "abc", "abc"),
        ("measure.evaluators", "clean+pgd:steps=0", "steps"),
        ("measure.evaluators", "clean+pgd+pgd:steps=20", "'robust' is the name of two figures; give name=WORD"),
        ("measure.evaluators", "clean+pdg", "did you mean pgd"),
        ("measure.evaluators", "clean", "the best epoch is chosen by 'robust', which no evaluator gives"),
        ("measure.evaluators", "fgsm:name=n", "'n' is no free name"),
        ("measure.best", "robusst", "chosen by 'robusst'"),
        ("measure.alarm", "fgsm", r"field 'measure.alarm': give two figures, fgsm\+robust on the command line"),
        ("stages", "foo", "stages are 'foo'; give a list in a recipe file, such as .* or null for none"),
        ("stages", [{"epochs": 1, "changes": "foo"}, {}], "changes of a stage are 'foo'; give a mapping of settings"),
        ("stages", [{"epochs": 1, "updates": 2}, {}], "stage 1 has epochs=1 and updates=2; give one"),
        ("stages", [{"epochs": 1, "changes": {"optimizer": 3}}, {}], "stage 1: 'optimizer' has parts; set one"),
        ("measure.alarm", "fgsm+clear", "no evaluator gives an accuracy 'clear'"),
        ("method.steps", "--3", "steps"),
        ("method.steps", "²", "steps"),
    ],
)
def test_wrong_settings_are_refused(key: str, value: object, hint: str, config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=hint):
        train(config.with_values({key: value}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("75+90", [75, 90]),
        ("75+", [75]),
        ("0:1+60:2", [[0, 1], [60, 2]]),
        ("0:1", [[0, 1]]),
        ("1/4+x", [0.25, "x"]),
        ("2e-1", 0.2),
        (".e5", ".e5"),
    ],
)
def test_lists_and_pairs_are_written_in_one_word(given: str, wanted: object) -> None:
    assert RECIPES["digits-sat"]().with_values({"method.list": given}).method.params["list"] == wanted


def test_another_method_or_model_drops_the_parameters_of_the_old_one() -> None:
    config = RECIPES["digits-sat"]().with_values({"model.width": 4})
    assert config.method.params
    assert config.with_values({"method": "standard"}).method.params == {}
    assert config.with_values({"model": "mlp"}).model.params == {}
    assert config.with_values({"model": "mlp", "model.depth": 3}).model.params == {"depth": 3}
    assert config.with_values({"method": "pgd_at", "model": "cnn-small"}) == config


def test_with_values_leaves_the_original_alone() -> None:
    config = RECIPES["digits-sat"]()
    config.with_values({"method.steps": 3, "threat.eps": 0.3, "seed": 9})
    assert config == RECIPES["digits-sat"]()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_plain_data_that_names_known_things(name: str) -> None:
    config = RECIPES[name]()
    assert config.recipe == name
    assert parsed(TrainConfig, json.loads(json.dumps(config.model_dump())), "here") == config
    assert parsed(TrainConfig, json.loads(config.model_dump_json()), "here") == config
    assert config.model.name in ARCHITECTURES
    assert config.activation == canonical(config.activation)
    METHODS[config.method.name](**config.method.params)
    assert config.schedule.name in SCHEDULES
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


def test_every_method_has_recipes_on_digits_and_on_cifar10() -> None:
    """But for reconstructions, whose authors' settings on CIFAR-10 are not known."""
    stated = {name for name, make in METHODS.items() if make().known_from != "reconstruction"}
    for dataset, wanted in (("digits", set(METHODS)), ("cifar10", stated)):
        configs = [RECIPES[name]().model_dump() for name in RECIPES if name.startswith(dataset)]
        assert wanted <= {name for config in configs for name in methods_in(config)}, dataset
    assert {RECIPES[name]().averaging.name for name in RECIPES} == set(AVERAGES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_to_expect_and_whether_it_was_measured(name: str) -> None:
    words = inspect.getdoc(RECIPES[name]) or ""
    for label in (f"Command: `satbench train {name}`", "Hardware: ", "Time: ", "Expected: "):
        assert label in words
    expected = " ".join(words.partition("Expected: ")[2].split())
    assert "measured" in expected
    assert ("not yet measured" in expected) is not name.startswith(("digits", "cifar10-jpeg"))


@pytest.mark.left_out
def test_the_best_epoch_of_clean_training_has_the_highest_clean_accuracy(tmp_path: Path) -> None:
    trained = train(RECIPES["digits-standard"]().with_values({"epochs": 5, "model.width": 4}), tmp_path, "cpu")
    by_clean = [(row.val.figures["clean"], row.val.figures["robust"]) for row in trained.history]
    by_robust = [(row.val.figures["robust"], row.val.figures["clean"]) for row in trained.history]
    assert trained.best_epoch == by_clean.index(max(by_clean)) != by_robust.index(max(by_robust))
    assert provenance(tmp_path / "best.safetensors")["epoch"] == trained.best_epoch


def test_unknown_keys_of_a_stored_config_are_refused() -> None:
    raw = RECIPES["digits-sat"]().model_dump()
    with pytest.raises(BadInput, match=r"somewhere, field 'optimizer\.warmup'"):
        parsed(TrainConfig, {**raw, "optimizer": {**raw["optimizer"], "warmup": 3}}, "somewhere")
    with pytest.raises(BadInput, match=r"somewhere, field 'epochs': Field required$"):
        parsed(TrainConfig, {key: value for key, value in raw.items() if key != "epochs"}, "somewhere")


# optimisation


def test_weight_decay_acts_on_filters_and_matrices_only(config: TrainConfig, tmp_path: Path) -> None:
    """One Nesterov step moves a weight w by -lr (1 + momentum) (gradient + decay w); lr hides the gradient."""
    values = {"epochs": 1, "batch_size": 72, "schedule": "constant", "activation": "smoothrelu", "optimizer.lr": 1e-6}
    weights = {}
    for decay in (0.0, 1e5):
        one = config.with_values({**values, "optimizer.weight_decay": decay})
        weights[decay] = load_file(train(one, tmp_path / f"{decay:g}", device="cpu").folder / "last.safetensors")
    shrunk = {name for name, tensor in weights[0.0].items() if tensor.ndim > 1 and name not in ("mean", "std")}
    assert len(shrunk) == 4
    assert sum(name.endswith("root") for name in weights[0.0]) == 3
    for name, tensor in weights[0.0].items():
        if name in shrunk:
            torch.testing.assert_close(weights[1e5][name], tensor * (1 - 1e-6 * 1.9 * 1e5), rtol=1e-3, atol=1e-5)
        else:
            assert torch.equal(weights[1e5][name], tensor), name


# studies


def test_another_training_is_never_a_seed_of_the_recipe() -> None:
    start = RECIPES["digits-sat"]()
    assert start.with_values({"activation": "relu", "seed": 4}).recipe == "digits-sat"
    assert start.with_values({"epochs": str(start.epochs)}).recipe == "digits-sat"
    changed = start.with_values({"epochs": 2, "model": "mlp", "optimizer.lr": "0.05", "method.steps": 3})
    assert changed.recipe == "digits-sat [epochs=2, method.steps=3, model=mlp, optimizer.lr=0.05]"
    small = RECIPES["cifar10-jpeg-sat-small"]()
    ten = small.with_values({"method.steps": 10})  # the default of its method, and not what the recipe says
    assert ten.recipe == "cifar10-jpeg-sat-small [method.steps=10]"
    assert ten.with_values({"recipe": small.recipe, "method.steps": 1}).named_after(small).recipe == small.recipe


def test_the_same_name_with_other_images_is_another_run(config: TrainConfig, tmp_path: Path) -> None:
    y = np.arange(120) % 3
    for seed in (0, 1):
        x = np.random.default_rng(seed).random((120, 1, 8, 8)).astype(np.float32)
        (tmp_path / str(seed)).mkdir()
        np.savez(tmp_path / str(seed) / "a.npz", x=x, y=y)
    named = config.with_values({"dataset": "npz:a.npz", "epochs": 1})
    train(named, tmp_path / "run", device="cpu", data_dir=tmp_path / "0")
    with pytest.raises(BadInput, match="other images"):
        train(named, tmp_path / "run", device="cpu", data_dir=tmp_path / "1")


def test_no_spelling_of_the_path_puts_training_images_into_the_evaluation(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).random((120, 1, 8, 8)), y=np.arange(120) % 3)
    np.savez(tmp_path / "b.npz", x=np.random.default_rng(1).random((120, 1, 8, 8)), y=np.arange(120) % 3)
    named = config.with_values({"dataset": "npz:a.npz", "epochs": 1})
    train(named, tmp_path / "run", device="cpu", data_dir=tmp_path)
    monkeypatch.chdir(tmp_path)
    for spelling, split in ((f"npz:{tmp_path / 'a.npz'}", "test"), ("npz:./a.npz", "test"), ("npz:b.npz", "all")):
        out = tmp_path / spelling.replace("/", "_")
        run = evaluate("run", out, attack="fgsm", eps=0.1, dataset=spelling, device="cpu")
        assert run.manifest.data.split == split, spelling


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [pytest.param(True, id="terminal"), pytest.param(False, id="parent")])
def test_ctrl_c_ends_a_study_and_all_its_processes(whole_group: bool, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "satbench", "demo", "--out", str(tmp_path / "demo"), "--engine", "local:2"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as p:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.rglob(STATE))) < 2 and p.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        (os.killpg if whole_group else os.kill)(p.pid, signal.SIGINT)
        _, complaint = p.communicate(timeout=60)
    assert p.returncode == 130, complaint
    assert refusal(complaint).startswith("satbench: interrupted;")
    deadline = time.monotonic() + 10
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(p.pid, 0)
            time.sleep(0.05)
        pytest.fail("processes of the study are still there")


def test_seeds_of_one_training_share_a_digest_and_nothing_else_does() -> None:
    config = RECIPES["digits-sat"]()
    digest = config.digest("sha256:a")
    assert config.with_values({"seed": 7}).digest("sha256:a") == digest
    others = [config.with_values(change) for change in ({"epochs": 2}, {"activation": "gelu"}, {"method.steps": 3})]
    assert len({digest, config.digest("sha256:b"), *(other.digest("sha256:a") for other in others)}) == 5


# the log


def test_the_log_holds_the_learning_rate_of_the_last_update(config: TrainConfig, tmp_path: Path) -> None:
    """One cycle falls linearly to 0 after 30% of the run, and an update has the rate of its middle."""
    for row in train(config, tmp_path, "cpu").history:
        assert row.lr == pytest.approx(0.1 * (1 - ((row.epoch + 1) * STEPS - 0.5) / (EPOCHS * STEPS)) / 0.7)
