"""Hand-written YAML files; a key that occurs twice is refused, and so is what would take long or much memory."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from satbench.core.bounded import MIB, read_bounded
from satbench.core.errors import FAULTS, BadInput

# the numbers of YAML 1.1 without those to the base 60, and with powers of ten that have no point or sign
_INTEGER = re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_REAL = re.compile(
    r"(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NUMBERS = {"tag:yaml.org,2002:int": _INTEGER, "tag:yaml.org,2002:float": _REAL}
MOST_BYTES = MIB // 2
MOST_VALUES = 50_000  # keys count too; the packaged registry has 1,200
MOST_DIGITS = 100  # of a number
PACKAGE = Path(__file__).resolve().parents[1]


class _Doubled(Exception):
    """A key occurs twice in one mapping."""


class _Strict(yaml.SafeLoader):
    """Plain YAML that refuses a mapping with the same key twice, too many values, and what is no number of `_NUMBERS`.

    Values are counted as they are parsed, before any is built.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag not in _NUMBERS]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    count = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.count += 1
        if self.count > MOST_VALUES:
            raise ValueError("too many values")
        return super().compose_node(parent, index)

    def number(self, node: yaml.ScalarNode) -> float:
        if len(node.value) > MOST_DIGITS or not _NUMBERS[node.tag].match(node.value):
            raise ValueError("no number, or too long")
        return self.construct_yaml_int(node) if node.tag.endswith(":int") else self.construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(key, Hashable):
                raise ValueError("a key is a list or a mapping")
            if key in seen:
                raise _Doubled(key)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern in _NUMBERS.items():
    _Strict.add_implicit_resolver(_tag, _pattern, list("-+.0123456789"))
    _Strict.add_constructor(_tag, _Strict.number)


def shipped(name: str, folder: str = ".") -> Path:
    """A data file inside an installed package, or in `folder` of a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_file() else PACKAGE.parent / folder / name


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping.

    Raises `BadInput` when there is none, a key occurs twice, the file has more than `MOST_BYTES`, or it has more than
    `MOST_VALUES`, counted with aliases.
    """
    try:
        raw: Any = yaml.load(read_bounded(path, MOST_BYTES).decode(), Loader=_Strict)
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
