"""What a command says, and refuses, before it imports anything that is slow to import."""

import subprocess
import sys
from pathlib import Path

import pytest

from satbench.attacks import attack_parameters
from satbench.core.tables import ATTACK_KEYS, ATTACKS

WITHOUT = """
import importlib.abc, sys
absent = sys.argv[1].split(",")
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in absent:
            sys.stderr.write(f"imports {name}\\n")
            raise (KeyboardInterrupt if name.startswith("satbench") else SystemExit)
sys.meta_path.insert(0, Without())
from satbench.__main__ import main
sys.argv = ["satbench", *sys.argv[2:]]
main()
"""
HEAVY = "torch,pandas,numpy,matplotlib,packaging"


def without(modules: str, *words: str, folder: Path) -> tuple[int, list[str]]:
    """Exit code and standard error of a command that ends where it imports one of `modules`."""
    argv = [sys.executable, "-c", WITHOUT, modules, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.one_in(5)
@pytest.mark.parametrize(
    "words",
    [["doctor"], ["report", "run"], ["recipes"], ["card", "run"], ["leaderboard", "check"]],
    ids=" ".join,
)
def test_the_first_line_comes_before_slow_imports(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    _, said = without(HEAVY, *words, folder=tmp_path)
    assert said[0].startswith(words[0])
    assert said[0].endswith(", some seconds") or said[0].endswith(": some seconds")
    assert said[1].startswith("imports ")


@pytest.mark.one_in(10)
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--activation", "sillu"], "unknown activation 'sillu'; did you mean silu"),
        (["train", "--set", "activation=elu:beta=3"], "unknown parameter 'beta' of activation 'elu'; known: alpha"),
        (["train", "--out", "/dev/null/x"], "--out /dev/null/x: /dev/null is a file"),
        (["train", "--dataset", "npz:images.npz"], "no such file: images.npz"),
        (["eval", "--model", "digits-silu", "--attack", "pgd:stepz=3"], "unknown parameter 'stepz' of attack 'pgd'"),
        (["eval", "--model", "digits-silu", "--attack", "fgsm", "--dataset", "npz:a.npz"], "no such file: a.npz"),
        (["eval", "--model", "digits-silu", "--attack", "fgsm", "--out", "/dev/null/x"], "/dev/null is a file"),
        (["trust", "digits-silu", "--dataset", "npz:a.npz"], "no such file: a.npz"),
        (["demo", "--out", "/dev/null/x"], "--out /dev/null/x: /dev/null is a file"),
        (["report", "nosuch"], "nosuch is not there"),
        (["report", ".", "--out", "/dev/null/x"], "--out /dev/null/x: /dev/null is a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_cheap_to_refuse_is_refused_without_torch(words: list[str], hint: str, tmp_path: Path) -> None:
    code, said = without("torch", *words, folder=tmp_path)
    assert (code, len(said)) == (2, 1), said
    assert hint in said[0]


def test_a_data_set_is_looked_for_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.npz").touch()
    _, said = without("torch", "train", "--dataset", "npz:a.npz", "--data-dir", "data", folder=tmp_path)
    assert said[-1] == "imports torch"


def test_the_parameters_in_the_table_are_those_of_the_attacks() -> None:
    assert {name: tuple(attack_parameters(name)) for name in ATTACK_KEYS} == ATTACK_KEYS
    assert set(ATTACK_KEYS) <= set(ATTACKS)


def test_an_interrupt_while_the_command_line_is_imported_is_one_line(tmp_path: Path) -> None:
    code, said = without("satbench.cli", "recipes", folder=tmp_path)
    assert code == 130
    assert said[1:] == ["satbench: interrupted; run the same command again to resume"]
