"""What the manifest, records, times and finished batches of a run must agree on, checked without its network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import get_args

import numpy as np
import pandas as pd

from satbench.attacks import Attack
from satbench.attacks.base import info_of, unit_of
from satbench.data import Images
from satbench.evaluation.assemble import OUTCOME
from satbench.evaluation.cutting import cut
from satbench.evaluation.parts import work_name
from satbench.evaluation.resume import identity
from satbench.evaluation.worker import DISTANCES
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import Manifest, Verdict
from satbench.results.store import PARTS, Run, read_timing
from satbench.specs.attack import ids

THREAT = ["attack", "norm", "eps"]
Stages = Mapping[str, tuple[Attack, ...]]  # of each attack that is known, by its name in the records

# a sentence, and which records it is a fault of
RULES: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    "wrong without an attack, but recorded as standing": lambda rows: _wrong(rows) & ~rows["broken"],
    "wrong without an attack, but with passes, a distance, a stage or a violation": lambda rows: (
        _wrong(rows)
        & (
            (rows[["fell_at", "forward", "backward", *DISTANCES]] != 0).any(axis=1)
            | (rows["prediction"] != rows["clean_prediction"])
            | (rows["stage"] != "")
            | (rows["violation"] != "")
        )
    ),
    "broken, but the recorded prediction is the label": lambda rows: (
        rows["broken"] & (rows["prediction"] == rows["label"])
    ),
    "standing, but the recorded prediction is another class": lambda rows: (
        ~rows["broken"] & ~rows["prediction"].isin([-1]) & (rows["prediction"] != rows["label"])
    ),
    "broken by an example that is recorded as a violation": lambda rows: rows["broken"] & (rows["violation"] != ""),
    "broken without a pass at which it fell, or the other way round": lambda rows: (
        rows["broken"] != (rows["fell_at"] >= 0)
    ),
    "broken after the last pass": lambda rows: (rows["forward"] > 0) & (rows["fell_at"] > rows["forward"]),
}


def layout_faults(run: Run, images: Images) -> list[str]:
    """Where the records are not one row for each attack, threat and image of the manifest, in this order."""
    said = run.manifest
    columns = [*THREAT, "sample_id", "sample_hash", "label"]
    rows = [
        (attack, threat.norm, threat.eps, *image)
        for attack in ids(said.attacks)
        for threat in said.threats
        for image in zip(images.ids, images.hashes, images.y.tolist(), strict=True)
    ]
    if not rows or len(rows) != len(run.records):
        return [
            f"{len(run.records)} records, but {len(said.attacks)} attacks, {len(said.threats)} threats and "
            f"{len(images)} images"
        ]
    faults = []
    for column, wanted in zip(columns, zip(*rows, strict=True), strict=True):
        found = run.records[column].tolist()
        wrong = next((i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]), None)
        if wrong is not None:
            faults.append(f"record {wrong}: {column} is {found[wrong]}, expected {wanted[wrong]}")
    return faults


def record_faults(records: pd.DataFrame) -> list[str]:
    """Records that contradict themselves, or the records of the same attack at a smaller radius."""
    faults = [f"{row}: {fault}" for fault, rule in RULES.items() for row in names_of(records[rule(records)])]
    for _, tables in records.groupby(["attack", "norm"], sort=False):
        radii = [table for _, table in tables.groupby("eps")]
        for smaller, larger in pairwise(radii):
            carried = (smaller["broken"] & ~_wrong(smaller)).to_numpy()
            before, after = smaller[carried], larger[carried]
            same = (before[OUTCOME].to_numpy() == after[OUTCOME].to_numpy()).all(axis=1) & after["broken"].to_numpy()
            same &= (before[["fell_at", "stage"]].to_numpy() == after[["fell_at", "stage"]].to_numpy()).all(axis=1)
            same &= (after[["forward", "backward"]] == 0).all(axis=1).to_numpy()
            faults += [f"{row}: not as a smaller radius broke it" for row in names_of(after[~same])]
    return faults


def attacked(records: pd.DataFrame) -> Iterator[tuple[str, ThreatModel, pd.DataFrame]]:
    """The records of images that each attack was given, by attack and threat; their index is the place in the run.

    Images that are wrong without an attack, or broken at a smaller radius, are not among them.
    """
    for (attack, norm), tables in records.groupby(["attack", "norm"], sort=False):
        standing: np.ndarray | None = None
        for eps, rows in tables.groupby("eps"):
            table = rows.reset_index(drop=True)
            given = ~_wrong(table).to_numpy() if standing is None else standing
            yield attack, ThreatModel(norm, eps), table[given]
            standing = ~table["broken"].to_numpy()


def batches(
    given: pd.DataFrame, stages: Sequence[Attack], batch_size: int, images: int
) -> Iterator[tuple[Attack, int, list[pd.DataFrame]]]:
    """How a run packs images for each stage of an attack: the stage, its position and the records of each batch.

    `given` are the records of all images that the attack was given, of a run of `images`.
    """
    for position, stage in enumerate(stages):
        rows = given[~given["stage"].isin([info_of(one).id for one in stages[:position]])] if len(stages) > 1 else given
        packed = cut(rows.index.tolist(), images, unit_of(stage) or batch_size)
        yield stage, position, [rows.loc[list(batch)] for batch in packed]


def timing_faults(run: Run, stages: Stages) -> list[str]:
    """Where the table of times holds other passes or batches than the records."""
    timing, faults = read_timing(run), []
    for key, rows in run.records.groupby(THREAT, sort=False):
        times = timing[(timing[THREAT] == list(key)).all(axis=1)]
        for column in ("forward", "backward"):
            if times[column].sum() != rows[column].sum():
                faults.append(f"{key[0]} {key[1]} {key[2]:g}: {column} passes in the table of times differ")
    for name, threat, given in attacked(run.records):
        if name not in stages:
            continue
        times = timing[(timing[THREAT] == [name, threat.norm, threat.eps]).all(axis=1)]
        several = len(stages[name]) > 1
        unknown = set(given.loc[given["broken"], "stage"]) - {info_of(one).id for one in stages[name]}
        if unknown != (set() if several else unknown & {""}):
            faults.append(f"{name} {threat}: broken at {min(unknown)!r}, which is none of its stages")
        for stage, _, parts in batches(given, stages[name], run.manifest.batch_size, run.manifest.data.n):
            done = times.loc[times["stage"] == (info_of(stage).id if several else ""), "images"].tolist()
            ends = list(accumulate(len(part) for part in parts))
            if not set(ends) <= set(accumulate(done)) or sum(done) != sum(map(len, parts)):
                faults.append(f"{name} {threat}: the batches in the table of times are not those of the records")
    return faults


def work_of(said: Manifest, stage: Attack, position: int, threat: ThreatModel) -> str:
    """The folder under `parts` of the finished batches of one stage of a run."""
    device = said.device.partition(":")[0]
    return work_name(identity(said), info_of(stage).id, position, threat, said.seed, said.search.identity, device)


def parts_faults(run: Run, stages: Stages) -> list[str]:
    """Attacks whose finished batches are not where seed, search, versions and the rest of the manifest put them."""
    if not (run.path / PARTS).is_dir():
        return []
    return [
        f"{name} {threat}: no finished batch is of this network, seed, search, device, revision and these versions"
        for name, threat, given in attacked(run.records)
        if name in stages and len(given)
        if not (run.path / PARTS / work_of(run.manifest, stages[name][0], 0, threat)).is_dir()
    ]


def trust_faults(said: Manifest) -> list[str]:
    """A trust verdict that is not the worst outcome of its findings."""
    if said.trust is None:
        return []
    worst = max((finding.outcome for finding in said.trust.findings), key=get_args(Verdict).index)
    return [] if worst == said.trust.verdict else [f"trust says {said.trust.verdict}, but a finding says {worst}"]


def names_of(rows: pd.DataFrame) -> Sequence[str]:
    """Each record as a fault names it."""
    return [f"{row.attack} {row.norm} {row.eps:g}, {row.sample_id}" for row in rows.itertuples()]


def _wrong(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows["clean_prediction"] != rows["label"]
