"""The figures of a run, image by image in the order of the data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from satbench.core.eps import Threat
from satbench.regression.baseline import Right
from satbench.reporting.names import short_names, threat_name
from satbench.results.metrics import WORST
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo

CLEAN = "clean"


@dataclass(frozen=True)
class Place:
    """What a figure is measured under: an attack, by its position, and a threat.

    position: among the attacks of an evaluation; -1 for the worst case over all of them.
    """

    position: int
    attack: str
    threat: Threat

    @property
    def figure(self) -> str:
        """The name of the figure."""
        return f"{self.attack} at {threat_name(self.threat.norm, self.threat.eps)}"


def places(attacks: Sequence[AttackInfo], threats: Sequence[Threat]) -> list[Place]:
    """The places of all figures but the clean one: each attack, then the worst case of several, at each threat."""
    shorts = short_names(attacks)
    words = dict(enumerate(shorts[one.id] for one in attacks)) | ({-1: WORST} if len(attacks) > 1 else {})
    return [Place(position, word, threat) for threat in threats for position, word in words.items()]


def figure_names(attacks: Sequence[AttackInfo], threats: Sequence[Threat]) -> dict[tuple[int, int], str]:
    """What each attack, by position, at each threat is called; position -1 is the worst case over several attacks."""
    found = places(attacks, threats)
    return {(one.position, threats.index(one.threat)): one.figure for one in found}


def figures_of(run: Run, attacks: Sequence[AttackInfo]) -> Mapping[str, Right]:
    """Whether each image is classified correctly, as it is and under each attack; (n,) by the name of the figure.

    attacks: those that were asked for, in the order of the manifest, which names what really ran.
    """
    records, threats = run.records, run.manifest.threats
    order = records["sample_id"].drop_duplicates()
    once = records.drop_duplicates("sample_id").set_index("sample_id").loc[order]
    figures = {CLEAN: (once["clean_prediction"] == once["label"]).to_numpy()}
    names = figure_names(attacks, threats)
    for j, threat in enumerate(threats):
        here = records[(records["norm"] == threat.norm) & (records["eps"] == threat.eps)]
        stands = []
        for i, ran in enumerate(run.manifest.attacks):
            broken = here[here["attack"] == ran.id].set_index("sample_id")["broken"]
            stands.append(~broken.loc[order].to_numpy(bool))
            figures[names[i, j]] = stands[-1]
        if len(stands) > 1:
            figures[names[-1, j]] = np.logical_and.reduce(stands)
    return figures
