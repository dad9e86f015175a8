"""What a page runs in a browser: libraries from installed packages, and this room's own scripts and styles.

The pages load nothing. So the libraries stand in them, and pages have the same bytes only with the same versions of
`itables` (DataTables) and `vl-convert-python` (Vega and the Vega-Lite compiler), which is why both are pinned exactly.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from satbench.core.escaping import one_line

VEGA_LITE = "6.4"  # of those that vl-convert-python brings
_EXPORTS = re.compile(r"export\{([^}]*)\}")


@cache
def vega() -> Markup:
    """Vega as the body of a module script that sets `window.vega`; without Vega-Lite, which `compiled` needs alone."""
    url = f"https://cdn.jsdelivr.net/npm/vega@{vl_convert.get_vega_version()}/+esm"  # a name: it is in the package
    bundle: str = vl_convert.javascript_bundle(f'import * as library from "{url}"; window.vega = library;')
    return _script(bundle)


@cache
def data_tables() -> Markup:
    """DataTables as the body of a module script that sets `window.DataTable`; itables' own part of it is not used."""
    bundle = Path(str(distribution("itables").locate_file("itables/html/dt_bundle.js"))).read_text(encoding="utf-8")
    (exports,) = _EXPORTS.findall(bundle)
    (name,) = (one.removesuffix(" as default") for one in exports.split(",") if one.endswith(" as default"))
    return _script(_EXPORTS.sub(f"window.DataTable = {name};", bundle))


@cache
def own(name: str) -> Markup:
    """A script or style of this room as it is."""
    return _script(files("satbench.reporting").joinpath("templates", name).read_text(encoding="utf-8"))


def embedded(value: object) -> Markup:
    """A value as JSON in a script element of a page, its texts as `escaping.one_line` shows them."""
    return Markup(json.dumps(_shown(value), separators=(",", ":")).replace("<", "\\u003c"))


def _shown(value: object) -> object:
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, Mapping):
        return {key: _shown(one) for key, one in value.items()}
    return [_shown(one) for one in value] if isinstance(value, list | tuple) else value


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of the same names as these names and lists of values, which take half of the room."""
    names = list(rows[0]) if rows else []
    return {"names": names, "rows": [[row[name] for name in names] for row in rows]}


def compiled(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A Vega-Lite specification as one of Vega."""
    found: dict[str, Any] = vl_convert.vegalite_to_vega(dict(spec), vl_version=VEGA_LITE)
    return found


def _script(text: str) -> Markup:
    """Text that cannot end the script element in which it stands, nor begin another."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
