"""One activation, or changed recipe, against its reference: the difference, its verdict, and both in words."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from satbench.reporting.names import counted
from satbench.reporting.rounding import inward, outward
from satbench.results.crossed import Outcomes, two_level_bootstrap

NOISE = "inside the noise"  # the interval reaches 0
OPEN = "not separable"  # the interval excludes 0, and the corrected p-value does not reach the level
UNDECIDED = (OPEN, NOISE)
LEVEL = 0.05
Role = Literal["primary", "secondary", "described"]
PRIMARY: Role = "primary"
SECONDARY: Role = "secondary"
DESCRIBED: Role = "described"  # not planned, so that no p-value is shown
RULE_NOTE = (
    f'A difference is "{NOISE}" when its 95% interval reaches 0, and "higher" or "lower" when the interval excludes 0 '
    f'and the p-value is below 0.05 after correction; between the two it is "{OPEN}". The correction is '
    "Holm's, for all activations, or all changes of the recipe, that are compared with the same "
    "reference in the same quantity. With several seeds both "
    "take images and seeds as random: the variance of the mean difference is that of the seeds' means over their "
    "number plus that of the images' means over theirs. With one seed they are Tango's score interval of paired rates "
    "and the exact McNemar test, over images alone. Intervals are not corrected for the number of comparisons. "
    "Differences are rounded towards 0, interval bounds outward."
)


@dataclass(frozen=True)
class Comparison:
    """One activation, or changed recipe, against the reference on the same `n` images; accuracies are fractions.

    `values` and `reference_values` hold an accuracy a seed. `difference` is the mean of the first minus that of the
    second, `low` and `high` bound it over images, and with several seeds over these too; `outcomes` are then
    those of both, (seeds, n), and `bootstrap` a check. `p_value` is adjusted by Holm over the `together` comparisons of
    the quantity. `images`, `threat` and the ids in `attacks` are those of the quantity; clean accuracy has no threat.
    `of` and `against` are the recipes and activations of the networks and of the reference. `role` is that in the plan
    of the study, None without one.
    """

    where: str
    quantity: str
    activation: str
    reference: str
    seeds: tuple[int | None, ...]
    n: int
    difference: float
    low: float
    high: float
    values: tuple[float, ...]
    reference_values: tuple[float, ...]
    p_value: float
    outcomes: tuple[Outcomes, Outcomes] | None = field(default=None, compare=False, repr=False)
    together: int = 1
    images: str = ""
    threat: tuple[str, float] | None = None
    attacks: tuple[str, ...] = ()
    of: tuple[str, str] = ("", "")
    against: tuple[str, str] = ("", "")
    role: Role | None = None

    @cached_property
    def bootstrap(self) -> tuple[float, float] | None:
        """The 95% interval of a two-level bootstrap; None with one seed, or where all seeds are equal."""
        return None if self.outcomes is None else two_level_bootstrap(*self.outcomes)

    @property
    def is_change(self) -> bool:
        """Whether the recipe was changed, and not the activation."""
        return self.of[0] != self.against[0]

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, `not separable` or `inside the noise`; `described` where it was not planned."""
        if self.role == DESCRIBED:
            return DESCRIBED
        if self.low <= 0 <= self.high:
            return NOISE
        if self.p_value >= LEVEL:
            return OPEN
        return "higher" if self.difference > 0 else "lower"

    def sentence(self) -> str:
        """What was compared, and `words`."""
        return f"{self.where}: {self.quantity} of {self.words()}"

    def words(self) -> str:
        """The verdict, with difference, interval, n, seeds and adjusted p-value."""
        points = f"{inward(self.difference)} points, 95% interval {outward(self.low, self.high)}"
        adjusted = f" after Holm over {self.together}" if self.together > 1 else ""
        counts = (
            f"n = {counted(self.n, 'image')}, {counted(len(self.seeds), 'seed')} each; p = {self.p_value:.2g}{adjusted}"
        )
        is_open = self.verdict in UNDECIDED or len(self.seeds) > 1
        alone = "" if is_open else " One seed cannot show what another seed would give."
        return f"{self.activation} against {self.reference} is {self.verdict}: {points} ({counts}).{alone}"
