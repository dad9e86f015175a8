"""Attacks one after another, each on the images that the earlier ones left standing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.attacks.base import Attack, crafting
from satbench.attacks.gradient import PGD, fgsm
from satbench.attacks.losses import margin
from satbench.errors import BadInput
from satbench.seeding import Randomness, rows
from satbench.threat import ThreatModel


def run_stages(
    stages: Sequence[Attack], model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness
) -> Tensor:
    """What an ensemble returns: each image's first example that fools the model inside ball and box.

    Every stage starts at the clean images still standing. Where none succeeds, it is the example of the largest margin.
    """
    best = x.clone()
    highest = torch.full((len(x),), -torch.inf, device=x.device)
    standing = torch.arange(len(x), device=x.device)
    for stage in stages:
        if not len(standing):
            break
        tried = stage(model, x[standing], y[standing], threat, rows(randomness, standing))
        with crafting(model), torch.no_grad():
            logits = model(tried)
        inside = threat.contains(x[standing], tried)
        margins = torch.where(inside, margin(logits, y[standing]).float(), -torch.inf)
        better = margins > highest[standing]
        best[standing[better]] = tried[better]
        highest[standing[better]] = margins[better]
        standing = standing[~inside | (logits.argmax(1) == y[standing])]
    return best


@dataclass(frozen=True)
class Cascade:
    """Cheap attacks first, AutoAttack's own last: FGSM, PGD-10 with two restarts, then the four of the standard.

    An image that a cheap attack breaks never costs AutoAttack's several hundred passes; one that stands has been
    through all of AutoAttack standard (Croce & Hein 2020, arXiv 2003.01690), so the rate ends at its answer or below,
    but for the luck of the draw. `unit` is that of its components.
    """

    unit: int = 250

    def __post_init__(self) -> None:
        if not isinstance(self.unit, int) or isinstance(self.unit, bool) or self.unit < 1:
            raise BadInput(f"unit of a cascade is {self.unit!r}; give a whole number from 1")

    @property
    def stages(self) -> tuple[Attack, ...]:
        from satbench.attacks.autoattack import AutoAttack

        return (fgsm(), PGD(steps=10, restarts=2), *AutoAttack(unit=self.unit).stages)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return run_stages(self.stages, model, x, y, threat, randomness)
