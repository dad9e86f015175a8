"""No pickle runs: for foreign loaders that call `torch.load` themselves."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # which torch.load obeys, whatever its caller says


@contextmanager
def weights_only() -> Iterator[None]:
    """Until the block ends, `torch.load` reads plain weights alone in this process and raises for anything else."""
    before = os.environ.get(FORCE)
    os.environ[FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE]
        else:
            os.environ[FORCE] = before
