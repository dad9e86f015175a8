"""Which device a run uses."""

import torch

from satbench.errors import BadInput


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
