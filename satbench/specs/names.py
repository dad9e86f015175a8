"""What a command line names, checked without importing torch or what is named."""

import itertools
import os
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from satbench.core.eps import parse_eps
from satbench.core.errors import BadInput
from satbench.core.lookup import check_keys, find, keywords, literal, nearest
from satbench.core.plugins import is_findable, is_reference, spelled
from satbench.core.strict_yaml import read_mapping, shipped
from satbench.core.tables import (
    ARCHITECTURES,
    ATTACK_KEYS,
    ATTACKS,
    DATA_SETS,
    RECIPES,
    data_set_forms,
)

FOOLBOX = "foolbox"
TIMM = "timm:"  # before the name of an architecture
DEFAULT_NORM = "Linf"
REGISTRY = "model_zoo.yaml"
VARIABLE = "SATBENCH_ZOO"  # names registries of the user's own
SEPARATOR = ";"  # between them; neither paths nor URLs usually hold it
GROUP = "satbench.zoo"  # of entry points, each of which names an installed package with a model_zoo.yaml in its folder
CONFIG_FILES = (".json", ".yaml", ".yml")

T = TypeVar("T")


def parse_attack(text: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of an attack as the command line spells it.

    The name is `pgd`, `foolbox:LinfPGD` or `package.module:callable`. Values are whole numbers, decimals, fractions
    such as 2/255, true, false, none and names.
    """
    name, colon, tail = text.partition(":")
    if name == FOOLBOX or (colon and name not in ATTACKS and re.match(r"[^=,:]*(?:$|[,:])", tail)):
        second, tail = re.fullmatch(r"([^,:]*)[,:]?(.*)", tail, re.DOTALL).groups()  # type: ignore[union-attr]
        name = f"{name}:{second}"
    if text.endswith(":"):
        bare = text.rstrip(":")
        advice = f"write {bare}" if bare in ATTACKS or ":" in bare else "give package.module:callable or foolbox:NAME"
        raise BadInput(f"attack {text!r} ends with a colon; {advice}, or parameters: pgd:steps=20")
    given = keywords(tail, f"attack {text!r}", "pgd:steps=20,loss=margin")
    return name, {key: _value(key, value) for key, value in given.items()}


def check_attack(text: str) -> None:
    """Raise `BadInput` for a misspelled attack, and for an unknown name or parameter; values are not looked at."""
    name, params = parse_attack(text)
    if not is_reference(name):
        find(ATTACKS, name, "attack")
        if name in ATTACK_KEYS:
            check_keys(params, ATTACK_KEYS[name], f"attack {name!r}")


def check_data_set(name: str) -> None:
    """Raise `BadInput` for an unknown data set, and for one with a path too many or too few."""
    kind, colon, path = name.partition(":")
    if kind not in DATA_SETS:
        reference, _ = spelled(name)
        if not is_reference(reference):
            find(DATA_SETS, kind, "data set")
        if not is_findable(reference):
            near = nearest(kind, DATA_SETS)
            raise BadInput(f"unknown data set {kind!r}; {near}; a module of that name is not there either")
        return
    known = DATA_SETS[kind]
    if (not path and (colon or known.path == ":PATH")) or (path and not known.path):
        raise BadInput(f"data set {name!r} is none of: {', '.join(data_set_forms())}")


def check_data_path(name: str, data_dir: Path | None) -> None:
    """Raise `BadInput` where a data set such as npz:PATH needs a path that is not there, seen from `data_dir`."""
    kind, _, path = name.partition(":")
    if kind not in DATA_SETS:
        return
    known = DATA_SETS[kind]
    given = data_root(data_dir) / (path or known.folder)
    if (known.path == ":PATH" or known.folder) and not given.exists():
        raise BadInput(f"--dataset {name}: no such file: {given}; give another path, or its folder as --data-dir")


def data_root(data_dir: Path | None) -> Path:
    """Where relative paths of data sets lie: `data_dir`, else the folder that SATBENCH_DATA names, else this one."""
    return data_dir or Path(os.environ.get("SATBENCH_DATA") or ".")


def check_recipe(name: str) -> None:
    """Raise `BadInput` for a word that is no recipe's name; files and code of the user's own are not looked at."""
    reference, _ = spelled(name)
    if not (is_reference(reference) or Path(name).exists() or Path(name).suffix in CONFIG_FILES):
        find(RECIPES, name, "recipe")


def check_model(name: str) -> None:
    """Raise `BadInput` for a word that is no network of satbench's registry, where there is no other registry.

    Everything else that `zoo.load` takes, such as files, folders and networks of other libraries, is not looked at.
    """
    path = Path(name)
    is_word = name.strip() and ":" not in name and len(path.parts) == 1 and not path.suffix
    if not is_word or path.exists() or path.with_name(f"{name}.index").is_file():
        return
    if os.environ.get(VARIABLE, "").strip() or entry_points(group=GROUP):
        return
    known = read_mapping(shipped(REGISTRY))
    if name not in known and name in ARCHITECTURES:
        raise BadInput(f"{name!r} is an architecture without weights; train it first: satbench train --model {name}")
    if name not in known:
        raise BadInput(f"unknown model {name!r}; {nearest(name, [*known, *ARCHITECTURES])}")


def threats(threat: Sequence[str | T], norm: str | None, eps: str | None) -> list[str | T]:
    """The threats that are stated, as a spec takes them: norms alone where `threat` and `eps` are left out.

    norm, eps: comma lists, of which every norm is taken at every radius. Raises `BadInput` where both ways are used.
    """
    if threat and (norm is not None or eps is not None):
        raise BadInput("--threat is given together with --norm or --eps; give one or the other")
    if threat:
        return list(threat)
    norms = items(norm or DEFAULT_NORM, "norm")
    return list(norms) if eps is None else [":".join(pair) for pair in itertools.product(norms, items(eps, "eps"))]


def items(text: str, option: str) -> list[str]:
    """The parts of a comma list; raises `BadInput` for an empty one."""
    found = [item.strip() for item in text.split(",")]
    if not all(found):
        raise BadInput(f"--{option} {text!r} has an empty item; separate values by single commas")
    return found


def numbers(text: str | None, option: str) -> list[int]:
    """The whole numbers of a comma list; none where it is left out."""
    if text is None:
        return []
    try:
        return [int(item) for item in items(text, option)]
    except ValueError:
        raise BadInput(f"--{option} {text!r} is not a list of whole numbers; write 10,50") from None


def _value(key: str, text: str) -> Any:
    if key == "step_size" and text != "sat":
        return parse_eps(text, "L2")
    if re.fullmatch("-?[0-9]+/[0-9]*[1-9][0-9]*", text):
        numerator, denominator = text.split("/")
        return int(numerator) / int(denominator)
    return literal(text)
