"""The figures of a run, image by image in the order of the data set."""

from collections.abc import Mapping, Sequence

import numpy as np

from satbench.core.eps import Threat
from satbench.regression.baseline import Right
from satbench.reporting.names import short_names, threat_name
from satbench.results.metrics import WORST
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo

CLEAN = "clean"


def figure_names(attacks: Sequence[AttackInfo], threats: Sequence[Threat]) -> dict[tuple[int, int], str]:
    """What each attack, by position, at each threat is called; position -1 is the worst case over several attacks."""
    shorts = short_names(attacks)
    words = dict(enumerate(shorts[one.id] for one in attacks))
    words |= {-1: WORST} if len(attacks) > 1 else {}
    return {
        (i, j): f"{word} at {threat_name(threat.norm, threat.eps)}"
        for j, threat in enumerate(threats)
        for i, word in words.items()
    }


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
