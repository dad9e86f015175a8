"""Data from files and callers becomes a typed value, or a `BadInput` that names the first field that is wrong."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from satbench.core.errors import BadInput

T = TypeVar("T")


def parsed(schema: type[T], raw: object, where: str, advice: str = "") -> T:
    """`raw` as `schema`, a pydantic model or any type that pydantic validates; bytes are read as JSON.

    Raises `BadInput`, such as "FILE, field 'threat.eps': eps '8' is larger than ...; ADVICE", where `where` is FILE.
    """
    adapter = TypeAdapter(schema)
    try:
        return adapter.validate_json(raw) if isinstance(raw, bytes) else adapter.validate_python(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        cause = first.get("ctx", {}).get("error")  # what a validator of ours raised
        wrong = str(cause) if isinstance(cause, ValueError) else first["msg"]
        given = first["input"]
        is_shown = isinstance(given, str | int | float | None) and repr(given) not in wrong
        raise BadInput(
            f"{where}{f', field {field!r}' if field else ''}: {wrong}{f' (given {given!r})' if is_shown else ''}"
            f"{f'; {advice}' if advice else ''}"
        ) from None
