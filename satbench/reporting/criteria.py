"""What counts as agreeing with a claim, decided by the results of a study; see docs/smooth-vs-relu.md.

Each criterion was fixed before the results that decide it. Comparisons, intervals and Holm's correction are those of
`reporting.verdict`. What neither agrees nor differs is not decided; so is what would do both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Literal

import numpy as np
import pandas as pd

from satbench.core.errors import BadInput
from satbench.reporting.claims_file import CriterionName
from satbench.reporting.comparison import Comparison
from satbench.reporting.joined import Measured, attacks_of
from satbench.reporting.lines import model_lines
from satbench.reporting.names import counted, threat_name
from satbench.reporting.results_file import StudyResults
from satbench.reporting.rounding import inward, outward
from satbench.reporting.verdict import comparisons, unpaired
from satbench.results.crossed import crossed_difference
from satbench.results.metrics import WORST, robust_table

State = Literal["agrees", "differs", "not decided", "not yet measured", "not testable here"]
AGREES: State = "agrees"
DIFFERS: State = "differs"
UNDECIDED: State = "not decided"
UNMEASURED: State = "not yet measured"
POINT = 0.01
MAIN = ("relu", "silu")
PRIMARY, WEAKER = 50, 10  # steps of PGD
RAPID_MARGIN = 0.005


@dataclass(frozen=True)
class Evidence:
    """A difference of accuracies with its 95% interval, as fractions; `p_value` after Holm, None where none decides.

    seeds: how many, or how many networks where that is the `unit`.
    """

    what: str
    difference: float
    low: float
    high: float
    n: int
    seeds: int
    p_value: float | None = None
    unit: Literal["seed", "network"] = "seed"

    def sentence(self) -> str:
        """The difference in points, with interval, n and seeds."""
        p_value = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        points = f"{inward(self.difference)} {outward(self.low, self.high)} points"
        return f"{self.what}: {points} (n = {self.n}, {counted(self.seeds, self.unit)}{p_value})"


@dataclass(frozen=True)
class Decision:
    """What a criterion says, and the figures that decide it; none where they are not measured yet."""

    state: State
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class Studied:
    """A study of one recipe and changes of it, with its comparisons.

    Raises `BadInput` where the study has several recipes, threats trained for, or attacks that a criterion could mean.
    """

    results: StudyResults

    @cached_property
    def found(self) -> list[Comparison]:
        return comparisons(self.results.networks, self.results.reference, every=True)[0]

    @cached_property
    def networks(self) -> list[Measured]:
        """The networks of the recipe without changes."""
        return [one for one in self.results.networks if one.model.recipe and " [" not in one.model.recipe]

    @cached_property
    def recipe(self) -> str:
        return self._only("recipe", {one.model.recipe or "" for one in self.networks})

    @cached_property
    def threat(self) -> tuple[str, float]:
        """What the networks of the recipe were trained for."""
        known = {one.model.trained_for for one in self.networks}
        threats = {(threat.norm, threat.eps) for threat in known if threat is not None}
        named = {threat_name(*threat): threat for threat in threats}
        return named[self._only("threat trained for", set(named))]

    def attack(self, name: str, steps: int | None = None) -> str | None:
        """The id of the attack of this name, and of PGD with so many steps; None where it was not measured."""
        known = attacks_of(self.results.runs).values()
        fits = {one.id for one in known if one.name == name and steps in (None, one.params.get("steps"))}
        return self._only(f"attack {name}", fits) if fits else None

    def _only(self, what: str, found: set[str]) -> str:
        if len(found) != 1:
            raise BadInput(
                f"the study {self.results.title!r} has {len(found)} values of: {what} "
                f"({', '.join(sorted(found)) or 'none'}); a criterion needs one"
            )
        return next(iter(found))

    def compared(
        self, of: str, against: str, steps: int | None = PRIMARY, change: str = "", base: str = ""
    ) -> Comparison | None:
        """The comparison of activation `of` with `against`, under PGD of so many steps, or clean with None.

        change, base: the changed settings of the recipe, such as "method.steps=10", of the one and the other; "" for
        the recipe itself. None where it was not measured.
        """
        attack = None if steps is None else self.attack("pgd", steps)
        if steps is not None and attack is None:
            return None
        wanted = (self._changed(change), of), (self._changed(base), against)
        under = (None, ()) if attack is None else (self.threat, (attack,))
        fits = [one for one in self.found if (one.of, one.against) == wanted and (one.threat, one.attacks) == under]
        if len(fits) > 1:
            raise BadInput(f"the study {self.results.title!r} compares {wanted[0]} with {wanted[1]} more than once")
        return fits[0] if fits else None

    def _changed(self, settings: str) -> str:
        return f"{self.recipe} [{settings}]" if settings else self.recipe

    def outcomes(self, activation: str, attacks: Sequence[str | None]) -> "list[pd.DataFrame]":
        """Which images stand under each attack, a row an image and a column a seed, on the images that met all.

        Seeds that were not measured under all attacks are left out. Empty where an attack is None, no seed is left, or
        the networks are not seeds of one model.
        """
        known = [one for one in attacks if one is not None]
        group = [one for one in self.networks if one.model.activation == activation]
        if len(known) < len(attacks) or unpaired(group, model_lines(one.model for one in self.results.networks)):
            return []
        tables: dict[int | None, pd.DataFrame] = {}
        for one in group:
            records = one.records[one.records["attack"].isin(known)]
            if len(table := robust_table(records, *self.threat)) and set(known) <= set(table.columns):
                tables[one.model.seed] = table.drop(columns=WORST)
        if not tables:
            return []
        return [pd.concat({seed: table[one] for seed, table in tables.items()}, axis=1, join="inner") for one in known]


def _evidence(one: Comparison) -> Evidence:
    quantity = one.quantity.removeprefix("robust accuracy at ")
    what = f"{one.activation} against {one.reference}, {quantity}"
    return Evidence(what, one.difference, one.low, one.high, one.n, len(one.seeds), one.p_value)


def _decided(found: Sequence[Comparison], agrees: bool, differs: bool) -> Decision:
    state = UNDECIDED if agrees == differs else AGREES if agrees else DIFFERS
    return Decision(state, tuple(map(_evidence, found)))


def _silu_more_robust(study: Studied) -> Decision:
    one = study.compared("silu", "relu")
    if one is None:
        return Decision(UNMEASURED)
    return _decided([one], one.verdict == "higher", one.verdict == "lower" or one.high < POINT)


def _silu_clean(study: Studied) -> Decision:
    one = study.compared("silu", "relu", steps=None)
    if one is None:
        return Decision(UNMEASURED)
    return _decided([one], one.low > -POINT, one.verdict == "lower" and one.high < -POINT)


def _softplus_trade(study: Studied) -> Decision:
    robust, clean = (study.compared("softplus", "relu", steps) for steps in (PRIMARY, None))
    if robust is None or clean is None:
        return Decision(UNMEASURED)
    said = robust.verdict, clean.verdict
    return _decided([robust, clean], said == ("higher", "lower"), said[0] == "lower" or said[1] == "higher")


def _backward(study: Studied) -> Decision:
    changes = ("surrogate.attacker=True", "surrogate.optimizer=True")
    found = [
        one
        for change in (*changes, ", ".join(changes))
        if (one := study.compared("relu", "relu", change=change)) is not None
    ]
    if len(found) < 3 or len({(one.seeds, one.n) for one in found}) > 1:
        return Decision(UNMEASURED)
    attacker, optimizer, both = (fmean(one.values) for one in found)
    verdicts = [one.verdict for one in found]
    return _decided(found, set(verdicts) == {"higher"} and both > max(attacker, optimizer), "lower" in verdicts)


def _pgd_training(study: Studied) -> Decision:
    change = "method.steps=10"
    return _higher(study.compared("silu", "relu", change=change, base=change))


def _smoothrelu(study: Studied) -> Decision:
    return _higher(study.compared("smoothrelu", "relu"))


def _higher(one: Comparison | None) -> Decision:
    if one is None:
        return Decision(UNMEASURED)
    return _decided([one], one.verdict == "higher", one.verdict == "lower")


def _elu_and_celu(study: Studied) -> Decision:
    elu, celu = (study.compared(name, "elu") for name in ("elu:alpha=2", "celu:alpha=2"))
    if elu is None or celu is None:
        return Decision(UNMEASURED)
    return _decided(
        [elu, celu],
        elu.verdict == "lower" and celu.low > -POINT,
        elu.verdict == "higher" or celu.verdict == "lower",
    )


def _saturation(study: Studied) -> Decision:
    attacks = [study.attack("pgd", steps) for steps in (WEAKER, PRIMARY)]
    falls = []
    for activation in MAIN:
        outcomes = study.outcomes(activation, attacks)
        if not outcomes or min(outcomes[0].shape) < 2:
            return Decision(UNMEASURED)
        falls.append(_gap(f"{activation}, PGD-{WEAKER} minus PGD-{PRIMARY}", *outcomes))
    return _by_size(falls, POINT)


def _rapid(study: Studied) -> Decision:
    attacks = [study.attack(name) for name in ("rapid", "autoattack")]
    groups = [study.outcomes(activation, attacks) for activation in MAIN]
    if not all(groups):
        return Decision(UNMEASURED)
    rapid, autoattack = (
        pd.concat([group[place] for group in groups], axis=1, join="inner", keys=MAIN) for place in range(2)
    )
    gap = replace(_gap("rapid minus AutoAttack, all networks", rapid, autoattack), unit="network")
    return Decision(AGREES if gap.difference <= RAPID_MARGIN else DIFFERS, (gap,))


def _gap(what: str, ours: pd.DataFrame, theirs: pd.DataFrame) -> Evidence:
    """The mean difference of two attacks on the same images and networks."""
    gap = crossed_difference(*(np.asarray(one.sort_index(), bool).T for one in (ours, theirs)))
    return Evidence(what, gap.difference, gap.low, gap.high, gap.n, gap.seeds)


def _by_size(gaps: Sequence[Evidence], margin: float) -> Decision:
    """Agrees where all means lie below the margin, differs where none does."""
    below = [gap.difference < margin for gap in gaps]
    return Decision(AGREES if all(below) else UNDECIDED if any(below) else DIFFERS, tuple(gaps))


@dataclass(frozen=True)
class Criterion:
    """What agrees with a claim and what differs, in words and as a function of the study."""

    claim: str
    agrees: str
    differs: str
    decide: Callable[[Studied], Decision]


CRITERIA: Mapping[CriterionName, Criterion] = {
    "silu-more-robust": Criterion(
        "SiLU is more robust than ReLU",
        "PGD-50: higher",
        "PGD-50: lower, or the interval lies below +1 point",
        _silu_more_robust,
    ),
    "silu-clean": Criterion(
        "SiLU does not cost clean accuracy",
        "the interval lies above -1 point",
        "clean: lower, and the interval lies below -1 point",
        _silu_clean,
    ),
    "softplus-trade": Criterion(
        "softplus is more robust and less clean than ReLU",
        "PGD-50: higher, clean: lower",
        "PGD-50: lower, or clean: higher",
        _softplus_trade,
    ),
    "backward": Criterion(
        "a smooth derivative helps attacker, optimizer, and most both",
        "PGD-50: all three higher, and both together have the largest mean",
        "PGD-50: any of the three lower",
        _backward,
    ),
    "pgd-training": Criterion(
        "the gain of SiLU does not come from a weak attack in training",
        "PGD-50 after training with PGD-10: higher",
        "PGD-50 after training with PGD-10: lower",
        _pgd_training,
    ),
    "smoothrelu": Criterion("SmoothReLU is more robust than ReLU", "PGD-50: higher", "PGD-50: lower", _smoothrelu),
    "elu-and-celu": Criterion(
        "ELU loses with alpha 2, CELU does not",
        "PGD-50 against ELU: ELU with alpha 2 lower, and the interval of CELU with alpha 2 lies above -1 point",
        "PGD-50 against ELU: ELU with alpha 2 higher, or CELU with alpha 2 lower",
        _elu_and_celu,
    ),
    "saturation": Criterion(
        "more attack steps hardly lower robust accuracy",
        "PGD-10 minus PGD-50: below 1 point in the mean over seeds, for ReLU and for SiLU",
        "1 point or more for both",
        _saturation,
    ),
    "rapid": Criterion(
        "rapid comes close to AutoAttack",
        "at most 0.5 points above AutoAttack in the mean over the networks that met both",
        "more",
        _rapid,
    ),
}
