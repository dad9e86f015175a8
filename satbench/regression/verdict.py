"""What the gate found: a value from which tables, JSON and pages are written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from satbench.reporting.rounding import down, inward, outward
from satbench.results.metrics import wilson
from satbench.results.schema import Verdict as TrustVerdict
from satbench.results.sequential import Interval

State = Literal["changed", "unchanged", "open"]
Basis = Literal["bit for bit", "paired", "published"]
MOST_NAMED = 5  # flipped images in a sentence
TRUST = "trust"
UNSEEN = "not measured"  # the trust in a network, where another one had changed the suite before


@dataclass(frozen=True)
class FigureVerdict:
    """One figure beside what was approved. Rates, sizes and differences are fractions.

    measured: the network and the evaluation. basis: how it was compared. state: "open" where the images did not settle
    it. n: images that were compared, the first of `images`. before, now: how many of them are right; where only a rate
    is published, `before` is that rate times n. lost, gained: images that only the baseline, and only this measurement
    gets right. p_value: adjusted for the number of figures; None where bits are compared. interval: confidence sequence
    of the difference, not adjusted; None for a published rate. tolerance: the move that is accepted. drop: the size
    beyond it that must be seen. is_excluded: whether a move of both together is.
    """

    measured: str
    figure: str
    basis: Basis
    state: State
    n: int
    images: int
    before: float
    now: int
    lost: tuple[str, ...]
    gained: tuple[str, ...]
    p_value: float | None
    interval: Interval | None
    tolerance: float
    drop: float
    is_excluded: bool

    @property
    def rose(self) -> bool:
        """Whether it changed for the better, which only a network that can be trusted may."""
        return self.state == "changed" and self.now > self.before

    @property
    def sentence(self) -> str:
        """Both values, n, what flipped, and why it is called changed or not."""
        rate = f"{down(self.now / self.n)}% {outward(*wilson(self.now, self.n))}"
        values = f"{down(self.before / self.n)}% before, {rate} now, on {self.n} of {self.images} images"
        parts = [f"{self.measured}: {self.figure}: {values}"]
        for words, flipped in (("lost", self.lost), ("gained", self.gained)):
            if flipped:
                more = ", ..." if len(flipped) > MOST_NAMED else ""
                parts.append(f"{words} {len(flipped)} ({', '.join(flipped[:MOST_NAMED])}{more})")
        return "; ".join([*parts, self.reason])

    @property
    def reason(self) -> str:
        """What the state rests on."""
        if self.basis == "bit for bit":
            if self.state == "changed":
                return "equal numerics: no image may flip"
            said = "every image as before" if self.n == self.images else "every image so far as before"
            return f"{said} (equal numerics){self._excluded}"
        accepted = f" beyond the accepted {inward(self.tolerance)} points" if self.tolerance else ""
        said = f"p = {self.p_value:.2g} of no move{accepted}, after Holm over all figures"
        if self.interval is not None:
            gap = (self.now - self.before) / self.n
            said += f"; {inward(gap)} points {outward(self.interval.low, self.interval.high)}"
        return said + ("" if self.state == "changed" else self._excluded)

    @property
    def _excluded(self) -> str:
        size = f"{down(self.tolerance + self.drop)} points"
        if self.is_excluded:
            return f"; a drop of {size} is excluded"
        return "" if self.basis == "bit for bit" else f"; a drop of {size} is not excluded"


@dataclass(frozen=True)
class NetworkVerdict:
    """One network in one evaluation: its figures, and whether its trust fell.

    digest_before, digest_now: of the weights; "" where there is no baseline. trust_reasons: what made the trust verdict
    of now. passes: forward and backward passes of images that were spent, trust included.
    """

    measured: str
    n: int
    images: int
    digest_before: str
    digest_now: str
    trust_before: TrustVerdict | None
    trust_now: TrustVerdict | None
    trust_reasons: tuple[str, ...]
    trust_state: State
    figures: tuple[FigureVerdict, ...]
    passes: int

    @property
    def state(self) -> State:
        """The worst of figures and trust."""
        return worst([self.trust_state, *(one.state for one in self.figures)])

    @property
    def trust_sentence(self) -> str:
        """The verdict on the network before and now, and why."""
        said = f"{self.measured}: trust {self.trust_before or 'not asked for'} before, {self.trust_now or UNSEEN} now"
        reasons = f": {' '.join(self.trust_reasons)}" if self.trust_reasons else ""
        if self.trust_state == "changed":
            return f"{said}; trust fell, and its figures cannot be believed, also where they rose{reasons}"
        return said + reasons


@dataclass(frozen=True)
class SuiteVerdict:
    """What the gate found on a suite: `study` is its file, `approved` the reason of its baseline.

    level: chance of any false alarm; miss: chance to clear a figure in spite of a drop of the stated size.
    """

    study: str
    approved: str
    level: float
    miss: float
    networks: tuple[NetworkVerdict, ...]

    @property
    def state(self) -> State:
        """ "changed" where any figure or trust verdict has; "open" only where the images have not settled it yet."""
        return worst([one.state for one in self.networks])


@dataclass(frozen=True)
class Case:
    """One thing that the gate judges: a figure of a network, or the trust in it."""

    measured: str
    name: str
    state: State
    sentence: str


def cases(verdict: SuiteVerdict) -> list[Case]:
    """The trust in each network, where the suite asks for it, and then its figures."""
    found = []
    for one in verdict.networks:
        if one.trust_before is not None or one.trust_now is not None:
            is_unseen = one.trust_now is None
            found.append(Case(one.measured, TRUST, "open" if is_unseen else one.trust_state, one.trust_sentence))
        found += [Case(one.measured, each.figure, each.state, each.sentence) for each in one.figures]
    return found


def worst(states: Sequence[State]) -> State:
    """ "changed" before "open" before "unchanged"."""
    if "changed" in states:
        return "changed"
    return "open" if "open" in states else "unchanged"


def as_data(verdict: SuiteVerdict) -> dict[str, Any]:
    """The verdict for JSON, with its states and sentences."""
    said = asdict(verdict)
    for network, written in zip(verdict.networks, said["networks"], strict=True):
        for figure, line in zip(network.figures, written["figures"], strict=True):
            line["sentence"] = figure.sentence
        written |= {"state": network.state, "trust_sentence": network.trust_sentence}
    return said | {"state": verdict.state}
