"""How an activation is spelled: `celu`, or `celu:alpha=2` with parameters.

The canonical spelling leaves out parameters at their defaults, sorts the others by name, and writes each number as
Python does, whole ones without a point.
"""

import math

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import find, keywords, nearest
from satbench.core.tables import ACTIVATIONS


def canonical(text: str) -> str:
    """The one spelling of an activation, so that equal ones have equal names; raises as `parse_activation` does.

    One of the user's own is not imported, so that its defaults are not known and nothing is left out.
    """
    name, given = parse_activation(text)
    defaults = {} if plugins.is_reference(name) else ACTIVATIONS[name].parameters
    words = [f"{key}={_spelled(value)}" for key, value in sorted(given.items()) if value != defaults.get(key)]
    return ":".join([name, *([",".join(words)] if words else [])])


def parse_activation(text: str) -> tuple[str, dict[str, float]]:
    """Name and parameters of an activation as it is spelled.

    The name is one of `core.tables.ACTIVATIONS` or `package.module:callable`. Raises `BadInput` for an unknown name or
    parameter, and for a value that is no positive number; one of the user's own takes any finite number.
    """
    name, tail = plugins.spelled(text, ACTIVATIONS)
    given = keywords(tail, f"activation {text!r}", "celu:alpha=2")
    if plugins.is_reference(name):
        return name, {key: _number(text, key, value) for key, value in given.items()}
    defaults = find(ACTIVATIONS, name, "activation").parameters
    for key in given:
        if key not in defaults:
            hint = nearest(key, defaults) if defaults else "it takes none"
            raise BadInput(f"unknown parameter {key!r} of activation {name!r}; {hint}")
    return name, {key: _positive(text, key, value) for key, value in given.items()}


def _positive(text: str, key: str, value: str) -> float:
    number = _number(text, key, value)
    if number <= 0:
        raise BadInput(f"activation {text!r}: {key} is {value!r}; give a positive number, such as 2 or 1/3")
    return number


def _number(text: str, key: str, value: str) -> float:
    numerator, slash, denominator = value.partition("/")
    try:
        number = float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"activation {text!r}: {key} is {value!r}; give a positive number, such as 2 or 1/3")
    return number


def _spelled(number: float) -> str:
    return repr(int(number)) if number.is_integer() and number < 1e15 else repr(number)
