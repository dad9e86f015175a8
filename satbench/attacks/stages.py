"""Attacks one after another, each on the images that the earlier ones left standing."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from satbench.attacks.base import Attack, crafting
from satbench.attacks.losses import margin
from satbench.numerics.seeding import Randomness, rows
from satbench.numerics.threat import ThreatModel


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
