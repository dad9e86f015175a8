"""Hand-written YAML files; a key that occurs twice is refused."""

import re
from pathlib import Path
from typing import Any

import yaml

from satbench.core.errors import BadInput

_POWER = re.compile(
    r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+"
)  # which YAML 1.1 takes for text without . and sign
PACKAGE = Path(__file__).resolve().parents[1]


class _UniqueKeys(yaml.SafeLoader):
    """Plain YAML that refuses a mapping with the same key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = [key for position, key in enumerate(keys) if key in keys[:position]]
        if doubled:
            raise BadInput(f"{node.start_mark.name} has {doubled[0]!r} twice; remove one")
        return super().construct_mapping(node, deep)


_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"(?:{_POWER.pattern})$"), list("-+.0123456789")
)


def shipped(name: str, folder: str = ".") -> Path:
    """A data file inside an installed package, or in `folder` of a checkout."""
    installed = PACKAGE / name
    return installed if installed.is_file() else PACKAGE.parent / folder / name


def read_mapping(path: Path) -> dict[str, Any]:
    """The file's top-level mapping; raises `BadInput` when there is none, or a key occurs twice."""
    try:
        with path.open(encoding="utf-8") as stream:
            raw: Any = yaml.load(stream, Loader=_UniqueKeys)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path} cannot be read as YAML ({type(error).__name__}); restore it") from None
    if raw is None:
        raise BadInput(f"{path} is empty; expected a mapping")
    if not isinstance(raw, dict):
        raise BadInput(f"{path} holds a {type(raw).__name__}; expected a mapping")
    return {str(name): entry for name, entry in raw.items()}
