"""Imports point one way: a room imports only from rooms below it, and the reading rooms never reach torch."""

import ast
from pathlib import Path

import pytest

import satbench

ROOT = Path(satbench.__file__).parent
LAYER = {
    "errors": 0,
    "lookup": 1,
    "eps": 1,
    "parsing": 1,
    "progress": 1,
    "home": 1,
    "seeding": 1,
    "strict_yaml": 1,
    "device": 1,
    "modes": 1,
    "threat": 2,
    "results": 2,
    "models": 3,
    "data": 3,
    "attacks": 3,
    "reporting": 3,
    "regression": 3,
    "zoo": 4,
    "methods": 4,
    "trust": 4,
    "evaluation": 5,
    "training": 6,
    "recipes": 7,
    "study": 8,
    "cli": 9,
}
WITHOUT_TORCH = ("results", "reporting", "regression", "errors", "lookup", "eps", "parsing", "progress", "strict_yaml")
FILES = sorted(ROOT.rglob("*.py"))


def room(module: str) -> str:
    return module.split(".")[1]


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
        elif here in WITHOUT_TORCH:
            assert name.split(".")[0] not in ("torch", "torchvision", "pyautoattack", "foolbox"), (
                f"{here} without torch"
            )


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
        early = [name for name in top if name.startswith("satbench.") and room(name) not in ("cli", "errors")]
        assert not early, f"{file.name} imports {early} before a command runs"
