"""On what a training step crafts its images: the network, or a copy of it that computes the same faster."""

from collections.abc import Sequence

import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.methods import Method
from satbench.models.search_copy import SearchCopy, training_copy
from satbench.training.config import TrainConfig

IMAGES = 16  # random ones on which the copy has to agree with the network
LEAST = 3  # gradients of an update; on fewer a small network on a GPU saves about what refreshing the copy costs


def excluded(config: TrainConfig, method: Method) -> str | None:
    """The setting because of which images cannot be crafted on a copy; None where they can."""
    if not method.crafts:
        return f"{config.method.name}, which crafts no image by passes of its own"
    if config.attack_bn_mode == "train":
        return "attack_bn_mode=train, since folded batch norms have no batch statistics"
    if config.speed.compile:
        return "speed.compile, since the compiled network is the one that is attacked"
    return None


def attacked(
    config: TrainConfig, method: Method, net: nn.Module, shape: Sequence[int], device: torch.device
) -> tuple[SearchCopy | None, str]:
    """The copy of the network that images are crafted on, None for the network itself; and which and why, in words.

    Decided by `speed.search_copy`, the other settings and the network. net: as it was initialised from the seed, so
    that a continued run decides as the first one did. shape: (C, H, W) of its images. With null the copy is used where
    its batch norms are folded or its layout is another one, and the attack takes at least three gradients. Raises
    `BadInput` with true where no copy computes as the network does.
    """
    wanted = config.speed.search_copy
    reason = "speed.search_copy=false" if wanted is False else excluded(config, method)
    if reason is None and wanted is None and method.crafting.backward < LEAST:
        reason = f"fewer than {LEAST} gradients an update"
    if reason is not None:
        return None, f"on the network itself ({reason})"
    probe = torch.rand(IMAGES, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    copy = training_copy(net, probe, "float32" if config.speed.precision == "float32" else "bf16")
    if wanted and not copy.private:
        raise BadInput(f"speed.search_copy=true cannot be met: {copy.how}; set it to null or false")
    if not copy.private:
        return None, f"on {copy.how}"
    if wanted is None and not (copy.folded or copy.scaled) and (config.speed.channels_last or not copy.channels_last):
        return None, "on the network itself (a copy would be no faster)"
    return copy, f"on a copy of the network ({copy.how})"
