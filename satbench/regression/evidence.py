"""What the outputs of the gate show beside the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from satbench.regression.baseline import Baseline
from satbench.regression.compare import Expected
from satbench.regression.figures import Place
from satbench.regression.verdict import SuiteVerdict
from satbench.results.schema import Manifest

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Flipped:
    """An image on which the outcome is another one than approved; pictures have the shape (H, W, C).

    label: name of its class. was_right: whether the baseline gets it right. now: name of the predicted class, on the
    attacked image where the figure is under attack. attacked: the example that is misclassified now, None where there
    is none.
    """

    sample: str
    label: str
    was_right: bool
    now: str
    image: Pixels
    attacked: Pixels | None


@dataclass(frozen=True)
class Evidence:
    """What was measured of one network, for a page.

    manifest: of its run. places: of the figures under attack, by name. flipped: some of the images that flipped, by
    the name of the figure.
    """

    expected: Expected
    manifest: Manifest
    places: Mapping[str, Place]
    flipped: Mapping[str, Sequence[Flipped]]


@dataclass(frozen=True)
class Checked:
    """A verdict and how to come to it again, from which every output is written.

    repeat, approve: command lines. evidence: in the order of the networks; empty where no page is asked for.
    """

    verdict: SuiteVerdict
    baseline: Baseline | None
    repeat: str
    approve: str
    evidence: Sequence[Evidence] = ()
