"""`satbench doctor`."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli.output import echo

if TYPE_CHECKING:
    from packaging.requirements import Requirement

VARIABLES = (
    "SATBENCH_HOME",
    "SATBENCH_SHARED",
    "SATBENCH_DATA",
    "SATBENCH_MIRROR",
    "SATBENCH_ZOO",
    "SATBENCH_PLUGINS",
    "SATBENCH_OFFLINE",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


@dataclass(frozen=True)
class Found:
    """One line: what was looked at, what is there, and what to do where that does not serve; `advice` is else ""."""

    area: str
    name: str
    value: str
    advice: str = ""
    needed: bool = True


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Show versions, devices, threads, folders and extras, and what is missing; exit 1 where something needed is."""
    import json

    from satbench.cli.progress import announce

    announce("doctor: packages, devices and folders, some seconds", as_json)
    lines = [*_machine(), *_packages(), *_folders(), *_extras()]
    broken = [one for one in lines if one.advice and one.needed]
    if as_json:
        echo(json.dumps([asdict(one) for one in lines], indent=2))
    else:
        width = max(len(one.name) for one in lines)
        for position, one in enumerate(lines):
            if not position or lines[position - 1].area != one.area:
                echo(f"{one.area}")
            echo(f"  {one.name.ljust(width)}  {one.value}{f': {one.advice}' if one.advice else ''}")
        words = "; ".join(f"{one.name}: {one.advice}" for one in broken)
        echo(f"{len(broken)} to repair: {words}" if broken else "nothing that satbench needs is missing")
    if broken:
        raise typer.Exit(1)


def _machine() -> Iterator[Found]:
    import torch

    from satbench.core.version import __version__
    from satbench.evaluation.provenance import TOP, revision

    yield Found("satbench", "version", f"{__version__}, {revision()}")
    yield Found("satbench", "lies in", f"{TOP}")
    yield Found("machine", "python", f"{platform.python_version()}, {sys.executable}")
    yield Found("machine", "system", f"{platform.platform()}")
    capability = torch.backends.cpu.get_cpu_capability()
    yield Found("machine", "processors", f"{os.cpu_count()}, vector instructions {capability}")
    yield Found("machine", "threads", f"{torch.get_num_threads()} of torch")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    yield Found("machine", "cuda", ", ".join(names) or "no device; satbench computes on the CPU")


def _packages() -> Iterator[Found]:
    """What the installed distribution requires, and whether the version there fits."""
    for needed in _requirements(""):
        yield _package("packages", needed.name, str(needed.specifier))


def _extras() -> Iterator[Found]:
    """The optional packages; none is needed."""
    from dataclasses import replace

    for extra in importlib.metadata.metadata("satbench").get_all("Provides-Extra") or []:
        found = [_package("extras", one.name, str(one.specifier)) for one in _requirements(extra)]
        missing = [one for one in found if one.advice]
        if extra == "dev" or not found:
            continue
        value = ", ".join(f"{one.name} {one.value}" for one in found)
        advice = f"pip install 'satbench[{extra}]'" if missing else ""
        yield replace(found[0], name=extra, value=value, advice=advice, needed=False)


def _requirements(extra: str) -> Iterator["Requirement"]:
    """Of the distribution itself, or those that only `extra` adds."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("satbench") or []:
        one = Requirement(text)
        applies = one.marker is None or one.marker.evaluate({"extra": extra})
        if applies and (not extra or not (one.marker is None or one.marker.evaluate({"extra": ""}))):
            yield one


def _package(area: str, name: str, specifier: str) -> Found:
    from packaging.specifiers import SpecifierSet

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Found(area, name, "not installed", f"pip install '{name}{specifier}'")
    fits = SpecifierSet(specifier).contains(version, prereleases=True)
    return Found(area, name, version, "" if fits else f"pip install '{name}{specifier}'")


def _folders() -> Iterator[Found]:
    from satbench.core.home import home
    from satbench.zoo.weights_file import size_words

    folder = home()
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    above = next(one for one in (folder, *folder.parents) if one.exists())
    can_write = above.is_dir() and os.access(above, os.W_OK | os.X_OK)
    value = f"{folder}, {size_words(held) if held else 'empty'}, {_free(above)} free"
    advice = "" if can_write else "cannot be written; set SATBENCH_HOME to another folder"
    yield Found("folders", "cache", value, advice)
    for name in VARIABLES:
        if name in os.environ:
            yield Found("folders", name, os.environ[name], _fault(name, os.environ[name]))


def _free(folder: Path) -> str:
    import shutil

    return f"{shutil.disk_usage(folder).free / 1e9:,.1f} GB"


def _fault(name: str, value: str) -> str:
    """What is wrong with the folder that a variable names."""
    if name in ("SATBENCH_DATA", "SATBENCH_SHARED"):
        absent = [one for one in value.split(os.pathsep) if one.strip() and not Path(one).expanduser().is_dir()]
        if absent:
            return f"{', '.join(absent)} is no folder; give one, or unset the variable"
    return ""
