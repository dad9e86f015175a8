"""The command line: what each bad input answers, what good ones write, and what starting it costs."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refusal
from scipy.stats import binomtest
from tiny_training import SMALL
from typer.testing import CliRunner, Result

import satbench
from satbench.cli import app
from satbench.data import load_images
from satbench.models import ACTIVATIONS, ARCHITECTURES
from satbench.recipes import RECIPES
from satbench.results.store import read_run
from satbench.zoo.registry import read_cards


def call(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = call("train", *SMALL, "--epochs", "1", "--device", "cpu", "--out", str(folder))
    assert result.exit_code == 0, result.output
    return str(folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, so that whatever a command writes by default shows."""
    monkeypatch.delenv("SATBENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(result: Result, hint: str, folder: Path) -> None:
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert hint in refusal(result.stderr)
    assert not list(folder.iterdir())


TRAIN = [
    (["digits-stt"], "did you mean digits-s"),
    (["--model", "cnn-smal"], "cnn-small"),
    (["--activation", "sillu"], "silu"),
    (["--method", "pgd-at"], "pgd_at"),
    (["--dataset", "digit"], "digits"),
    (["--dataset", "npz:nowhere.npz"], "nowhere.npz"),
    (["--device", "gpu"], "auto, cpu or cuda"),
    (["--epochs", "0"], "epochs"),
    (["--seed", "-1"], "seed"),
    (["--set", "epoch=3"], "epochs"),
    (["--set", "optimizer.learning_rate=3"], "lr"),
    (["--set", "optimizer.lr=fast"], "fast"),
    (["--set", "optimizer.lr"], "KEY=VALUE"),
    (["--set", "method.stepz=3"], "steps"),
    (["--set", "method.step_size=big"], "step_size"),
    (["--set", "model.widht=3"], "width"),
    (["--set", "threat.norm=linf"], "Linf"),
    (["--set", "threat.eps=8"], "8/255"),
    (["--set", "threat.eps=-1/255"], "1/255"),
    (["--set", "=3"], "unknown setting"),
]

EVAL = [
    (["--attack", "pdg"], "did you mean pgd"),
    (["--attack", "autoatack"], "did you mean autoattack"),
    (["--attack", "pgd:restart=3"], "restarts"),
    (["--attack", "pgd:loss=7"], "loss"),
    (["--norm", "linf"], "did you mean Linf"),
    (["--norm", "Linf,"], "empty item"),
    (["--norm", "L2"], "--eps"),
    (["--eps=-1/255"], "negative"),
    (["--eps", "abc"], "8/255"),
    (["--eps", "nan"], "finite"),
    (["--eps", "inf"], "finite"),
    (["--eps", "1/0"], "not a number"),
    (["--eps", "8"], "did you mean 8/255?"),
    (["--eps", "4/255,8"], "did you mean 8/255?"),
    (["--eps", "4/255,,8/255"], "empty item"),
    (["--eps", ""], "an empty value is given after '--eps'"),
    (["--steps", "x"], "10,50"),
    (["--steps", "0"], "whole number"),
    (["--restarts", "-1"], "whole number"),
    (["--n", "0"], "1 to 450"),
    (["--n", "99999"], "1 to 450"),
    (["--batch-size", "0"], "--batch-size 0: give a whole number from 1"),
    (["--search", "fast"], "--search 'fast': Input should be 'folded', 'plain', 'bf16' or 'surrogate'"),
    (["--name", " "], "--name is empty"),
    (["--threat", "L2=1"], "is not NORM:EPS, as Linf:8/255, and no norm; did you mean L2"),
    (["--split", "tset"], "test"),
    (["--dataset", "digit"], "digits"),
    (["--dataset", "image_folder:nowhere"], "nowhere"),
    (["--image-size", "32"], "8 pixels"),
    (["--device", "gpu"], "auto, cpu or cuda"),
    (["--checkpoint", "weights.pt"], "package.module:callable"),
]


@pytest.mark.parametrize(("words", "hint"), TRAIN, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_training_input_is_one_line(words: list[str], hint: str, here: Path) -> None:
    assert_refused(call("train", *words), hint, here)


@pytest.mark.parametrize(("words", "hint"), EVAL, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_bad_evaluation_input_is_one_line(words: list[str], hint: str, trained: str, here: Path) -> None:
    start = ["eval", "--model", trained, "--device", "cpu"]
    if "--attack" not in words:
        start += ["--attack", "pgd"]
    assert_refused(call(*start, *words), hint, here)


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("cnn-small", "train it first"),
        ("cnn-smal", "cnn-small"),
        ("nowhere/run", "satbench models"),
        ("nowhere.safetensors", "no such file"),
        ("nowhere.pt", "no such checkpoint"),
        ("nowhere:build", "no module named 'nowhere'"),
        (".", "satbench train"),
        ("torch.nn:Identity --checkpoint nowhere.pt", "no such checkpoint: nowhere.pt"),
        ("torch.nn:Identity", "--dataset"),
        ("torch.nn:Identity --dataset digits", "expected logits"),
    ],
)
def test_bad_models_are_one_line(model: str, hint: str, here: Path) -> None:
    words = ["eval", "--attack", "pgd", "--eps", "0.1", "--device", "cpu", "--model", *model.split()]
    assert_refused(call(*words), hint, here)


@pytest.mark.parametrize("out", ["letter.txt", "letter.txt/run", "."])
@pytest.mark.parametrize("command", ["train", "eval"])
def test_an_output_that_is_taken_is_refused_and_untouched(command: str, out: str, trained: str, here: Path) -> None:
    (here / "letter.txt").write_text("dear")
    words = {"train": [*SMALL, "--epochs", "1"], "eval": ["--model", trained, "--attack", "fgsm", "--n", "5"]}
    result = call(command, *words[command], "--out", out)
    assert result.exit_code == 2, result.output
    assert refusal(result.stderr).startswith("satbench: --out ")
    assert [(file.name, file.read_text()) for file in here.iterdir()] == [("letter.txt", "dear")]


def test_another_run_in_the_folder_is_refused(trained: str, here: Path) -> None:
    before = {file.name: file.read_bytes() for file in Path(trained).iterdir()}
    assert_refused(call("train", *SMALL, "--epochs", "2", "--out", trained), "epochs (1 there, 2 asked for)", here)
    assert_refused(call("eval", "--model", trained, "--attack", "fgsm", "--n", "5", "--out", trained), "--out", here)
    assert {file.name: file.read_bytes() for file in Path(trained).iterdir()} == before


def test_a_radius_is_only_assumed_for_the_norm_of_the_training(trained: str, here: Path) -> None:
    config = json.loads((Path(trained) / "config.json").read_text())["config"]
    result = call("eval", "--model", trained, "--attack", "fgsm", "--n", "5", "--out", "run")
    assert result.exit_code == 0, result.output
    (threat,) = read_run(here / "run").manifest.threats
    assert (threat.norm, threat.eps) == ("Linf", config["threat"]["eps"])


def test_eval_sweeps_and_says_where_the_run_is(trained: str, here: Path) -> None:
    words = ["--attack", "pgd", "--attack", "fgsm", "--eps", "0.05,0.1", "--steps", "1,2", "--n", "10"]
    result = call("eval", "--model", trained, *words, "--device", "cpu", "--out", "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == "run"
    run = read_run(here / "run")
    assert len(run.records) == 3 * 2 * 10
    assert len(run.manifest.attacks) == 3
    again = call("eval", "--model", trained, *words, "--device", "cpu", "--out", "again")
    assert again.exit_code == 0
    assert (here / "run" / "records.parquet").read_bytes() == (here / "again" / "records.parquet").read_bytes()


def test_default_folders_differ_when_the_command_does(
    trained: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in ("5", "6", "5"):
        words = ["eval", "--model", trained, "--attack", "fgsm", "--n", n]
        monkeypatch.setattr(sys, "argv", ["satbench", *words])
        assert call(*words).exit_code == 0
    folders = sorted((here / "reports" / "runs").iterdir())
    assert [read_run(folder).manifest.data.n for folder in folders] in ([5, 6], [6, 5])
    assert all(read_run(folder).manifest.command.startswith("satbench eval --model") for folder in folders)


@pytest.mark.left_out
def test_train_says_what_it_reached_and_what_comes_next(here: Path) -> None:
    result = call("train", *SMALL, "--epochs", "2", "--seed", "7", "--activation", "relu", "--device", "cpu")
    assert result.exit_code == 0, result.output
    (folder,) = (here / "reports" / "runs").iterdir()
    relative = folder.relative_to(here)
    assert relative.name.startswith("digits-sat-mlp-relu-seed7-")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: (row["val_robust"], row["val_clean"]))
    lines = result.stdout.splitlines()
    count = len(load_images("digits", "val"))
    right = round(best["val_clean"] * count)
    low, high = binomtest(right, count).proportion_ci(method="wilson")
    rate = f"{math.floor(1000 * right / count) / 10:.1f}"
    assert lines[0] == "| epoch | clean % | fgsm % | robust % |"
    clean = f"{rate} [{math.floor(1000 * low) / 10:.1f}, {math.ceil(1000 * high) / 10:.1f}]"
    assert lines[2].replace("\\", "").startswith(f"| best, {best['epoch'] + 1} of 2 | {clean} | ")
    assert lines[3].startswith("| last, 2 of 2 | ")
    (verdict,) = [line for line in lines if line.startswith(f"best epoch {best['epoch'] + 1}: robust ")]
    assert f" % at Linf 0.2 on {count} validation images, best - last " in verdict
    lost = 100 * (best["val_robust"] - rows[-1]["val_robust"])
    assert float(verdict.split()[-2]) == pytest.approx(lost, abs=0.1)
    assert lines[-4:-2] == [f"{relative / 'curves.svg'}", f"{relative / 'curves.png'}"]
    assert lines[-2] == f"{relative / 'best.safetensors'}"
    assert f"satbench eval --model {relative}" in lines[-1]


def test_recipes_are_listed_and_shown_whole() -> None:
    listed = call("recipes").stdout
    assert all(name in listed for name in RECIPES)
    whole = call("recipes", "cifar10-trades").stdout
    assert "arXiv 1901.08573" in whole
    assert "not yet measured" in whole
    assert json.loads(whole[whole.index("{") : whole.rindex("}") + 1])["method"]["name"] == "trades"
    assert call("recipes", "cifar10-tradez").exit_code == 2


@pytest.mark.left_out
def test_data_dir_reaches_training_and_evaluation(here: Path) -> None:
    (here / "sets").mkdir()
    x = np.random.default_rng(0).random((60, 1, 4, 4), dtype=np.float32)
    np.savez(here / "sets" / "a.npz", x=x, y=np.arange(60) % 2)
    words = ["--dataset", "npz:a.npz", "--data-dir", "sets", "--device", "cpu"]
    assert call("train", *SMALL, "--epochs", "1", *words, "--out", "run").exit_code == 0
    result = call("eval", "--model", "run", "--attack", "fgsm", *words, "--out", "eval")
    assert result.exit_code == 0, result.output
    assert read_run(here / "eval").manifest.data.model_dump(include={"name", "split", "n"}) == {
        "name": "npz:a.npz",
        "split": "test",
        "n": 16,
    }


def test_models_lists_every_name(here: Path) -> None:
    result = call("models")
    assert result.exit_code == 0
    words = result.stdout.split()
    for name in (*ARCHITECTURES, *ACTIVATIONS, *read_cards()):
        assert name in words


def test_an_approval_without_a_reason_is_refused_at_once(here: Path) -> None:
    assert_refused(call("check", "--approve", " "), "reason", here)
    assert_refused(call("check", "--approve", "x", "--power"), "do not go together", here)
    assert_refused(call("check", "nothing.yaml"), "no such file: nothing.yaml", here)


MODULE = """
import os, signal
from torch import nn

class Slow(nn.Linear):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGINT)
        return super().forward(x.flatten(1))

def build():
    return Slow(64, 10)
"""


@pytest.fixture
def slow(here: Path) -> Iterator[str]:
    (here / "slownet.py").write_text(MODULE)
    yield "slownet:build"
    sys.modules.pop("slownet", None)


def test_ctrl_c_in_an_evaluation_is_130_and_writes_nothing(slow: str, here: Path) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    result = call("eval", "--model", slow, "--attack", "fgsm", "--eps", "0.1", "--dataset", "digits", "--out", "run")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("satbench: interrupted")
    assert "Traceback" not in result.output
    assert not (here / "run").exists()


# the process

START = """
import sys
from satbench.cli import main
sys.argv = ["satbench", *sys.argv[1:]]
try:
    main()
finally:
    heavy = sorted({"torch", "torchvision", "pandas", "numpy", "sklearn", "matplotlib"} & set(sys.modules))
    print("imported:", *heavy)
"""


@pytest.mark.one_in(3)
@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["eval", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", START, *words], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: satbench" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


WITHOUT_TORCH = """
import sys
for heavy in ("torch", "torchvision", "timm"): sys.modules[heavy] = None
from satbench.cli import main
sys.argv = ["satbench", *sys.argv[1:]]
main()
"""


def listed_without_torch(*words: str) -> str:
    program = [sys.executable, "-c", WITHOUT_TORCH, "models", "list", *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.left_out
def test_the_registry_is_listed_without_torch() -> None:
    silu = [name for name, card in read_cards().items() if card.activation == "silu"]
    assert "digits-silu" in silu
    assert [one["name"] for one in json.loads(listed_without_torch("--activation", "silu", "--json"))] == silu
    table = listed_without_torch("digits-*", "--fetched").splitlines()
    assert [line.split()[-1] for line in table[2:]] == ["packaged"] * 3


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, satbench; print('torch' in sys.modules, *satbench.__all__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", *satbench.__all__]
    assert all(getattr(satbench, name) is not None for name in satbench.__all__)
    with pytest.raises(AttributeError, match="evaluate"):
        satbench.evalute  # noqa: B018


def test_the_module_is_the_console_script(here: Path) -> None:
    words = [sys.executable, "-m", "satbench", "train", "digits-tradez"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("satbench: unknown recipe 'digits-tradez'; did you mean digits-trades")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(here.iterdir())


def test_commands_leave_threads_and_gradients_alone(trained: str) -> None:
    threads = torch.get_num_threads()
    assert call("eval", "--model", trained, "--attack", "fgsm", "--n", "5", "--out", "run").exit_code == 0
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
