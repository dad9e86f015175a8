"""Hand-written YAML files; a key that occurs twice is refused, and so is what would take long or much memory."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from satbench.core.bounded import MIB, read_bounded
from satbench.core.errors import FAULTS, BadInput

_POWER = re.compile(
    r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+"
)  # which YAML 1.1 takes for text without . and sign
MOST_BYTES = MIB // 2
MOST_VALUES = 200_000
PACKAGE = Path(__file__).resolve().parents[1]


class _Doubled(Exception):
    """A key occurs twice in one mapping."""


class _UniqueKeys(yaml.SafeLoader):
    """Plain YAML that refuses a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(key, Hashable):
                raise ValueError("a key is a list or a mapping")
            if key in seen:
                raise _Doubled(key)
            seen.add(key)
        return super().construct_mapping(node, deep)


_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"(?:{_POWER.pattern})$"), list("-+.0123456789")
)


def shipped(name: str, folder: str = ".") -> Path:
    """A data file inside an installed package, or in `folder` of a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_file() else PACKAGE.parent / folder / name


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping.

    Raises `BadInput` when there is none, a key occurs twice, the file has more than `MOST_BYTES`, or aliases make more
    than `MOST_VALUES` of it.
    """
    try:
        raw: Any = yaml.load(read_bounded(path, MOST_BYTES).decode(), Loader=_UniqueKeys)
        _check_size(raw)
    except _Doubled as error:
        raise BadInput(f"{path} has {error.args[0]!r} twice; remove one") from None
    except BadInput:
        raise
    except (*FAULTS, OSError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read as YAML ({type(error).__name__}); restore it") from None
    if raw is None:
        raise BadInput(f"{path} is empty; expected a mapping")
    if not isinstance(raw, dict):
        raise BadInput(f"{path} holds a {type(raw).__name__}; expected a mapping")
    return {str(name): entry for name, entry in raw.items()}


def _check_size(raw: object) -> None:
    """Count every value as often as it is reached; an alias can repeat one without end."""
    left, count = [raw], 0
    while left:
        value = left.pop()
        count += 1
        if count > MOST_VALUES:
            raise ValueError("too many values")
        if isinstance(value, int) and value.bit_length() > 128:
            raise ValueError("a number is too large")
        left += value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
