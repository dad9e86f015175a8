"""Networks that the user's own code builds: `package.module:callable`."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from satbench.core.errors import BadInput
from satbench.core.plugins import arguments, is_reference, own, spelled
from satbench.models.activations import activation
from satbench.models.weights import (
    load_strictly,
    read_weights,
)
from satbench.zoo.libraries import LIBRARIES
from satbench.zoo.loaded import Loaded, from_module

NO_NETWORK = (
    "give a torch.nn.Module whose forward maps images to logits and whose attributes are the networks it uses, so that "
    "their weights are part of its digest and their mode can be set"
)


def is_own_network(ref: str) -> bool:
    """Whether `load` would import it: it is `package.module:callable`, with parameters or without."""
    return is_reference(spelled(ref)[0]) and ref.partition(":")[0] not in LIBRARIES and not Path(ref).exists()


def from_callable(ref: str, checkpoint: Path | None) -> Loaded:
    reference, tail = spelled(ref)
    module, _, attribute = reference.partition(":")
    with own("network", reference) as build:
        params = arguments(build, tail, f"network {ref!r}")
        if isinstance(params.get("activation"), str):
            params["activation"] = activation(params["activation"])
        needed = [] if isinstance(build, nn.Module) else [key for key in _required(build) if key not in params]
        if needed:
            raise BadInput(
                f"--model {ref} needs {', '.join(needed)}, which are not given as {reference}:{needed[0]}=VALUE; a "
                f"function of images is no network: {NO_NETWORK}"
            )
        model = build if isinstance(build, nn.Module) else build(**params)
    if not isinstance(model, nn.Module):
        raise BadInput(f"--model {ref}: {attribute}() returned a {type(model).__name__}; expected a torch.nn.Module")
    if checkpoint is not None:
        load_strictly(model, read_weights(checkpoint), checkpoint)
    loaded = from_module(model, ref, f"{attribute}:{tail}" if tail else attribute)
    loaded.model.eval()
    return replace(loaded, module=module)


def _required(build: Callable[..., Any]) -> list[str]:
    """The arguments without which it cannot be called."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is inspect.Parameter.empty and one.kind not in variable]
