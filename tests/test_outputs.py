"""Commands that write refuse at once what they cannot or must not write to, and change nothing there."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import refusal
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.files import check_output_file, check_output_folder
from satbench.core.strict_yaml import shipped
from satbench.reporting.page import FILES
from satbench.reporting.results_file import RESULTS_FILE
from satbench.results.store import check_run_folder

RUN = ["--model", "digits-silu", "--attack", "fgsm", "--n", "8", "--no-trust"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "run"
    ran = CliRunner().invoke(app, ["eval", *RUN, "--out", str(folder)])
    assert ran.exit_code == 0, ran.output
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file of the user's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("mine")
    return tmp_path


def refused(words: list[str], hint: str, folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    ran = CliRunner().invoke(app, words)
    assert (ran.exit_code, ran.stdout) == (2, ""), ran.output
    assert hint in refusal(ran.stderr)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


COMMANDS: dict[str, Callable[[Path, str], list[str]]] = {
    "eval": lambda run, out: ["eval", *RUN, "--out", out],
    "report": lambda run, out: ["report", str(run), "--out", out],
    "train": lambda run, out: ["train", "--epochs", "1", "--out", out],
    "trust": lambda run, out: ["trust", "digits-silu", "--n", "8", "--out", out],
    "probe": lambda run, out: ["probe", "digits-silu", "--n", "8", "--out", out],
    "demo": lambda run, out: ["demo", "--out", out],
    "check": lambda run, out: ["check", "--out", out],
    "leaderboard": lambda run, out: ["leaderboard", "build", "--dir", out],
    "export": lambda run, out: ["models", "export", "digits-silu", "--to", out],
}


@pytest.mark.one_in(6)
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_a_folder_is_refused_before_any_work(
    command: str, run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_, **__: pytest.fail("a network runs"))
    for out, hint in (
        ("FILE", "FILE is a file; give a folder"),
        ("FILE/x/y", "FILE is a file; give a folder"),
        ("/dev/null", "/dev/null is a file; give a folder"),
        ("s3:/x", "begins as a URL does"),
        (os.fsdecode(b"\xff"), "is not UTF-8"),
        ("", "an empty value is given after '--"),
        ("x" * 300, "File name too long"),
    ):
        refused(COMMANDS[command](run, out), hint, here)
    option = COMMANDS[command](run, "")[-2]
    refused([*COMMANDS[command](run, "")[:-2], f"{option}="], f"an empty value is given after '{option}'", here)


def _refuses(dir: Path) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))


def test_a_folder_that_is_read_only_is_refused_unless_its_run_is_there(
    run: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "closed").mkdir()
    monkeypatch.setattr("satbench.core.files.tempfile.TemporaryFile", _refuses)  # root may write everywhere
    for out in (here / "closed", here / "closed" / "x"):
        with pytest.raises(BadInput, match="closed cannot be written to"):
            check_output_folder(out)
    check_run_folder(run)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["models", "pins", "export", "FILE"], "it would be overwritten; give a new file"),
        (["models", "pins", "export", "."], "is not a plain file"),
        (["models", "pins", "export", "FILE/x"], "FILE is a file; give a folder"),
        (["models", "init-card", "RUN", "--name", "a", "--out", "."], "--out . is not a plain file"),
        (["models", "init-card", "RUN", "--name", "a", "--out", "FILE/x"], "FILE is a file; give a folder"),
        (["check", "suite.yaml", "--approve", "why"], "suite.baseline.json is not a plain file"),
    ],
)
def test_a_file_of_something_else_is_not_overwritten(words: list[str], hint: str, here: Path) -> None:
    shutil.copy(shipped("studies/digits-quick.yaml"), here / "suite.yaml")
    (here / "suite.baseline.json").mkdir()
    refused(words, hint, here)


def test_pins_replace_pins(here: Path) -> None:
    (here / "pins.json").write_text('{"a": {"b": "%s"}}' % ("1" * 64))
    assert CliRunner().invoke(app, ["models", "pins", "export", "pins.json"]).exit_code == 0
    assert (here / "pins.json").read_text() == "{}\n"
    check_output_file(here / "new" / "pins.json")


def test_a_report_replaces_no_file_of_others(run: Path, here: Path) -> None:
    site = here / "site"
    site.mkdir()
    for name in FILES:
        (site / name).write_text("mine")
    refused(["report", str(run), "--out", "site"], f"site has {', '.join(FILES)} and no page of satbench", here)
    for name in FILES:
        (site / name).unlink()
    (site / RESULTS_FILE).write_text("mine")
    refused(["report", str(run), "--out", "site"], f"{RESULTS_FILE} is missing or damaged", here)
    (site / RESULTS_FILE).unlink()
    (site / "notes.txt").write_text("mine")
    for _ in range(2):  # the second replaces the first
        ran = CliRunner().invoke(app, ["report", str(run), "--out", "site"])
        assert ran.exit_code == 0, ran.output
    assert {file.name for file in site.iterdir()} <= {*FILES, RESULTS_FILE, "index.html", "notes.txt"}
    assert (site / "notes.txt").read_text() == "mine"
