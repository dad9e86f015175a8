"""Templates of this room, filled strictly: an undefined value is an error and every value is escaped."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from satbench.core.errors import BadInput
from satbench.core.escaping import html
from satbench.core.files import check_folder_name

GENERATOR = '<meta name="generator" content="satbench">'  # in the head of every page

_ENVIRONMENT = Environment(
    loader=PackageLoader("satbench.reporting"),
    autoescape=True,
    finalize=lambda value: html(value) if isinstance(value, str) else value,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """The named template of `templates/` with these values."""
    return _ENVIRONMENT.get_template(template).render(**values, generator=Markup(GENERATOR))


def check_page_folder(folder: Path) -> None:
    """Raise `BadInput` for a folder that cannot be, and where it has an index.html that satbench did not write."""
    check_folder_name(folder)
    index = folder / "index.html"
    if not index.exists():
        return
    head = b""
    if index.is_file():
        with index.open("rb") as file:
            head = file.read(4096)
    if GENERATOR.encode() not in head:
        raise BadInput(f"{index} is not a page of this satbench; remove it, or give another folder")
