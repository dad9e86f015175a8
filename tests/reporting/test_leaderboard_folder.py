"""Leaderboards in folders of one's own: init, add, build and check, without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from refusals import refusal
from typer.testing import CliRunner

from satbench.cli import app
from satbench.reporting.leaderboard_folder import read_leaderboard
from satbench.reporting.run_file import Entry, encoded
from satbench.reporting.summary import summarise
from satbench.results.store import Run

from .made import AA, EPS, PGD, MakeRun, first, runs_in, trust


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["leaderboard", *map(str, words)])


def done(*words: object) -> Result:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result


def refused(hint: str, *words: object) -> None:
    result = call(*words)
    assert result.exit_code == 2, result.output
    assert hint in refusal(result.stderr)


@pytest.fixture
def board(tmp_path: Path) -> Path:
    done("init", tmp_path / "boards", "--title", "Ours: robust & small")
    return tmp_path / "boards"


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return make_run("silu", first(35, 40), {(PGD, "Linf", EPS): first(20, 40)}, trust=trust("pass"))


@pytest.mark.left_out
def test_a_run_is_added_built_and_checked(board: Path, run: Run) -> None:
    assert call("check", "--dir", board).exit_code == 0
    added = done("add", run.path, "--dir", board)
    (file,) = (board / "runs").iterdir()
    assert added.stdout == f"{file}\n"
    stale = call("check", "--dir", board)
    assert (stale.exit_code, "is not what the runs give" in stale.stderr) == (1, True)
    done("build", "--dir", board)
    done("check", "--dir", board)
    assert read_leaderboard(board).rows == summarise([run])
    assert "Ours: robust &amp; small" in (board / "index.html").read_text()
    with (board / "digits-Linf-8-255.csv").open("a") as page:
        page.write("edited")
    assert call("check", "--dir", board).exit_code == 1


def test_a_run_that_is_there_is_left_as_it_is(board: Path, run: Run) -> None:
    done("add", run.path, "--dir", board)
    (file,) = (board / "runs").iterdir()
    before = file.read_bytes()
    again = done("add", run.path, file, "--dir", board)
    assert (again.stdout, again.stderr) == ("", f"{file}: is there already\n")
    assert file.read_bytes() == before
    file.write_text(encoded(Entry(run)).replace('"training": []', '"training": [ ]'))
    assert "is there already\n" in done("add", run.path, "--dir", board).stderr


def test_runs_of_one_measurement_count_together_and_the_user_is_told(board: Path, make_run: MakeRun) -> None:
    runs = [make_run("silu", first(4, 4), {(PGD, "Linf", EPS): stands}) for stands in ([1, 1, 0, 0], [0, 1, 1, 0])]
    done("add", runs[0].path, "--dir", board)
    (file,) = (board / "runs").iterdir()
    told = done("add", runs[1].path, "--dir", board).stderr
    assert f"{file.name} is of the same network, images, attacks and seed" in told
    assert [row.robust for row in read_leaderboard(board).rows] == [1]


def test_runs_added_in_two_copies_are_merged_by_their_files(board: Path, make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(name, first(4, 4), {(PGD, "Linf", EPS): first(2, 4)}) for name in ("silu", "relu")]
    other = shutil.copytree(board, tmp_path / "other")
    done("add", runs[0].path, "--dir", board)
    done("add", runs[1].path, "--dir", other)
    for file in (other / "runs").iterdir():
        shutil.copy(file, board / "runs")
    assert read_leaderboard(board).rows == summarise(runs)


def test_a_changed_file_of_a_run_is_refused(board: Path, run: Run) -> None:
    done("add", run.path, "--dir", board)
    done("build", "--dir", board)
    (file,) = (board / "runs").iterdir()
    raw = json.loads(file.read_text())
    raw["manifest"]["model"]["label"] = "better"
    file.write_text(json.dumps(raw))
    for command in ("check", "build"):
        refused("does not match its digest: it was changed", command, "--dir", board)
    refused("does not match its digest: it was changed", "add", run.path, "--dir", board)


def test_a_run_whose_seal_is_broken_is_not_added(board: Path, run: Run) -> None:
    manifest = run.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"revision": "abc1234"', '"revision": "abc1235"'))
    refused("does not match its seal", "add", run.path, "--dir", board)
    assert list((board / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ("datasets: [cifar10/test]", "its images are digits/test, expected cifar10/test"),
        ("attacks: [autoattack]", "0 images met autoattack at Linf 8/255, expected at least 1"),
        ('threats: ["Linf:4/255"]', "0 images met pgd at Linf 4/255"),
        ("n: 41", "40 images met pgd at Linf 8/255, expected at least 41"),
        ('attacks: [pgd]\nthreats: ["Linf:8/255"]\nn: 40\ndatasets: [digits]', ""),
    ],
)
def test_the_settings_say_which_runs_are_accepted(settings: str, hint: str, board: Path, run: Run) -> None:
    (board / "leaderboard.yaml").write_text(f"title: Mine\n{settings}\n")
    if hint:
        refused(hint, "add", run.path, "--dir", board)
    else:
        done("add", run.path, "--dir", board)


def test_what_is_no_leaderboard_or_no_run_is_refused(board: Path, run: Run, tmp_path: Path) -> None:
    for words in (("add", run.path), ("build",), ("check",)):
        refused("is no leaderboard: it has no leaderboard.yaml", *words, "--dir", tmp_path)
    refused("is not empty", "init", board)
    refused("no run in", "add", tmp_path / "none", "--dir", board)
    (tmp_path / "text.json").write_text("nothing")
    refused("is no JSON", "add", tmp_path / "text.json", "--dir", board)
    (board / "leaderboard.yaml").write_text("title: Mine\nthreats: [Linf]\n")
    refused("threat 'Linf' is not NORM:EPS", "check", "--dir", board)
    (board / "leaderboard.yaml").write_text("title: Mine\nattacks: [autoatack]\n")
    refused("did you mean autoattack", "check", "--dir", board)
    (board / "leaderboard.yaml").write_text("titel: Mine\n")
    refused("field 'titel': unknown field; did you mean title", "check", "--dir", board)


def test_examples_are_asked_of_run_folders_that_kept_some(board: Path, run: Run) -> None:
    refused("kept no examples; run `satbench eval` with --save-examples", "add", run.path, "--examples", "--dir", board)
    assert list((board / "runs").iterdir()) == []
    done("add", run.path, "--dir", board)
    (file,) = (board / "runs").iterdir()
    refused("give a folder or leave out --examples", "add", file, "--examples", "--dir", board)


def test_measured_rows_replace_counts(board: Path, make_run: MakeRun) -> None:
    """Counts of runs whose records are gone stay for what was not measured again."""
    old = [make_run("silu", first(4, 4), {(a, "Linf", EPS): first(2, 4)}, digest="d") for a in (PGD, AA)]
    (board / "runs" / "counts.json").write_text(encoded(Entry(rows=tuple(summarise(old)))))
    new = make_run("silu", first(4, 4), {(PGD, "Linf", EPS): first(1, 4)}, digest="d")
    done("add", new.path, "--dir", board)
    assert {row.attack: row.robust for row in read_leaderboard(board).rows} == {PGD: 1, AA: 2, "worst case": 2}


@pytest.mark.left_out
def test_no_command_of_a_leaderboard_needs_torch(tmp_path: Path) -> None:
    run = runs_in(tmp_path)("silu", first(35, 40), {(AA, "Linf", EPS): first(20, 40)})
    board = tmp_path / "boards"
    commands = [
        ["init", str(board)],
        ["add", str(run.path), "--dir", str(board)],
        ["build", "--dir", str(board)],
        ["check", "--dir", str(board)],
        ["export", "digits-cnn silu seed 0", "--dir", str(board)],
    ]
    program = f"""
import sys
for heavy in ("torch", "torchvision", "timm"): sys.modules[heavy] = None
from satbench.cli import app
for words in {commands}:
    try:
        app(["leaderboard", *words], standalone_mode=True)
    except SystemExit as ended:
        assert not ended.code, (words, ended.code)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
