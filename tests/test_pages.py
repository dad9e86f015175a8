"""Every command of README.md and docs/ is parsed, and those that need nothing special are run, page by page."""

import ast
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pages import NEEDS, OTHER, PAGES, ROOT, RUN, blocks, lines, make_targets, parse, satbench_arguments
from pages import shell_environment as environment

BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [(block, words) for block in BLOCKS if block.language == "sh" for words in lines(block.text)]
RUNNING = [page for page in PAGES if any(not one.needs for one in blocks(page) if one.language in RUN)]


def test_every_block_names_its_language_and_what_it_needs() -> None:
    for block in BLOCKS:
        assert block.language in (*RUN, *OTHER), f"{block.where}: language {block.language!r}"
        assert block.needs in ("", *NEEDS), f"{block.where}: needs {block.needs!r}"
        if block.language in OTHER:
            assert not re.search(r"^(satbench|make) ", block.text, re.MULTILINE), f"{block.where}: commands are not run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_parses(page: Path) -> None:
    """Options, commands and targets exist; extras are those of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for block, words in COMMANDS:
        if block.page != page:
            continue
        for arguments in satbench_arguments(words):
            try:
                parse(arguments)
            except Exception as error:  # noqa: BLE001
                pytest.fail(f"{block.where}: satbench {' '.join(arguments)}: {error!r}")
        if words[0] == "make":
            assert set(words[1:]) - {word for word in words if "=" in word} <= make_targets(), block.where
        for word in words:
            for named in re.findall(r"satbench\[([\w,]+)\]", word):
                assert set(named.split(",")) <= set(extras), f"{block.where}: {word}"
    for block in BLOCKS:
        if block.page == page and block.language == "python":
            ast.parse(block.text)


def test_commands_in_sentences_name_commands() -> None:
    """`satbench NAME ...` in running text."""
    for page in PAGES:
        for said in re.findall(r"`satbench ([a-z][\w-]*)", page.read_text(encoding="utf-8")):
            parse([said, "--help"]) if False else _known(said, page)


def _known(name: str, page: Path) -> None:
    import typer
    from satbench.cli.app import app

    assert name in typer.main.get_command(app).commands, f"{page.name}: `satbench {name}`"  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: page.stem)
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """As pasted, in order. README's run in a clean clone, of which git then sees no change."""
    folder = tmp_path / "folder"
    given = environment(tmp_path)
    clean = page.name == "README.md"
    if clean:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        (folder / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
        subprocess.run(["git", "add", ".gitignore"], cwd=folder, check=True)
    else:
        folder.mkdir()
    before = status(folder) if clean else ""
    for block in blocks(page):
        if block.language not in RUN or block.needs:
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else ["python", "-c"]
        done = subprocess.run(
            [*program, block.text], cwd=folder, env=given, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{block.where}\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    if clean:
        assert status(folder) == before


def status(folder: Path) -> str:
    done = subprocess.run(
        ["git", "status", "--porcelain"], cwd=folder, env=os.environ, capture_output=True, text=True, check=True
    )
    return done.stdout
