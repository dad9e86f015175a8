"""How many images really go through a network."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class PassCount:
    """Rows that went forward and backward through some networks, counted by hooks while these are watched.

    A hook sees passes of a whole network, not the blocks that activation checkpointing computes again.
    """

    forward: int = 0
    backward: int = 0

    @contextmanager
    def watching(self, *models: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for model in models:
                hooks.callback(model.register_forward_hook(self._forward).remove)
            yield

    def _forward(self, model: nn.Module, given: object, logits: Tensor) -> None:
        self.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(self._backward)  # type: ignore[no-untyped-call]

    def _backward(self, grad: Tensor) -> None:
        self.backward += len(grad)
