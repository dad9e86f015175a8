"""What the records of a run must be by themselves and beside its manifest."""

import pandas as pd

from satbench.results.schema import Manifest
from satbench.specs.attack import ids

STEP = ["attack", "norm", "eps"]
LOWEST = {
    "label": 0,
    "clean_prediction": -1,  # -1: never judged
    "prediction": -1,
    "correct_share": 0,
    "distance_linf": 0,
    "distance_l2": 0,
    "distance_l1": 0,
    "fell_at": -1,
    "forward": 0,
    "backward": 0,
}
HIGHEST = {"correct_share": 1}


def record_fault(manifest: Manifest, records: pd.DataFrame) -> str:
    """The first value that no run writes, as the rest of a sentence about the run; "" where there is none.

    A number is outside its range; an attack or threat is not one of the manifest's; an attack and threat has several
    rows for an image, or rows for more images than the manifest says.
    """
    for column, lowest in LOWEST.items():
        wrong = (records[column] < lowest) | (records[column] > HIGHEST.get(column, float("inf")))
        if wrong.any():
            return f"record {wrong.idxmax()} has {column} {records[column][wrong.idxmax()]}"
    known = set(ids(manifest.attacks))
    threats = {(threat.norm, threat.eps): str(threat) for threat in manifest.threats}
    for (attack, norm, eps), rows in records.groupby(STEP, sort=False, dropna=False):
        if attack not in known:
            return f"its manifest does not describe the attack {attack!r} of the records"
        if (norm, eps) not in threats:
            return f"its manifest does not name the threat {norm!r} {eps:g} of the records"
        if len(rows) > manifest.data.n:
            return f"{attack} at {threats[norm, eps]} has {len(rows)} records of {manifest.data.n} images"
        if rows["sample_id"].duplicated().any():
            twice = rows["sample_id"][rows["sample_id"].duplicated()].iloc[0]
            return f"{attack} at {threats[norm, eps]} has two records of {twice}"
    return ""
