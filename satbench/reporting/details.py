"""What a card shows of a network beside the rows of a leaderboard. Whatever is not known is left out."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from satbench.reporting.examples import Example

Outcomes = tuple[bool | None, ...]  # whether each image stands, in the order of `Detail.images`; None: not attacked


@dataclass(frozen=True)
class Curve:
    """A figure of a training by epoch."""

    figure: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class ClassCount:
    """One class: its images, and how many of them are correct without attack and robust."""

    name: str
    n: int
    clean: int
    robust: int


@dataclass(frozen=True)
class Detail:
    """More of one network on one set of images.

    network: digest of its weights. images: a digest of the sample ids in the order of `outcomes`, by which two
    networks are known to have the same. outcomes: by threat (`Linf 8/255`) and id of the attack, whether each image
    stands. classes_under: the threat and attack of `classes`. evidence: sentences of the trust battery. provenance:
    names and values. downloads: labels and addresses.
    """

    network: str
    dataset: str
    split: str
    loader: str = ""
    images: str = ""
    outcomes: Mapping[tuple[str, str], Outcomes] | None = None
    classes: tuple[ClassCount, ...] = ()
    classes_under: str = ""
    evidence: tuple[str, ...] = ()
    training: tuple[Curve, ...] = ()
    examples: tuple[Example, ...] = ()
    provenance: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    downloads: tuple[tuple[str, str], ...] = ()

    def standing(self, threat: str, attacks: Sequence[str]) -> Outcomes | None:
        """Whether each image stands against all of these attacks, by their ids; None where one is not known."""
        known = [(self.outcomes or {}).get((threat, attack)) for attack in attacks]
        found = [one for one in known if one is not None]
        if not found or len(found) < len(known):
            return None
        return tuple(None if None in image else all(image) for image in zip(*found, strict=True))


def packed(outcomes: Outcomes) -> dict[str, str]:
    """Outcomes as two rows of bits in base64: which images stand and which were attacked.

    The first image is in the highest bit of the first byte.
    """
    return {"stands": _bits([one is True for one in outcomes]), "met": _bits([one is not None for one in outcomes])}


def _bits(values: Sequence[bool]) -> str:
    return base64.b64encode(np.packbits(np.array(values, dtype=bool)).tobytes()).decode("ascii")
