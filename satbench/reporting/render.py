"""Templates of this room, filled strictly: an undefined value is an error and every value is escaped."""

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("satbench.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """The named template of `templates/` with these values."""
    return _ENVIRONMENT.get_template(template).render(**values)
