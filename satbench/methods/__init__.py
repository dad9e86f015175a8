"""Training algorithms by name; each is one small file."""

from collections.abc import Callable

from satbench.methods.base import Method
from satbench.methods.pgd_at import PGDAT
from satbench.methods.standard import Standard

METHODS: dict[str, Callable[..., Method]] = {"standard": Standard, "pgd_at": PGDAT}

__all__ = ["METHODS", "Method"]
