"""ReLU forward with the derivative of a smooth function backward, for the attacker, the optimizer, or both."""

from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from satbench.reporting.comparison import Comparison
from satbench.reporting.differences import difference_cell
from satbench.reporting.rounding import down

SWITCHES = {"surrogate.attacker=True": "attacker", "surrogate.optimizer=True": "optimizer"}
ABLATION_NOTE = (
    "Differences are to the recipe without a change, with 95% intervals "
    "over images and seeds, and p-values after Holm over all changes of the recipe."
)


def ablation_table(found: Sequence[Comparison], asked: Sequence[Comparison]) -> pd.DataFrame:
    """The four variants of each activation that was trained with them, under the attack of `asked` and clean.

    A line a variant; cells are texts. Empty where none was compared.
    """
    first = asked[0]
    lines: list[dict[str, str]] = []
    changes = [one for one in found if one.is_change and one.threat in (None, first.threat)]
    robust = {one.of: one for one in changes if one.attacks == first.attacks and one.threat == first.threat}
    clean = {one.of: one for one in changes if one.threat is None}
    for (recipe, activation), one in robust.items():
        plain, smooth = clean.get((recipe, activation)), smooth_for(recipe)
        if smooth and plain is not None:
            if not any(line["activation"] == activation for line in lines):
                rates = _rate(one.reference_values), _rate(plain.reference_values)
                lines.append(_line(activation, "none", one, rates, ("-", "-")))
            rates = _rate(one.values), _rate(plain.values)
            lines.append(_line(activation, smooth, one, rates, (difference_cell(one), difference_cell(plain))))
    return pd.DataFrame(lines)


def smooth_for(recipe: str) -> str:
    """What meets a smooth derivative by a change of a recipe, `attacker and optimizer`; "" with any other change."""
    changes = recipe.removesuffix("]").partition(" [")[2].split(", ")
    return " and ".join(SWITCHES[one] for one in changes) if set(changes) <= set(SWITCHES) else ""


def _line(
    activation: str, smooth: str, one: Comparison, rates: tuple[str, str], differences: tuple[str, str]
) -> dict[str, str]:
    return {
        "activation": activation,
        "smooth derivative for": smooth,
        "seeds": str(len(one.seeds)),
        "n": str(one.n),
        "robust %": rates[0],
        "difference in robust": differences[0],
        "clean %": rates[1],
        "difference in clean": differences[1],
    }


def _rate(values: Sequence[float]) -> str:
    return down(fmean(values))
