"""The engines by name, and how a command line spells one."""

from collections.abc import Callable

from satbench.core.errors import BadInput
from satbench.core.lookup import find, keywords
from satbench.engines.base import Engine
from satbench.engines.local import LocalEngine
from satbench.engines.ray import RayEngine
from satbench.engines.slurm import SlurmEngine


def make_engine(text: str) -> Engine:
    """The engine of `local`, `local:4`, `ray`, `ray:HOST:PORT`, `slurm:16` or `slurm:16,partition=gpu,time=60`.

    Raises `BadInput` for anything else, for an engine that is not installed, and for a cluster that does not answer.
    """
    name, _, rest = text.partition(":")
    return find(ENGINES, name, "engine")(rest)


def check_engine(text: str) -> None:
    """Raise `BadInput` where `text` names no engine; nothing is started or asked."""
    find(ENGINES, text.partition(":")[0], "engine")


def _local(rest: str) -> Engine:
    return LocalEngine(_workers(rest, f"engine local:{rest}") if rest else None)


def _ray(rest: str) -> Engine:
    return RayEngine(rest or None)


def _slurm(rest: str) -> Engine:
    spelled = f"engine slurm:{rest}"
    first, _, others = rest.partition(",")
    if "=" in first:
        first, others = "", rest
    options = keywords(others, spelled, "slurm:16,partition=gpu,time=60")
    return SlurmEngine(_workers(first, spelled), options) if first else SlurmEngine(options=options)


def _workers(text: str, spelled: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise BadInput(f"{spelled}: {text!r} is not a number of workers; give a whole number from 1")
    return int(text)


ENGINES: dict[str, Callable[[str], Engine]] = {"local": _local, "ray": _ray, "slurm": _slurm}
