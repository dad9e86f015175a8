"""From the parts of an evaluation to its records, times, examples and notes."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from satbench.attacks import Attack
from satbench.attacks.base import info_of
from satbench.evaluation.executor import info_as_run
from satbench.evaluation.parts import KEY
from satbench.evaluation.plan import Plan, Stream
from satbench.evaluation.worker import DISTANCES
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import RECORDS, TIMING
from satbench.specs.attack import AttackInfo

OUTCOME = ["prediction", "margin", "correct_share", *DISTANCES]  # of the example that represents an image
PLACE = ["example_file", "example_row"]
COUNTS = ["label", "prediction", "fell_at", "forward", "backward", "example_row"]


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
    tables: dict[tuple[int, int], pd.DataFrame] = {}
    timing: list[tuple[object, ...]] = []
    found = [part for parts in plan.clean.parts for part in parts]
    for (i, j), streams in plan.steps.items():
        attack, threat = attacks[i], threats[j]
        table = clean.drop(columns="clean_share")
        table[["attack", "norm", "eps"]] = info_of(attack).id, threat.norm, threat.eps
        smaller = [one for (other, k), one in tables.items() if other == i and threats[k].norm == threat.norm]
        if smaller:
            _carry(table, smaller[-1])
        for stream in streams:
            stage = stream.step.stage_id if len(streams) > 1 else ""
            for part in (part for parts in stream.parts for part in parts):
                passes = (int(part.columns[column].sum()) for column in ("forward", "backward"))
                timing.append((info_of(attack).id, stage, threat.norm, threat.eps, len(part), *passes, part.seconds))
                found.append(part)
            _enter(table, clean["clean_share"], stream, stage)
        tables[i, j] = table
    records = pd.concat([tables[key] for key in sorted(tables)], ignore_index=True)
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


def _clean_table(plan: Plan) -> pd.DataFrame:
    """A row for every image: what the network says of it as it is, and its share of correct passes, `clean_share`."""
    table = _rows(plan.clean).drop(columns=PLACE)
    table["clean_prediction"], table["clean_share"] = table["prediction"], table["correct_share"]
    table["stage"], table["example_file"], table["example_row"] = "", "", -1
    return table


def _rows(stream: Stream) -> pd.DataFrame:
    """What the parts of a step hold, in the order of the images; the index are their positions in the run."""
    given = [row for batch in stream.batches for row in batch.rows]
    parts = [pd.DataFrame(dict(part.columns)) for parts in stream.parts for part in parts]
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True).astype(dict.fromkeys(COUNTS, "int64"))
    if any(len(parts) > 1 for parts in stream.parts):
        table = table.set_index(KEY, drop=False).loc[[stream.keys[row] for row in given]]
    return table.set_axis(given)


def _carry(table: pd.DataFrame, smaller: pd.DataFrame) -> None:
    """Break what a smaller eps has broken, by the same example."""
    carried = (smaller["broken"] & ~table["broken"]).to_numpy()
    same = ["broken", "fell_at", "stage", *OUTCOME, *PLACE]
    table.loc[carried, same] = smaller.loc[carried, same]


def _enter(table: pd.DataFrame, clean_share: "pd.Series[float]", stream: Stream, stage: str) -> None:
    """Add what one step did.

    An image that stands is represented by the example of the smallest share of correct passes, of these by that of the
    largest margin. An example that violates the threat has the share of the image as it is.
    """
    outcomes = _rows(stream)
    if not len(outcomes):
        return
    rows = outcomes.index.to_numpy()
    outcomes["correct_share"] = outcomes["correct_share"].fillna(clean_share.loc[rows])
    broken = outcomes["broken"].astype(bool)
    new = rows[broken]
    table.loc[new, "fell_at"] = table.loc[new, "forward"] + outcomes.loc[new, "fell_at"]
    table.loc[rows, "forward"] += outcomes["forward"]
    table.loc[rows, "backward"] += outcomes["backward"]
    table.loc[rows, "bad_gradient"] |= outcomes["bad_gradient"].astype(bool)
    before, share = table.loc[rows, "margin"], table.loc[rows, "correct_share"]
    larger = (outcomes["correct_share"] == share) & (outcomes["margin"] > before)
    strongest = rows[broken | before.isna() | (outcomes["correct_share"] < share) | larger]
    table.loc[strongest, [*OUTCOME, "violation"]] = outcomes.loc[strongest, [*OUTCOME, "violation"]]
    table.loc[new, PLACE] = outcomes.loc[new, PLACE]
    table.loc[new, "broken"] = True
    table.loc[new, "stage"] = stage


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
