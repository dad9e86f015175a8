"""One way to turn a name into an object, for every table of the package."""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from satbench.core.errors import FAULTS, BadInput, reason

T = TypeVar("T")
MOST_LISTED = 60


def nearest(name: object, known: Iterable[str]) -> str:
    """A phrase that names the closest known names, or where none is close all of them, up to `MOST_LISTED`."""
    names = sorted(known)
    if not names:
        return "none is known"
    spelled = {one.lower(): one for one in names}
    close = difflib.get_close_matches(str(name).lower(), spelled, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(spelled[one] for one in close)}?"
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"known: {', '.join(names[:MOST_LISTED])}{more}"


def find(table: Mapping[str, T], name: str, kind: str) -> T:
    """The table's entry; raises `BadInput` that names the nearest entries when there is none."""
    if name not in table:
        raise BadInput(f"unknown {kind} {name!r}; {nearest(name, table)}")
    return table[name]


def imported_table(package: str, table: Mapping[str, str]) -> dict[str, Any]:
    """The objects of a table whose values are `module:attribute` in `package`; all their modules are imported.

    Where the attribute is a table itself, the object is what it holds under the name.
    """
    found = {}
    for name, where in table.items():
        there = located(f"{package}.{where}")
        found[name] = there[name] if isinstance(there, dict) else there
    return found


def located(where: str) -> Any:
    """What `package.module:attribute` of satbench or a library names."""
    module, attribute = where.split(":")
    return getattr(importlib.import_module(module), attribute)


def pick(table: Mapping[str, Callable[..., Any]], name: str, kind: str, /, *args: Any, **params: Any) -> Any:
    """Call the named factory with `params`; an unknown name or key is refused with the nearest known ones.

    A factory that takes any key refuses unknown ones itself.
    """
    factory = find(table, name, kind)
    check_keywords(factory, f"{kind} {name!r}", len(args), params)
    return factory(*args, **params)


def check_keywords(factory: Callable[..., Any], what: str, placed: int, params: Iterable[str]) -> None:
    """Raise `BadInput` for a keyword that `factory` does not take beside `placed` positional arguments.

    `what` is how the message calls the factory. One that takes any keyword, or has no signature, refuses it itself.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    accepted = [key for key in list(parameters)[placed:] if parameters[key].kind not in variable]
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    check_keys(params, accepted, what)


def check_keys(params: Iterable[str], accepted: Collection[str], what: str) -> None:
    """Raise `BadInput` for a parameter that `what` does not take, with the nearest of those it takes."""
    for key in params:
        if key not in accepted:
            hint = nearest(key, accepted) if accepted else "it takes none"
            raise BadInput(f"unknown parameter {key!r} of {what}; {hint}")


def keywords(text: str, source: str, example: str) -> dict[str, str]:
    """The pairs of `key=value,key=value`, values as text.

    Raises `BadInput`, which begins with `source` and shows `example`, for a part that is not key=value, and for a key
    that is given twice.
    """
    found = {}
    for part in text.split(",") if text else ():
        key, equals, value = (one.strip() for one in part.partition("="))
        if not equals or not key:
            raise BadInput(f"{source}: {part!r} is not key=value; write {example}")
        if key in found:
            raise BadInput(f"{source}: {key} is given twice; give it once")
        found[key] = value
    return found


def literal(text: str) -> Any:
    """A whole number, a decimal, true, false or none as text; any other text is itself."""
    if re.fullmatch("-?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


@contextmanager
def imported(option: str, reference: str, wanted: str) -> Iterator[Callable[..., Any]]:
    """The callable that `package.module:callable` names, for a block that may call it.

    The module is also looked for in the current folder, and so is what the block imports. What the import or the block
    raises becomes a `BadInput` that begins with `option`, such as "--model", and ends with `wanted`, the callable that
    was expected.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name:
        raise BadInput(f"{option} {reference}: no module is named; give package.module:callable")
    here, advice = str(Path.cwd()), f"correct {module_name}"
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
        if not callable(found):
            raise BadInput(f"{option} {reference}: {module_name} has no callable {attribute!r}; {wanted}")
        advice = wanted
        yield found
    except BadInput:
        raise
    except ModuleNotFoundError as error:
        raise BadInput(f"{option} {reference}: no module named {error.name!r}; give package.module:callable") from None
    except SystemExit as error:
        raise BadInput(f"{option} {reference}: its code exits ({error.code}); {advice}") from error
    except (*FAULTS, ImportError, NameError, OSError, SyntaxError) as error:
        raise BadInput(f"{option} {reference}: {reason(error)}; {advice}") from error
    finally:
        sys.path.remove(here)
