"""Every command of README.md and docs/ is parsed, and those that need nothing special are run, page by page."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from pages import NEEDS, OTHER, PAGES, ROOT, RUN, blocks, lines, make_targets, parse, satbench_arguments
from pages import shell_environment as environment

import satbench
from satbench.cli.app import app
from satbench.core.plugins import SOCKETS
from satbench.methods import METHODS

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block, words) for block in BLOCKS if block.language == "sh" for words in lines(block.text)]
ARGUMENTS = [
    pytest.param(given, id=f"{block.where} {' '.join(given[:2])}")
    for block, words in COMMANDS
    if (given := satbench_arguments(words)) is not None
]
RUNNING = [  # test_example.py runs gate.md, in the folder of its example
    page for page in PAGES if page.stem != "gate" and any(not one.needs for one in blocks(page) if one.language in RUN)
]


def test_every_block_names_its_language_and_what_it_needs() -> None:
    for block in BLOCKS:
        assert block.language in (*RUN, *OTHER), f"{block.where}: language {block.language!r}"
        assert block.needs in ("", *NEEDS), f"{block.where}: needs {block.needs!r}"
        if block.language in OTHER:
            assert not re.search(r"^(satbench|make) ", block.text, re.MULTILINE), f"{block.where}: commands are not run"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_command_parses(arguments: list[str]) -> None:
    commands = parse(arguments)
    assert commands == arguments[: len(commands)]


def test_targets_and_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for block, words in COMMANDS:
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= make_targets(), block.where
        for named in re.findall(r"satbench\[([\w,]+)\]", " ".join(words)):
            assert set(named.split(",")) <= set(extras), f"{block.where}: {named}"


def test_python_blocks_parse() -> None:
    python = [block for block in BLOCKS if block.language == "python"]
    assert python
    for block in python:
        assert ast.parse(block.text, block.where).body


def test_sentences_name_commands_that_exist() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for name in re.findall(r"`satbench\s+([a-z][\w-]*)", page.read_text(encoding="utf-8")):
            assert name in commands, f"{page.name}: satbench {name}"


def test_the_api_page_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {name.removeprefix("satbench.") for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}
    assert set(dir(satbench)) - {"__version__"} <= shown


def test_the_page_of_own_code_has_every_signature() -> None:
    page = (ROOT / "docs" / "own-code.md").read_text(encoding="utf-8")
    for kind, socket in SOCKETS.items():
        assert f"| {kind} | `{socket.command} " in page
        assert f"`{socket.signature}`" in page, kind


def test_the_training_page_has_every_method() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert {name for name in METHODS if f"`{name}`" not in page} == set()


@pytest.mark.slow
def test_the_site_builds_and_requests_nothing_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed, see the extra docs")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = sorted((tmp_path / "site").glob("*.html"))
    assert {page.stem for page in pages} >= {page.stem for page in PAGES} - {"README"}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe)[^>]+src=.?https?:|<link[^>]+href=.?https?:", text), page


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """As pasted, in order. README's run in a clean clone, in which git then sees no change."""
    folder = tmp_path / "folder"
    clone = page.name == "README.md"
    if clone:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    else:
        folder.mkdir()
    given = environment(tmp_path, folder)
    for block in blocks(page):
        if block.language not in RUN or block.needs:
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else ["python", "-c"]
        done = subprocess.run(
            [*program, block.text], cwd=folder, env=given, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{block.where}\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    if clone:
        words = ["git", "status", "--porcelain"]
        changed = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
        assert changed == "", ".gitignore leaves out files that README's commands write"
