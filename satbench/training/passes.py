"""How many images really go through a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class PassCount:
    """Rows that went through a network and back, each as often as it did, seen by hooks while it is watched.

    A hook sees passes of the whole network, not the blocks that activation checkpointing computes again.
    """

    forward: int = 0
    backward: int = 0

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        hook = model.register_forward_hook(self._forward)
        try:
            yield
        finally:
            hook.remove()

    def _forward(self, model: nn.Module, given: object, logits: Tensor) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, grad: Tensor) -> None:
        self.backward += len(grad)
