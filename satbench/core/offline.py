"""One switch for work without a network."""

import os

from satbench.core.errors import BadInput

OFFLINE = "SATBENCH_OFFLINE"


def is_offline() -> bool:
    """Whether `SATBENCH_OFFLINE`, which --offline sets, is anything but empty or 0."""
    return os.environ.get(OFFLINE, "0").strip() not in ("", "0")


def need_network(missing: str, advice: str) -> None:
    """Raise `BadInput` while offline: what is `missing` on this machine, and what to do about it."""
    if is_offline():
        raise BadInput(f"offline, and {missing} not on this machine; {advice}")
