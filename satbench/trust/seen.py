"""What a check says: its outcome, its sentence, and rates written with their intervals."""

from typing import NamedTuple

from satbench.results.metrics import wilson
from satbench.results.schema import Verdict

# Images below which a check of rates says nothing: 0 of 16 excludes a share of a fifth at 95%, 0 of 4 only one of half.
FEWEST = 16


class Seen(NamedTuple):
    """The part of a finding that its check decides."""

    outcome: Verdict
    sentence: str
    next_attack: str | None = None


def rate(successes: int, n: int) -> str:
    """`12 of 64 (18.8% [11.1, 30.0])`, the brackets a 95% Wilson interval."""
    low, high = wilson(successes, n)
    return f"{successes} of {n} ({100 * successes / n:.1f}% [{100 * low:.1f}, {100 * high:.1f}])"


def surely_above(successes: int, n: int, share: float) -> bool:
    """Whether the 95% interval of the rate lies above `share`."""
    return n > 0 and wilson(successes, n)[0] > share


def surely_below(successes: int, n: int, share: float) -> bool:
    """Whether the 95% interval of the rate lies below `share`."""
    return n > 0 and wilson(successes, n)[1] < share
