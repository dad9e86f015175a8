"""Machines whose arithmetic differs work on one run.

The names of a run's parts hold the network's answers bit for bit, so that a changed network computes anew. Another
processor rounds differently. The folder says which machine began the run. Another one joins if its network answers the
same up to rounding.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from satbench.core.files import to_json, write_text
from satbench.core.strict_json import read_json
from satbench.evaluation.probe import Answers
from satbench.results.store import PARTS

BEGUN = "begun.json"
LOGITS = 1e-3  # of the largest logit: what two machines may differ by on the first images
SLOPES = 1e-2  # of the largest gradient's length likewise


@dataclass(frozen=True)
class Begun:
    """One machine's view of a run's networks.

    `fingerprint` is of their answers, bit for bit, and of sources; `code` of the sources alone; `numerics` is the
    machine's. `logits` and `slopes`, the lengths of gradients, are the answers.
    """

    fingerprint: str
    code: str
    numerics: str
    logits: list[float]
    slopes: list[float]

    @classmethod
    def here(cls, fingerprint: str, code: str, numerics: str, answered: list[Answers]) -> "Begun":
        """What this machine sees."""
        logits = [value for one in answered for value in one.logits]
        return cls(fingerprint, code, numerics, logits, [value for one in answered for value in one.slopes])

    def joins(self, other: "Begun") -> bool:
        """Whether this is the same run on a machine of other arithmetic."""
        return (
            self.code == other.code
            and self.numerics != other.numerics
            and _close(self.logits, other.logits, LOGITS)
            and _close(self.slopes, other.slopes, SLOPES)
        )


def fingerprint_in(out: Path, here: Begun) -> str:
    """The fingerprint under which this machine works on the run in `out`: that of the one that began it, or its own."""
    try:
        began = Begun(**read_json(out / PARTS / BEGUN))
    except (OSError, ValueError, TypeError):
        return here.fingerprint
    return began.fingerprint if here.joins(began) else here.fingerprint


def begin(out: Path, here: Begun, fingerprint: str) -> None:
    """Say in `out` that this machine began the run, unless it works under another one's `fingerprint`."""
    if fingerprint == here.fingerprint:
        write_text(out / PARTS / BEGUN, to_json(vars(here)))


def _close(a: list[float], b: list[float], share: float) -> bool:
    if len(a) != len(b):
        return False
    return not a or bool(np.abs(np.subtract(a, b)).max() <= share * np.abs(a).max())
