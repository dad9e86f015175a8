"""The quick trust battery with the settings that every evaluation gives it."""

from collections.abc import Sequence

import pandas as pd
from torch import nn

from satbench.data import Images
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import Trust
from satbench.specs.attack import AttackInfo
from satbench.trust import examine


def quick_trust(
    model: nn.Module,
    images: Images,
    threats: Sequence[ThreatModel],
    seed: int,
    records: pd.DataFrame,
    attacks: Sequence[AttackInfo],
) -> Trust:
    """Check a measured model for at most a tenth of the passes of its `records`, at the largest radius of one norm."""
    passes = int(records[["forward", "backward"]].to_numpy().sum())
    largest = max((one for one in threats if one.norm == threats[0].norm), key=lambda one: one.eps)
    budget = passes // 10
    return examine(model, images, largest, seed=seed, depth="quick", budget=budget, records=records, attacks=attacks)
