"""Networks by name, path or callable."""

from satbench.zoo.loading import BEST, LAST, NO_NETWORK, Loaded, from_module, is_own_network, load, load_model

__all__ = ["BEST", "LAST", "NO_NETWORK", "Loaded", "from_module", "is_own_network", "load", "load_model"]
