"""The fenced blocks of README.md and docs/*.md, and the commands in them.

`sh` and `python` blocks are run, in order, in one folder a page. A block whose first line is `# needs WHAT`, one of
`NEEDS`, is not run: its commands are only parsed. A fence of another language holds no commands.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import typer

from satbench.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("sh", "python")
OTHER = ("text", "yaml", "toml", "json", "html")
NEEDS = ("the network", "ImageNet", "a GPU", "a clone", "a cluster", "your files", "minutes")
ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>"}  # of the words of a command


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, and its text without the fences."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def needs(self) -> str:
        """What the block needs that a test does not have, or ""."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# needs ").strip() if first.startswith("# needs ") else ""

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opened: tuple[int, str] | None = None
    held: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r" *```(.*)$", line)
        if fence and opened is None:
            opened, held = (number, fence[1].strip()), []
        elif fence:
            yield Block(page, opened[0], opened[1], "\n".join(held) + "\n")
            opened = None
        elif opened is not None:
            held.append(line)
    assert opened is None, f"{page}: the block of line {opened} does not end"


def lines(text: str) -> Iterator[list[str]]:
    """The words of each command line: continued lines joined, comments and here-documents left out."""
    end, joined = "", ""
    for line in text.splitlines():
        if end:
            end = "" if line == end else end
            continue
        joined += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        here = re.search(r"<<-?\s*'?(\w+)'?", joined)
        end = here[1] if here else ""
        if words := shlex.split(joined.partition("<<")[0], comments=True):
            yield words
        joined = ""


def satbench_arguments(words: list[str]) -> list[str] | None:
    """What a command line gives to satbench, also by `torchrun ... -m satbench`; None for another program."""
    bare = list(dropwhile(lambda word: re.match(r"\w+=", word), words))
    if "-m" in bare:
        bare = bare[bare.index("-m") + 1 :]
    return list(takewhile(lambda word: word not in ENDS, bare[1:])) if bare[:1] == ["satbench"] else None


def parse(arguments: list[str]) -> list[str]:
    """Parse the arguments as the command line does, without running the command; raises for an unknown option.

    Returns the names of the command and its groups.
    """
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    with suppress(typer.Exit):  # of --version and --help
        context = command.make_context("satbench", list(arguments))
        while hasattr(command, "resolve_command") and (rest := [*context._protected_args, *context.args]):
            name, command, rest = command.resolve_command(context, rest)
            names.append(name)
            context = command.make_context(name, rest, parent=context)
    return names


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def shell_environment(folder: Path, work: Path) -> dict[str, str]:
    """The environment of commands in the folder `work`: `satbench` of this checkout, even in a clone of it."""
    programs = folder / "programs"
    programs.mkdir()
    script = programs / "satbench"
    script.write_text(f"#!{sys.executable}\nfrom satbench.cli import main\nmain()\n", encoding="utf-8")
    script.chmod(0o755)
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    return {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(work))),
        "PYTHONSAFEPATH": "1",  # or `python` in a clone would import the clone's satbench
        "OMP_NUM_THREADS": "1",
        "SATBENCH_HOME": str(folder / "home"),
        "SATBENCH_OFFLINE": "1",
    }
