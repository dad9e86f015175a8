"""Templates of this room, filled strictly: an undefined value is an error and every value is escaped."""

from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from satbench.core.errors import BadInput
from satbench.core.escaping import html
from satbench.core.files import check_output_path

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


def check_page_folder(folder: Path, files: Iterable[str] = (), option: str = "--out") -> None:
    """Refuse, before any work, a folder where a page would replace what satbench did not write.

    That is an index.html without satbench's mark or, where there is none, any of `files`, which are to be written
    beside it. Raises `BadInput`, also for a path that cannot be a folder.
    """
    check_output_path(folder, option)
    index = folder / "index.html"
    if not index.exists():
        if found := [name for name in files if (folder / name).exists()]:
            raise BadInput(f"{option} {folder} has {', '.join(found)} and no page of satbench; give another folder")
        return
    if not is_own_page(index):
        raise BadInput(f"{index} is not a page of this satbench; remove it, or give another folder")


def is_own_page(path: Path) -> bool:
    """Whether the file has satbench's mark in its head."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(4096)
