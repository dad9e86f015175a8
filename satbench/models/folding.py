"""Batch norms of a frozen network folded into the layers before them, or turned into a scale and a shift."""

from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

TOLERANCE = 1e-4  # of the largest absolute value compared
LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def near(found: Tensor, wanted: Tensor) -> bool:
    """Whether both have one shape and agree within `TOLERANCE` of the largest value wanted."""
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


class ScaleShift(nn.Module):
    """A 2d batch norm of a frozen network in eval mode; torch's also sums up the gradients of its factors."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = scale_and_shift(norm)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.get_buffer("shift"), x, self.get_buffer("scale"))


def fold_norms(model: nn.Module, image: Tensor, scale: bool) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Fold each batch norm that is all that a convolution or linear layer feeds into that layer; the names of both.

    With `scale` the other 2d batch norms become a `ScaleShift`; their names.

    A pass over one image shows which layer feeds which norm, so a forward may be any Python. A layer or norm with
    hooks, that is called twice, or that does not compute what its type says is left alone.
    """
    watch = _Watch(model)
    with torch.no_grad(), watch:
        model(image)
    for hook in watch.hooks:
        hook.remove()
    calls = watch.calls
    pairs: list[tuple[Any, Any]] = [
        (layer, norm) for layer, norm in watch.found if layer not in watch.shared and calls[layer] == calls[norm] == 1
    ]
    names = {module: name for name, module in model.named_modules()}
    for layer, norm in pairs:
        _set(layer, *folded_weights(layer, norm))
    behind = {norm: _behind(norm) for _, norm in pairs}
    alone = [norm for norm in watch.norms if scale and type(norm) is nn.BatchNorm2d and norm not in behind]
    behind |= {norm: ScaleShift(norm) for norm in alone}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in behind:
                parent._modules[name] = behind[child]
    return tuple((names[layer], names[norm]) for layer, norm in pairs), tuple(names[norm] for norm in alone)


def folded_weights(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias, in the layer's dtype, of the layer that computes both; computed in float64."""
    scale = _scale(norm)
    weight = _exact(layer.weight, 0) * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = (_exact(layer.bias, 0) - _exact(norm.running_mean, 0)) * scale + _exact(norm.bias, 0)
    like = layer.weight.detach()
    return weight.to(like), bias.to(like)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and summand (C, 1, 1) that a 2d batch norm applies, in the dtype of its statistics."""
    scale = _scale(norm)
    shift = _exact(norm.bias, 0) - _exact(norm.running_mean, 0) * scale
    like = norm.running_mean
    return scale.to(like).view(-1, 1, 1), shift.to(like).view(-1, 1, 1)


def _scale(norm: Any) -> Tensor:
    scale: Tensor = _exact(norm.weight, 1) / (_exact(norm.running_var, 1) + norm.eps).sqrt()
    return scale


def _exact(tensor: Tensor | None, missing: float) -> Tensor:
    return torch.tensor(missing).double() if tensor is None else tensor.detach().double()


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    layer.weight, layer.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias))


def _behind(norm: nn.Module) -> nn.Module:
    """What a batch norm computes besides, under the same names: nothing, or its parts, such as timm's activation."""
    return (nn.Sequential(OrderedDict(norm.named_children())) if len(norm._modules) else nn.Identity()).eval()


class _Watch(TorchFunctionMode):
    """Sees, while it is on, which layer's output each batch norm takes and whether anyone else takes it too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.fed = WeakTensorKeyDictionary()  # output of a layer: the layer and its input
        self.shared: set[nn.Module] = set()  # layers whose output has other users than a norm
        self.calls: Counter[nn.Module] = Counter()
        self.found: list[tuple[nn.Module, nn.Module]] = []
        self.norms: list[nn.Module] = []  # that may be replaced
        self.taken: Tensor | None = None  # by the norm that is running
        self.hooks: list[Any] = []
        for module in model.modules():
            if isinstance(module, LINEAR) and _is_plain(module) and module._parameters.get("weight") is not None:
                self.hooks.append(module.register_forward_hook(self._after_layer))
            if isinstance(module, NORMS) and _is_plain(module) and module.running_mean is not None:
                self.norms.append(module)
                self.hooks.append(module.register_forward_pre_hook(self._before_norm))
                self.hooks.append(module.register_forward_hook(self._after_norm))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value is not self.taken and value in self.fed:
                self.shared.add(self.fed[value][0])
        return func(*args, **(kwargs or {}))

    def _after_layer(self, layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        self.calls[layer] += 1
        if len(given) == 1 and isinstance(output, Tensor):
            self.fed[output] = (layer, given[0])

    def _before_norm(self, norm: nn.Module, given: tuple[Any, ...]) -> None:
        self.calls[norm] += 1
        self.taken = given[0] if given and given[0] in self.fed else None

    def _after_norm(self, norm: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        taken, self.taken = self.taken, None
        if taken is not None:
            layer, layer_given = self.fed[taken]
            if _can_stand_for(layer, layer_given, norm, output):
                self.found.append((layer, norm))


def _is_plain(module: nn.Module) -> bool:
    """In eval mode and without hooks, which a module that takes its place would not have."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooked and not module.training


def _can_stand_for(layer: Any, given: Tensor, norm: Any, output: Tensor) -> bool:
    """Whether the folded layer, on the input it had, gives the norm's output; also of a subclass with its own ways."""
    if len(norm.running_mean) != len(layer.weight):
        return False
    own = layer.weight, layer.bias
    _set(layer, *folded_weights(layer, norm))
    try:
        return near(_behind(norm)(layer.forward(given)), output)
    finally:
        layer.weight, layer.bias = own
