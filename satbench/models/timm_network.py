"""Networks of timm by name, `timm:NAME`, untrained and with the activation under comparison at every site."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from satbench.core.errors import FAULTS, BadInput, reason
from satbench.core.lookup import nearest
from satbench.specs.names import TIMM

# classes of torch, timm and its networks, in lower case without "me" (memory efficient); gates such as sigmoid stay
REPLACED = {
    *("relu", "relu6", "leakyrelu", "prelu", "rrelu", "squaredrelu", "starrelu", "elu", "celu", "selu", "softplus"),
    *("gelu", "gelutanh", "quickgelu", "silu", "swish", "mish", "hardswish", "hardmish"),
}
FUNCTIONS = REPLACED | {"leaky_relu"}  # of torch; what a network computes by hand is not seen


def timm_network(
    name: str, act: Callable[[], nn.Module], channels: int, image_size: int, num_classes: int, **params: int
) -> nn.Module:
    """The timm network `name` without its published weights; every activation module gives way to one of `act`.

    Gates (sigmoid, hard sigmoid, tanh) stay. `params` are timm's own, such as `patch_size`. A pass over one black image
    has to show logits (1, `num_classes`), no activation that is called as a function, and no site called twice whose
    activation learns. Raises `BadInput` otherwise, without timm, and for a name that timm does not know.
    """
    ref = f"{TIMM}{name}"
    try:
        import timm
    except ModuleNotFoundError:
        raise BadInput(f"model {ref!r} needs the package timm; run pip install 'satbench[timm]'") from None
    if not timm.is_model(name):
        raise BadInput(f"timm has no model {name!r}; {nearest(name, timm.list_models())}")
    shape: dict[str, Any] = {"in_chans": channels, "num_classes": num_classes}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        shape["img_size"] = image_size
    for key in params:
        if key in shape:
            raise BadInput(f"{key} of a model comes from its data set; leave it out")
    try:
        net: nn.Module = timm.create_model(name, pretrained=False, **{**shape, **params})
        sites = _replace(net, act)
        if not sites:
            raise BadInput(f"model {ref!r} has no activation module to replace; take another")
        logits, functions, calls = _look(net, sites, torch.zeros(1, channels, image_size, image_size))
    except BadInput:
        raise
    except FAULTS as error:
        size = f"{channels} x {image_size} x {image_size}"
        raise BadInput(f"timm cannot build or run {name!r} for images {size}: {reason(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise BadInput(f"model {ref!r} does not give one row of {num_classes} logits an image; take another")
    if functions:
        raise BadInput(f"model {ref!r} calls {functions[0]} as a function, which cannot be replaced; take another")
    if any(calls[site] > 1 and list(site.parameters()) for site in sites):
        raise BadInput(f"model {ref!r} uses an activation module twice, so two sites would learn as one; take another")
    return net


def _replace(net: nn.Module, act: Callable[[], nn.Module]) -> list[nn.Module]:
    """Put a fresh activation at every site; gives them all."""
    sites: list[nn.Module] = []
    for parent in list(net.modules()):
        for key, child in parent._modules.items():
            if type(child).__name__.lower().removesuffix("me") in REPLACED:
                sites.append(act())
                parent._modules[key] = sites[-1]
    return sites


def _look(net: nn.Module, sites: list[nn.Module], x: Tensor) -> tuple[Any, list[str], Counter[nn.Module]]:
    """What the network makes of `x` in eval mode, the activation functions it called, and how often each site ran."""
    calls: Counter[nn.Module] = Counter()
    watch = _Watch()

    def before(site: nn.Module, given: Any) -> None:
        calls[site] += 1
        watch.inside = True

    def after(site: nn.Module, given: Any, output: Any) -> None:
        watch.inside = False

    hooks = [site.register_forward_pre_hook(before) for site in sites]
    hooks += [site.register_forward_hook(after) for site in sites]
    with torch.no_grad(), watch:
        logits = net.eval()(x)
    net.train()
    for hook in hooks:
        hook.remove()
    return logits, watch.functions, calls


class _Watch(TorchFunctionMode):
    """Notes the activation functions called while it is on and not `inside` an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.functions: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").rstrip("_")
        if not self.inside and name in FUNCTIONS:
            self.functions.append(name)
        return func(*args, **(kwargs or {}))
