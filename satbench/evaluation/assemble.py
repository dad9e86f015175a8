"""From the parts of an evaluation to its records, times, examples and notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from satbench.attacks import Attack
from satbench.attacks.base import info_of
from satbench.evaluation.executor import info_as_run
from satbench.evaluation.parts import OUTCOMES
from satbench.evaluation.plan import Plan, Stream
from satbench.evaluation.worker import DISTANCES
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import RECORDS, TIMING
from satbench.specs.attack import AttackInfo

OUTCOME = ["prediction", "margin", "correct_share", *DISTANCES]  # of the example that represents an image
PLACE = ["example_file", "example_row"]
Table = dict[str, NDArray[Any]]  # columns


@dataclass(frozen=True)
class Measured:
    """`records` with the columns of `results.schema.RECORDS`, `timing` with those of `TIMING`.

    `attacks` describes those that the records name, with the stages that were run. `examples` says in which file and
    row the broken example of each record lies; `notes` are what the attacks said. `numerics` are the fingerprints of
    the machines that computed parts.
    """

    records: pd.DataFrame
    timing: pd.DataFrame
    examples: pd.DataFrame
    attacks: list[AttackInfo]
    notes: list[str]
    numerics: list[str]


def assemble(
    plan: Plan, attacks: Sequence[Attack], threats: Sequence[ThreatModel], draws: int, random_network: bool
) -> Measured:
    """One record per attack, threat and sample, in that order, from a plan that has ended.

    A sample that is misclassified as it is counts as broken; one that a smaller eps of the same attack and norm has
    broken is broken by that example, at no passes.
    """
    clean = _clean_table(plan)
    tables: dict[tuple[int, int], Table] = {}
    timing: list[tuple[object, ...]] = []
    found = [part for parts in plan.clean.parts for part in parts]
    for (i, j), streams in plan.steps.items():
        attack, threat = attacks[i], threats[j]
        table = {name: column.copy() for name, column in clean.items()}
        smaller = [one for (other, k), one in tables.items() if other == i and threats[k].norm == threat.norm]
        if smaller:
            _carry(table, smaller[-1])
        for stream in streams:
            stage = stream.step.stage_id if len(streams) > 1 else ""
            for part in (part for parts in stream.parts for part in parts):
                passes = (int(part.columns[column].sum()) for column in ("forward", "backward"))
                timing.append((info_of(attack).id, stage, threat.norm, threat.eps, len(part), *passes, part.seconds))
                found.append(part)
            _enter(table, clean["correct_share"], stream, stage)
        tables[i, j] = table
    frames = [
        pd.DataFrame(table).assign(attack=info_of(attacks[i]).id, norm=threats[j].norm, eps=threats[j].eps)
        for (i, j), table in sorted(tables.items(), key=lambda one: one[0])
    ]
    records = pd.concat(frames, ignore_index=True)
    notes = [note for part in found for note in part.notes] + _remarks(records, draws, random_network)
    kept = records[records["example_file"] != ""][["attack", "norm", "eps", "sample_id", *PLACE]]
    infos = [
        info_as_run(attack, [stream.step.stage for stream in plan.steps[i, 0] if stream.step.stage is not None])
        for i, attack in enumerate(attacks)
    ]
    return Measured(
        records[RECORDS.names],
        pd.DataFrame(timing, columns=TIMING.names),
        kept.reset_index(drop=True),
        infos,
        list(dict.fromkeys(notes)),
        sorted({part.numerics for part in found} - {""}),
    )


def _clean_table(plan: Plan) -> Table:
    """A column for each property of an image, (N,): what the network says of the images as they are."""
    _, table = _outcomes(plan.clean)
    n = len(table["label"])
    nowhere = {"stage": np.full(n, "", object), "example_file": np.full(n, "", object), "example_row": np.full(n, -1)}
    return table | {"clean_prediction": table["prediction"]} | nowhere


def _outcomes(stream: Stream) -> tuple[NDArray[Any], Table]:
    """Which images came to a step, int64 (M,), and what its parts hold of them, in their order."""
    rows = [row for batch in stream.batches for row in batch.rows]
    parts = [part for parts in stream.parts for part in parts]
    if not parts:
        return np.array([], int), {}
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in OUTCOMES.names}
    place = {key: position for position, key in enumerate(key for part in parts for key in part.keys)}
    order = [place[stream.keys[row]] for row in rows]
    wide = {name: np.int64 if column.dtype.kind == "i" else column.dtype for name, column in columns.items()}
    return np.array(rows), {name: column[order].astype(wide[name]) for name, column in columns.items()}


def _carry(table: Table, smaller: Table) -> None:
    """Break what a smaller eps has broken, by the same example."""
    carried = smaller["broken"] & ~table["broken"]
    for name in ("broken", "fell_at", "stage", *OUTCOME, *PLACE):
        table[name][carried] = smaller[name][carried]


def _enter(table: Table, clean_share: NDArray[Any], stream: Stream, stage: str) -> None:
    """Add what one step did.

    An image that stands is represented by the example of the smallest share of correct passes, of these by that of the
    largest margin. An example that violates the threat has the share of the image as it is.
    """
    rows, seen = _outcomes(stream)
    if not len(rows):
        return
    seen["correct_share"] = np.where(np.isnan(seen["correct_share"]), clean_share[rows], seen["correct_share"])
    broken = seen["broken"]
    new = rows[broken]
    table["fell_at"][new] = table["forward"][new] + seen["fell_at"][broken]
    for name in ("forward", "backward", "bad_gradient"):
        table[name][rows] += seen[name]
    before, share = table["margin"][rows], table["correct_share"][rows]
    larger = (seen["correct_share"] == share) & (seen["margin"] > before)
    strongest = broken | np.isnan(before) | (seen["correct_share"] < share) | larger
    for name in (*OUTCOME, "violation"):
        table[name][rows[strongest]] = seen[name][strongest]
    for name in PLACE:
        table[name][new] = seen[name][broken]
    table["broken"][new] = True
    table["stage"][new] = stage


def _remarks(records: pd.DataFrame, draws: int, random_network: bool) -> list[str]:
    """What a reader of the records must know about the network."""
    said = []
    if random_network:
        said.append(
            f"the network draws random numbers: the majority of {draws} passes decides, and pgd and rapid take all "
            "their steps"
        )
    bad, n = records.loc[records["bad_gradient"], "sample_id"].nunique(), records["sample_id"].nunique()
    if bad:
        said.append(f"the gradient of {bad} of {n} images had entries that are NaN or infinite, which lead nowhere")
    return said
