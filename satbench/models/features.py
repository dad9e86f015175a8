"""The representation that a classification layer reads."""

from torch import Tensor, nn

from satbench.core.errors import BadInput


def features_of(model: nn.Module, x: Tensor) -> Tensor:
    """The penultimate representation of images `x` (N, C, H, W): the input of the last linear layer, float (N, D).

    The layer is found during the pass: the last `nn.Linear` that ran, if its output is what the model returns, row by
    row. So the representation times that layer's weights, plus its bias, is the logits. In eval mode no dropout lies
    between. Gradients flow as in the model's own pass; its mode and hooks stay as they were. Raises `BadInput` for a
    model that computes anything after its last linear layer, or ends in another kind of layer.
    """
    last: tuple[Tensor, Tensor] | None = None

    def keep(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal last
        last = (given[0], output) if given else None

    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in linear]
    try:
        logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    if last is None or last[1] is not logits or last[0].ndim != 2:
        raise BadInput(
            "the network's logits are not the output of its last torch.nn.Linear layer, so it has no representation of "
            "its images that is known to be the penultimate one; give a network that ends in a linear layer"
        )
    return last[0]
