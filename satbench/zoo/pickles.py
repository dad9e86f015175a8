"""No pickle runs: for foreign loaders that call `torch.load` themselves."""

from contextlib import AbstractContextManager

from satbench.core.environment import variable

FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # which torch.load obeys, whatever its caller says


def weights_only() -> AbstractContextManager[None]:
    """Until the block ends, `torch.load` reads plain weights alone in this process and raises for anything else."""
    return variable(FORCE, "1")
