"""Which device and how many threads a run uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from satbench.core.devices import check_device
from satbench.core.errors import BadInput


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU. An absent one raises `BadInput`."""
    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        found = "no CUDA device" if last < 0 else f"cuda:0 to cuda:{last}"
        raise BadInput(f"--device {name} is not there: torch finds {found}; give auto or cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"--device {name} cannot be used here ({reason}); give auto or cpu") from None
    return device


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch compute with `count` threads on the CPU, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
