"""Data from files and callers becomes a typed value, or a `BadInput` that names the first field that is wrong."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.parameters import wanted

T = TypeVar("T")
WORDS = {  # for what pydantic says in words of Python
    "model_type": "give a mapping of fields",
    "dict_type": "give a mapping",
    "tuple_type": "give a list",
    "list_type": "give a list",
}


class Wrong(NamedTuple):
    """The first thing that pydantic refused: the dotted name of its field, "" for the whole; what is wrong; the value.

    is_own: whether satbench's own words say it, which name the value.
    """

    field: str
    said: str
    given: object
    is_own: bool


def parsed(schema: type[T], raw: object, where: str, advice: str = "") -> T:
    """`raw` as `schema`, a pydantic model or any type that pydantic validates; bytes are read as JSON.

    Raises `BadInput`, such as "FILE, field 'threat.eps': eps '8' is larger than ...; ADVICE", where `where` is FILE.
    """
    adapter = TypeAdapter(schema)
    try:
        return adapter.validate_json(raw) if isinstance(raw, bytes) else adapter.validate_python(raw)
    except ValidationError as error:
        field, said, given, is_own = first_wrong(schema, error)
        is_shown = not is_own and isinstance(given, str | int | float | None)
        raise BadInput(
            f"{where}{f', field {field!r}' if field else ''}: {said}{f' (given {given!r})' if is_shown else ''}"
            f"{f'; {advice}' if advice else ''}"
        ) from None


def first_wrong(schema: Any, error: ValidationError) -> Wrong:
    """What `schema` refused first, in the words of our own validator, of the field's type, or of pydantic."""
    first, *others = error.errors()
    if first["type"] == "missing":  # as where its name is misspelled
        first = next((one for one in others if one["type"] == "extra_forbidden"), first)
    known, kind, place = _followed(schema, first["loc"])
    field, given, cause = ".".join(map(str, place)), first["input"], first.get("ctx", {}).get("error")
    if isinstance(cause, BadInput):
        return Wrong(field, str(cause), given, is_own=True)
    if first["type"] == "extra_forbidden":
        return Wrong(field, f"unknown field; {nearest(place[-1], known)}", given, is_own=False)
    if wanted(kind) and first["type"] not in ("missing", "literal_error"):
        return Wrong(field, f"give {wanted(kind)}", given, is_own=False)
    said = str(cause) if isinstance(cause, ValueError) else WORDS.get(first["type"], first["msg"])
    return Wrong(field, said, given, is_own=False)


def _followed(schema: Any, place: Sequence[int | str]) -> tuple[list[str], Any, Sequence[int | str]]:
    """The fields of the innermost model around a place, the type there if it has words, and the place.

    Below a field whose type has several forms pydantic names the form too; that is left out where the type has words.
    """
    known: list[str] = []
    for position, name in enumerate(place, start=1):
        if isinstance(name, int):  # of a list, whose items are below
            continue
        models = [one for one in (schema, *get_args(schema)) if isinstance(one, type) and issubclass(one, BaseModel)]
        if len(models) != 1:
            break
        known = list(models[0].model_fields)
        field = models[0].model_fields.get(name)
        if field is None:
            break
        schema = Annotated[field.annotation, field]
        if wanted(schema):
            return known, schema, place[:position]
        schema = field.annotation
    return known, None, place
