"""The example repository of `docs/gate.md`: its gate passes, and fails on what is broken on purpose."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from satbench.cli import app

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples/gate-your-model"
MADE = ("__pycache__", ".pytest_cache", "*.pyc")  # what running the example leaves in it


def replace_in_model(before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "digitnet/model.py"
        text = file.read_text(encoding="utf-8")
        assert text.count(before) == 1
        file.write_text(text.replace(before, after), encoding="utf-8")

    return change


def silence_a_filter(folder: Path) -> None:
    weights = load_file(folder / "digitnet/weights.safetensors")
    weights["first.weight"][2] = 0
    save_file(weights, folder / "digitnet/weights.safetensors")


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights": (silence_a_filter, r"PGD-20 at Linf 0.1: 79.3% before, .* lost .* beyond the accepted \+2.0 points"),
    "mean": (replace_in_model("MEAN = 0.305", "MEAN = 0.5"), "PGD-20 at Linf 0.1: 79.3% before, .* lost "),
    "scale": (replace_in_model("STD = 0.376", "STD = 255 * 0.376"), "clean: 98.2% before, .* lost "),
    "masked": (
        replace_in_model("x = (images - MEAN) / STD", "x = ((8 * images).round() / 8 - MEAN) / STD"),
        "trust pass before, fail now; .* cannot be believed.*: gradients: ",
    ),
}
SLOW = {"mean": pytest.mark.slow}  # one preprocessing slip is enough by default


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the example, which is the current folder and whose package is imported anew."""
    copy = tmp_path / "mine"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns(*MADE))
    monkeypatch.chdir(copy)
    monkeypatch.delenv("SATBENCH_PLUGINS", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    forget()
    yield copy
    forget()


def forget() -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "digitnet"]:
        del sys.modules[name]


def check(*words: str) -> Result:
    return CliRunner().invoke(app, ["check", "robustness.yaml", *words])


@pytest.mark.left_out
def test_the_gate_of_the_example_passes(example: Path) -> None:
    done = check("--json")
    assert done.exit_code == 0, done.output
    ((network,),) = (one["networks"] for one in json.loads(done.stdout))
    assert network["trust_now"] == "pass"
    assert {one["state"] for one in network["figures"]} == {"unchanged"}


@pytest.mark.left_out
@pytest.mark.parametrize("kind", [pytest.param(one, marks=SLOW.get(one, ())) for one in BREAKS])
def test_what_is_broken_on_purpose_fails_with_the_right_words(kind: str, example: Path) -> None:
    change, words = BREAKS[kind]
    change(example)
    done = check()
    assert done.exit_code == 1, done.output
    assert re.search(f"changed: digitnet, PGD-20: {words}", done.stderr), done.stderr
    if kind == "masked":
        assert re.search(r"PGD-20 at Linf 0.1: 79.3% before, 9.* gained ", done.stderr)


def test_the_example_is_small_and_whole() -> None:
    assert sum(file.stat().st_size for file in EXAMPLE.rglob("*.*") if "__pycache__" not in file.parts) < 40_000
    named = re.findall(r"^\| `([^`]+)` \|", (EXAMPLE / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) == 5
    for one in named:
        assert (EXAMPLE / one).exists()


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks of a page."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables under which `satbench` and `python` use an installed wheel."""
    dist, site, tools = (tmp_path_factory.mktemp(name) for name in ("dist", "site", "tools"))
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)], ROOT)
    (wheel,) = dist.glob("*.whl")
    install = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--target", str(site), str(wheel)]
    run([sys.executable, "-m", *install], dist)
    for name, words in (("satbench", "-m satbench"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (tools / name).chmod(0o755)
    where = {"PATH": os.pathsep.join([str(tools), os.environ["PATH"]]), "PYTHONPATH": str(site)}
    said = run(["python", "-c", "import satbench; print(satbench.__file__)"], dist, where)
    assert Path(said.strip()).is_relative_to(site)
    return where


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", ["examples/gate-your-model/README.md", "docs/gate.md"])
def test_the_commands_of_a_page_work_as_written(page: str, example: Path, installed: dict[str, str]) -> None:
    assert len(commands(ROOT / page)) > 3
    for command in commands(ROOT / page):
        run(["bash", "-c", command], example, installed)


@pytest.mark.slow
def test_an_installed_wheel_fails_a_broken_network(example: Path, installed: dict[str, str]) -> None:
    silence_a_filter(example)
    for command in ("satbench check robustness.yaml", "python -m pytest"):
        said = run(["bash", "-c", command], example, installed, code=1)
        assert "changed: digitnet, PGD-20: PGD-20 at Linf 0.1: 79.3% before, " in said


def run(words: list[str], folder: Path, where: dict[str, str] | None = None, code: int = 0) -> str:
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**inherited, "OMP_NUM_THREADS": "1", **(where or {})}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
