"""Training algorithms by name; each is one small file."""

from collections.abc import Callable
from typing import Any

from satbench.core import plugins
from satbench.core.lookup import imported_table
from satbench.core.tables import METHODS as NAMES
from satbench.methods.base import Method

METHODS: dict[str, Callable[..., Method]] = imported_table("satbench.methods", NAMES)


def make_method(name: str, params: dict[str, Any]) -> Method:
    """The method of a name of `METHODS` or `package.module:callable`, with these parameters.

    Raises `BadInput` for an unknown name or parameter, and for code of the user's own that gives no `Method`.
    """
    method: Method = plugins.make(METHODS, name, "method", Method, **params)
    return method
