"""Networks by name, path or callable."""

from satbench.zoo.loaded import Loaded, from_module
from satbench.zoo.loading import BEST, LAST, load, load_model
from satbench.zoo.own_network import NO_NETWORK, is_own_network

__all__ = ["BEST", "LAST", "NO_NETWORK", "Loaded", "from_module", "is_own_network", "load", "load_model"]
