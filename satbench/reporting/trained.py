"""How the networks of a study were trained: sources of their methods, and passes beside their budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from satbench.reporting.table_forms import MISSING

PASSES_NOTE = (
    "Passes are those of a training image in all updates of a run, forward and backward together: the budget, what the "
    "method states for its epochs, and what was counted, the fewest and the most over activations and seeds. A run "
    "takes as many whole epochs as its budget pays for. Measuring on the validation split is not counted."
)


@dataclass(frozen=True)
class Trained:
    """How one network was trained: its method, and the passes of a training image in all its updates.

    paper, follows: where the method is from, and what it was made from, "" without a paper. budget, stated, taken: the
    passes that it had, those that the method states, and those that were counted; None where unknown.
    """

    recipe: str
    paper: str
    follows: str
    epochs: int
    budget: int | None
    stated: float | None
    taken: float | None


def training_lines(trained: Sequence[Trained], names: Mapping[str, str]) -> pd.DataFrame:
    """A line for each recipe of `names`, which readers know by these: source, epochs and passes of its networks."""
    lines = []
    for recipe, name in names.items():
        group = [one for one in trained if one.recipe == recipe]
        taken = [f"{one.taken:.0f}" for one in sorted(group, key=lambda one: one.taken or 0) if one.taken is not None]
        for one in group[:1]:
            lines.append(
                {
                    "method": name,
                    "paper": one.paper or MISSING,
                    "follows": one.follows or MISSING,
                    "epochs": str(one.epochs),
                    "budget": MISSING if one.budget is None else str(one.budget),
                    "passes stated": MISSING if one.stated is None else f"{one.stated:g}",
                    "passes taken": " to ".join(dict.fromkeys((taken[0], taken[-1]))) if taken else MISSING,
                }
            )
    return pd.DataFrame(lines)
