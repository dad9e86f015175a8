"""One way to turn a name into an object, for every table of the package."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from satbench.errors import BadInput

T = TypeVar("T")
MOST_LISTED = 60


def nearest(name: object, known: Iterable[str]) -> str:
    """A phrase that names the closest known names, or where none is close all of them, up to `MOST_LISTED`."""
    names = sorted(known)
    if not names:
        return "none is known"
    close = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"known: {', '.join(names[:MOST_LISTED])}{more}"


def find(table: Mapping[str, T], name: str, kind: str) -> T:
    """The table's entry; raises `BadInput` that names the nearest entries when there is none."""
    if name not in table:
        raise BadInput(f"unknown {kind} {name!r}; {nearest(name, table)}")
    return table[name]


def pick(table: Mapping[str, Callable[..., Any]], name: str, kind: str, /, *args: Any, **params: Any) -> Any:
    """Call the named factory with `params`; an unknown name or key is refused with the nearest known ones."""
    factory = find(table, name, kind)
    signature = inspect.signature(factory)
    accepted = [
        key
        for position, (key, parameter) in enumerate(signature.parameters.items())
        if position >= len(args) and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for key in params:
        if key not in accepted:
            hint = nearest(key, accepted) if accepted else "it takes none"
            raise BadInput(f"unknown parameter {key!r} of {kind} {name!r}; {hint}")
    return factory(*args, **params)
