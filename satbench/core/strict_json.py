"""JSON of others; what Python would read beyond JSON, or without end, is refused."""

import json
from pathlib import Path
from typing import Any

from satbench.core.bounded import read_bounded

LONGEST = 40  # digits of a whole number


def parse_json(text: str | bytes) -> Any:
    """The value; raises ValueError, also for a key that occurs twice, NaN, huge numbers and too many levels."""
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_number, parse_constant=_number
        )
    except RecursionError:
        raise ValueError("too many levels") from None


def read_json(path: Path) -> Any:
    """The value in a file; raises as `read_bounded` and `parse_json` do."""
    return parse_json(read_bounded(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > LONGEST:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf") or value != value:
        raise ValueError(f"{text[:LONGEST]} is not a finite number")
    return value
