"""The representation that a classification layer reads."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from satbench.core.errors import BadInput


class Represented(NamedTuple):
    """What a pass gave: the representation (N, D), the logits (N, K), and the layer that made these of it."""

    features: Tensor
    logits: Tensor
    layer: nn.Linear


class Encoder(nn.Module):
    """A network that gives its representation in place of its logits, see `features_of`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        features, logits, _ = represented(self.net, x)
        # a gradient of 0 for the last layer: DDP waits for one of every parameter, and passes are counted at the logits
        return features + 0 * logits.sum(1, keepdim=True)


def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """The penultimate representation of images `x` (N, C, H, W): the input of the last linear layer, float (N, D).

    The layer is found during the pass: the last `nn.Linear` that ran, if its output is what the model returns, row by
    row, up to a cast. So the representation times that layer's weights, plus its bias, is the logits. In eval mode no
    dropout lies between. Gradients flow as in the model's own pass; its mode and hooks stay as they were. The dtype is
    that of the logits. Raises `BadInput` for a model that computes anything after its last linear layer, or ends in
    another kind of layer.
    """
    return represented(model, x).features


def represented(model: nn.Module, x: Tensor) -> Represented:
    """`features_of` with the logits and the layer between them, from one pass."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def keep(layer: nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> None:
        calls.extend((layer, one, output) for one in given[:1])

    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in linear]
    try:
        logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if calls:
        layer, features, output = calls[-1]
        if features.ndim == 2 and _same(output, logits):
            return Represented(features.to(logits.dtype), logits, layer)
    raise BadInput(
        "the network's logits are not the output of its last torch.nn.Linear layer, so it has no representation of "
        "its images that is known to be the penultimate one; give a network that ends in a linear layer"
    )


def _same(output: Tensor, logits: Tensor) -> bool:
    """Whether the logits are this output, cast to another dtype or not."""
    if output is logits or output.shape != logits.shape or output.dtype == logits.dtype:
        return output is logits
    return torch.allclose(output.to(logits.dtype), logits, rtol=0, atol=0, equal_nan=True)
