"""What attacks of other packages run in: fixed units of images, a seed for each, and a process left as it was found."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from satbench.attacks.base import crafting
from satbench.numerics.seeding import Randomness, integer, rows
from satbench.numerics.threat import ThreatModel

UNIT = 250  # AutoAttack's own batch size
LOG = logging.getLogger("satbench.attacks.foreign")


def in_units(
    craft: Callable[[Tensor, Tensor, int], Tensor],
    unit: int,
    attack: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    randomness: Randomness,
) -> Tensor:
    """What `craft(images, labels, seed)` finds on each `unit` consecutive images, inside ball and box.

    It gets float32 images in contiguous rows, a frozen model in eval mode, and global generators that start from the
    seed, which the stream of the unit's first image gives. A row that comes back not finite is the clean image, one
    that is outside by a rounding error is projected.
    """
    x_adv = x.detach().clone(memory_format=torch.contiguous_format)
    if not len(x) or threat.eps == 0:
        return x_adv
    with crafting(model), torch.enable_grad():
        for index in torch.split(torch.arange(len(x), device=x.device), unit):
            clean = x_adv[index].float()
            seed = integer(rows(randomness, index))
            with _apart(seed):
                found = craft(clean, y[index], seed).detach()
            x_adv[index] = _valid(clean, found, threat, attack).to(x.dtype)
    return x_adv


def _valid(clean: Tensor, found: Tensor, threat: ThreatModel, attack: str) -> Tensor:
    finite = found.flatten(1).isfinite().all(1)
    if not finite.all():
        LOG.warning(
            "%s returned examples that are not finite, which count as none; the gradients may be NaN or infinite",
            attack,
        )
    kept = torch.where(finite.view(-1, 1, 1, 1), found, clean).clamp(0, 1)
    outside = ~threat.contains(clean, kept)
    kept[outside] = threat.project(clean[outside], kept[outside])
    return kept


@contextmanager
def _apart(seed: int) -> Iterator[None]:
    """Global generators that start from `seed`, and as they were afterwards; no handler appears on the root logger."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    numpy_state = np.random.get_state()
    root, silent = logging.getLogger(), logging.NullHandler()
    if not root.handlers:  # else a bare logging.info() of a package installs one
        root.addHandler(silent)
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            root.removeHandler(silent)
