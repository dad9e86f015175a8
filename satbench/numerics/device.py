"""Which device and how many threads a run uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from satbench.core.errors import BadInput


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA where there is one, else the CPU. An absent one raises `BadInput`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"--device {name} cannot be used here ({reason}); give auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"--device {name} is not supported; give auto, cpu or cuda")
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
