"""How a device is named."""

import re

from satbench.core.errors import BadInput

ADVICE = "give auto, cpu or cuda, or one of several as cuda:1"


def check_device(name: str) -> None:
    """Raise `BadInput` for a name that is no device of satbench's; whether the device is there is not looked at."""
    if not re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", name):
        raise BadInput(f"--device {name} is not supported; {ADVICE}")
