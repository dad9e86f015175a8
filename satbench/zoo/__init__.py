"""Networks by name, path or callable.

The public names are resolved at first use, so that the registry can be read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satbench.zoo.loaded import Loaded, from_module
    from satbench.zoo.loading import BEST, LAST, load, load_model
    from satbench.zoo.own_network import NO_NETWORK, is_own_network

__all__ = ["BEST", "LAST", "NO_NETWORK", "Loaded", "from_module", "is_own_network", "load", "load_model"]

_PUBLIC = {
    "BEST": "loading",
    "LAST": "loading",
    "NO_NETWORK": "own_network",
    "Loaded": "loaded",
    "from_module": "loaded",
    "is_own_network": "own_network",
    "load": "loading",
    "load_model": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
