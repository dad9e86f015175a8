"""Architectures by name; every one takes any activation and maps [0, 1] images to logits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import imported_table
from satbench.core.parameters import check
from satbench.core.tables import ARCHITECTURES as NAMES
from satbench.models.activations import activation
from satbench.models.classifier import Classifier, ModelSpec, Size
from satbench.models.knn import install
from satbench.models.timm_network import timm_network
from satbench.specs.names import TIMM

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = imported_table("satbench.models", NAMES)


def build_model(spec: ModelSpec) -> Classifier:
    """The network of a spec, freshly initialised from torch's global generator, in training mode, on the CPU.

    The architecture is one of `ARCHITECTURES`, `timm:NAME` or `package.module:callable`. Raises `BadInput` for an
    unknown architecture, activation or parameter, for a parameter that is no size, and for code of the user's own that
    gives no module.
    """
    make, own = activation(spec.activation), own_code(spec)
    shape = {"channels": spec.channels, "image_size": spec.image_size, "num_classes": spec.num_classes}
    for key, value in spec.params.items():
        if key in shape:
            raise BadInput(f"{key} of a model comes from its data set; leave it out")
        if spec.architecture not in own:
            check(f"parameter {key!r} of model {spec.architecture!r}", value, Size)
    if spec.architecture.startswith(TIMM):
        net = timm_network(spec.architecture.removeprefix(TIMM), make, **shape, **spec.params)
    else:
        net = plugins.make(ARCHITECTURES, spec.architecture, "model", nn.Module, make, **shape, **spec.params)
    model = Classifier(net, spec)
    if spec.readout is not None:
        install(model, spec.readout)
    return model


def own_code(spec: ModelSpec) -> list[str]:
    """The names of a spec, of architecture and activation, that are `package.module:callable`."""
    names = [spec.architecture, plugins.spelled(spec.activation)[0]]
    return [one for one in names if plugins.is_reference(one) and not one.startswith(TIMM)]


class _Uninitialised(TorchFunctionMode):
    """Leaves out every `torch.nn.init`: on the meta device drawing numbers imports a compiler to do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def empty_model(spec: ModelSpec) -> Classifier:
    """The network of a spec without memory for its weights, which are to be assigned; raises as `build_model` does.

    One of timm's or of the user's own has memory, for not all that it computes with is in its state dict.
    """
    if spec.architecture.startswith(TIMM) or own_code(spec):
        with torch.random.fork_rng(devices=[]):
            return build_model(spec)
    with torch.device("meta"), _Uninitialised():
        return build_model(spec)
