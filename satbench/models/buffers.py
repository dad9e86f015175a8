"""Buffers of a network that move in eval mode too, such as a counter of its passes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class KeptBuffers:
    """The buffers of some networks as they are now, so that they can be put back."""

    def __init__(self, *networks: nn.Module) -> None:
        self.kept = [
            (f"{path}.{name}".lstrip("."), module, name, buffer, buffer.clone())
            for network in networks
            for path, module in network.named_modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]

    def moved(self) -> list[str]:
        """Names of the buffers whose values differ now."""
        return [full for full, module, name, _, before in self.kept if not _equal(getattr(module, name), before)]

    def restore(self) -> None:
        """Put every buffer back, also where the network has replaced the tensor."""
        with torch.no_grad():
            for _, module, name, buffer, before in self.kept:
                if not _equal(buffer, before):
                    buffer.copy_(before)
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)


@contextmanager
def buffers_kept(*networks: nn.Module) -> Iterator[KeptBuffers]:
    """Restore all buffers afterwards, also after an error."""
    kept = KeptBuffers(*networks)
    try:
        yield kept
    finally:
        kept.restore()


def _equal(one: Tensor, other: Tensor) -> bool:
    """Equal values; NaN equals NaN."""
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
