"""Which texts may be part of a path, and how any text becomes one."""

import re

from satbench.core.errors import BadInput

LONGEST = 128
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._+-]{{0,{LONGEST - 1}}}")


def check_name(name: object, what: str) -> str:
    """The name of a card, run, norm or data set; raises `BadInput` unless it can be a part of a path on any system.

    That is a letter or digit, followed by at most 127 letters, digits, and characters of "._+-". `what` begins the
    message.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadInput(
            f"{what} {name!r} is not a name; give letters, digits and . _ + -, beginning with a letter or digit, "
            f"at most {LONGEST} in all"
        )
    return name


def check_inside(path: str, what: str) -> str:
    """A relative path whose parts are all names, divided by "/"; raises `BadInput` for any other, such as `../x`."""
    for part in path.split("/"):
        check_name(part, f"{what} {path!r}: the part")
    return path


def path_part(text: str, most: int = 80) -> str:
    """The text as one part of a path: `check_name` accepts it, and every name of at most `most` characters is kept.

    Other characters become "-". Different texts can give the same part.
    """
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).lstrip("._+-")[:most].rstrip("-") or "unnamed"
