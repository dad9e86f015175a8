"""Imports point one way: a room imports only from rooms below it, and some rooms need no torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import satbench

ROOT = Path(satbench.__file__).parent
LAYER = {
    "core": 0,
    "specs": 1,
    "numerics": 1,
    "results": 2,
    "models": 3,
    "data": 3,
    "attacks": 3,
    "reporting": 3,
    "regression": 4,
    "zoo": 4,
    "methods": 4,
    "trust": 4,
    "probe": 4,
    "evaluation": 5,
    "training": 6,
    "recipes": 7,
    "engines": 7,
    "study": 8,
    "cli": 9,
    "pytest_plugin": 9,
}
WITHOUT_TORCH = ("core", "specs", "results", "reporting", "regression", "engines")
HEAVY = ("torch", "torchvision", "pyautoattack", "foolbox", "timm", "matplotlib.pyplot")
FILES = sorted(ROOT.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1]


@cache
def imported(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "satbench" else []
            names += whole or [node.module]
    return names


def module_of(file: Path) -> str:
    return ".".join(("satbench", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def test_every_file_belongs_to_a_known_room() -> None:
    rooms = {
        room(module_of(file)) for file in FILES if file.parent != ROOT or file.stem not in ("__init__", "__main__")
    }
    assert rooms == set(LAYER)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_point_down(file: Path) -> None:
    if file.parent == ROOT and file.stem in ("__init__", "__main__"):
        return
    here = room(module_of(file))
    for name in imported(file):
        if name.startswith("satbench."):
            other = room(name)
            assert other == here or LAYER[other] < LAYER[here], f"{here} may not import {other}"


@pytest.mark.left_out
def test_rooms_without_torch_are_imported_where_it_cannot_be() -> None:
    modules = [module_of(file) for name in WITHOUT_TORCH for file in (ROOT / name).rglob("*.py")]
    program = f"import importlib, sys\nfor heavy in {HEAVY}: sys.modules[heavy] = None\n"
    program += f"for name in {modules}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_packages_only_re_export() -> None:
    for file in ROOT.rglob("__init__.py"):
        allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
        kinds = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if not isinstance(node, allowed)]
        assert not kinds or file.parent in (ROOT, ROOT / "zoo"), file  # these resolve their names at first use


def test_only_the_adapter_imports_autoattack() -> None:
    users = [module_of(file) for file in FILES if any(name.startswith("pyautoattack") for name in imported(file))]
    assert users == ["satbench.attacks.autoattack"]


def test_only_the_adapter_imports_foolbox() -> None:
    """`data.samples` only looks where the package lies, for its pictures."""
    users = [module_of(file) for file in FILES if "foolbox" in {name.split(".")[0] for name in imported(file)}]
    assert users == ["satbench.attacks.foolbox"]


def test_no_table_of_contents_imports_a_command_library_early() -> None:
    for file in (ROOT / "cli").glob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        top = [node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
        early = [name for name in top if name.startswith("satbench.") and room(name) not in ("cli", "core")]
        assert not early, f"{file.name} imports {early} before a command runs"
