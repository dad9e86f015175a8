"""What a number may be, as types with words for it, and the line that refuses any other value.

pydantic checks them: in the fields of its models, where text is read as a number, and in `check`.
"""

import types
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from satbench.core.errors import BadInput


def _number(value: object) -> object:
    """Refuse what pydantic would convert: truth values, and numbers of other packages, whose repr is another."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("a number is expected")
    return value


Whole = Annotated[int, BeforeValidator(_number), Field(description="a whole number")]
Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False, description="a number")]
Count = Annotated[Whole, Field(ge=1, description="a whole number from 1")]
Steps = Annotated[Whole, Field(ge=1, le=1_000_000, description="a whole number from 1 to 1000000")]  # of any loop
Threads = Annotated[Whole, Field(ge=1, le=1024, description="a whole number from 1 to 1024")]
Index = Annotated[Whole, Field(ge=0, description="a whole number from 0")]
Positive = Annotated[Number, Field(gt=0, description="a positive number")]
FromZero = Annotated[Number, Field(ge=0, description="a number from 0")]
Share = Annotated[Number, Field(ge=0, le=1, description="a number from 0 to 1")]
ShareBelow1 = Annotated[Number, Field(ge=0, lt=1, description="a number from 0 to below 1")]


def check(name: str, value: Any, kind: Any) -> Any:
    """The value; raises `BadInput` where the type `kind` does not allow it: "NAME is VALUE; give ...".

    Nothing is converted: the text "3" and 3.0 are no whole numbers, but 3 is a number.
    """
    try:
        _adapter(kind).validate_python(value)
    except ValidationError:
        raise BadInput(f"{name} is {value!r}; give {wanted(kind)}") from None
    return value


def check_fields(owner: Any, of: str) -> None:
    """`check` every field of a dataclass by its annotation, where that has words; `of` says whose they are."""
    for name, kind in _worded(owner.__class__).items():
        check(f"{name} of {of}", getattr(owner, name), kind)


def wanted(kind: Any) -> str:
    """What a type allows besides None, in words; "" where it has none."""
    if get_origin(kind) is Annotated:
        inner, *around = get_args(kind)
        said = [one.description for one in around if isinstance(one, FieldInfo) and one.description]
        return said[-1] if said else wanted(inner)
    if get_origin(kind) in (Union, types.UnionType):
        parts = [wanted(one) for one in get_args(kind) if one is not type(None)]
        return " or ".join(parts) if all(parts) else ""
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return "true or false" if kind is bool else ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(strict=True))


@cache
def _worded(owner: type) -> dict[str, Any]:
    hints = get_type_hints(owner, include_extras=True)
    return {one.name: hints[one.name] for one in fields(owner) if wanted(hints[one.name])}
