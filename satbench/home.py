"""Where satbench keeps what it fetches."""

import os
from pathlib import Path

from platformdirs import user_cache_path

HOME = "SATBENCH_HOME"


def home() -> Path:
    """The folder that `SATBENCH_HOME` names, or else the user's cache folder. It need not exist yet."""
    named = os.environ.get(HOME)
    return Path(named).expanduser().absolute() if named else user_cache_path("satbench")
