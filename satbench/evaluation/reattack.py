"""Runs the attacks of a finished run again on a random sample of its images and compares what comes out."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import torch
from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import unit_of
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation.compute import measure
from satbench.evaluation.consistency import Stages, attacked, batches, work_of
from satbench.evaluation.executor import Search
from satbench.evaluation.parts import KEY, Work, batch_name
from satbench.evaluation.resume import identity
from satbench.evaluation.stored import SLACK
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import mcnemar
from satbench.results.schema import RECORDS, Manifest
from satbench.results.store import Run

LEVEL = 1e-3  # chance that an honest run on another processor is accused by any of the sign tests
FLIPPED = 0.02  # of the images; on other instruction sets, under 1% of the records of honest runs differed at all
COMPARED = ("broken", "fell_at", "forward", "backward", "margin")


@dataclass(frozen=True)
class Reattacked:
    """How many records were made again, `exact` of them in the batches of the run; `differing` of the others differ."""

    records: int
    exact: int
    differing: int
    faults: list[str]
    skipped: list[str]


def reattack(
    run: Run,
    model: nn.Module,
    images: Images,
    attacks: Mapping[str, Attack],
    stages: Stages,
    device: torch.device,
    search: Search,
    same_numerics: bool,
    random_network: bool,
    sample: int,
    progress: Progress = silent,
) -> Reattacked:
    """Attack at least `sample` random images again, for every attack in `attacks` (by repr) and threat.

    The images are drawn, from the operating system's entropy, among those that the attack was given: the broken
    ones and the others. With `same_numerics` whole batches are attacked, packed as in the run, and every column of
    the records must be the same. Where that is impossible (another processor; an ensemble whose stages pack several
    batches; a run that was enlarged), two honest runs differ by rounding, in one direction as often as in the other: a
    sign test for each of `COMPARED` must not reject this, at `LEVEL` over all tests. Nor must more images than
    `FLIPPED` be broken in one of the two alone, at the same level.
    """
    draw = random.SystemRandom()
    whole = [(name, threat, given) for name, threat, given in attacked(run.records) if name in attacks and len(given)]
    level = LEVEL / max(1, len(whole) * len(COMPARED))
    total = exact = differing = 0
    faults, skipped = [], []
    for done, (name, threat, given) in enumerate(whole):
        progress(done, len(whole), f"{name} {threat}")
        attack = attacks[name]
        chosen = _whole_batches(given, stages[name], run.manifest, sample, draw)
        exactly = same_numerics and _packed_as(run, given, chosen, stages[name], threat)
        if not exactly and (unit_of(attack) is None or len(stages[name]) > 1):
            chosen = given.iloc[sorted(draw.sample(range(len(given)), min(sample, len(given))))]
        recorded, found = _again(run, model, images, attack, threat, chosen, device, search, random_network)
        total += len(found)
        if exactly:
            exact += len(found)
            faults += _every_difference(recorded, found, f"{name} {threat}")
            continue
        smaller = {column: _above(recorded, found, column) for column in COMPARED}
        larger = {column: _above(found, recorded, column) for column in COMPARED}
        differing += int((pd.DataFrame(smaller) | pd.DataFrame(larger)).any(axis=1).sum())
        faults += _more_than_chance(smaller, larger, level, f"{name} {threat}")
        if not random_network:
            flipped = int((recorded["broken"] != found["broken"]).sum())
            faults += _more_than_rounding(flipped, len(found), level, f"{name} {threat}")
        if 2.0 ** (1 - len(found)) >= level:
            skipped.append(f"{name} {threat}: {len(found)} images are too few to tell rounding from an edit")
    return Reattacked(total, exact, differing, faults, skipped)


def _whole_batches(
    given: pd.DataFrame, stages: Sequence[Attack], said: Manifest, sample: int, draw: random.Random
) -> pd.DataFrame:
    """Random batches of the first stage, in order, of at least `sample` images together.

    The last batch of the run, which may be partial, comes last, so a run of these images alone packs them the same way.
    """
    _, _, parts = next(batches(given, stages, said.batch_size, said.data.n))
    chosen: list[int] = []
    for index in draw.sample(range(len(parts)), len(parts)):
        if sum(len(parts[one]) for one in chosen) >= sample:
            break
        chosen.append(index)
    return pd.concat([parts[index] for index in sorted(chosen)])


def _packed_as(
    run: Run, given: pd.DataFrame, chosen: pd.DataFrame, stages: Sequence[Attack], threat: ThreatModel
) -> bool:
    """Whether every batch of an attack on the `chosen` images alone is one from which the records come.

    A run that was enlarged also keeps batches of the smaller runs, from which its records no longer come.
    """
    said = run.manifest
    whole = batches(given, stages, said.batch_size, said.data.n)
    alone = batches(chosen.reset_index(drop=True), stages, said.batch_size, len(chosen))
    for (stage, position, used), (_, _, parts) in zip(whole, alone, strict=True):
        work = Work(run.path, work_of(said, stage, position, threat), examples=False)
        names = _names(parts)
        if not names <= _names(used) or any(work.part(name) is None for name in names):
            return False
    return True


def _names(parts: Sequence[pd.DataFrame]) -> set[str]:
    return {batch_name(list(part[KEY].itertuples(index=False, name=None))) for part in parts}


def _again(
    run: Run,
    model: nn.Module,
    images: Images,
    attack: Attack,
    threat: ThreatModel,
    chosen: pd.DataFrame,
    device: torch.device,
    search: Search,
    random_network: bool,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The recorded and the new records of these images, without those that now are wrong as they are."""
    said = run.manifest
    position = {one: row for row, one in enumerate(images.ids)}
    some = images.take([position[one] for one in chosen["sample_id"]])
    measured = measure(
        model,
        some,
        [attack],
        [threat],
        said.seed,
        said.batch_size,
        device,
        search,
        identity(said),
        said.draws,
        random_network,
    )
    found = pa.Table.from_pandas(measured.records, schema=RECORDS, preserve_index=False).to_pandas()
    kept = (found["clean_prediction"] == found["label"]).to_numpy()
    return chosen[kept].reset_index(drop=True), found[kept].reset_index(drop=True)


def _more_than_rounding(flipped: int, n: int, level: float, name: str) -> list[str]:
    """Rounding decides whether an image is broken only where its margin is next to zero."""
    from scipy.stats import binom

    if not n or float(binom.sf(flipped - 1, n, FLIPPED)) >= level:
        return []
    return [f"{name}: {flipped} of {n} images attacked again are broken in one of record and repetition alone"]


def _every_difference(recorded: pd.DataFrame, found: pd.DataFrame, name: str) -> list[str]:
    """A sentence for each record, about the first column in which it differs."""
    differs = (recorded != found) & ~(recorded.isna() & found.isna())
    faults = []
    for row in differs.any(axis=1).to_numpy().nonzero()[0]:
        column = differs.columns[differs.iloc[row]][0]
        faults.append(
            f"{name}, {recorded['sample_id'][row]}: attacked again, {column} is {found[column][row]}, "
            f"recorded {recorded[column][row]}"
        )
    return faults


def _above(a: pd.DataFrame, b: pd.DataFrame, column: str) -> "pd.Series[bool]":
    """For which rows `a` is larger than `b`, margins by more than rounding."""
    left, right = a[column].astype(float), b[column].astype(float)
    return left - right > (SLACK * left.abs() if column == "margin" else 0)


def _more_than_chance(
    smaller: dict[str, "pd.Series[bool]"], larger: dict[str, "pd.Series[bool]"], level: float, name: str
) -> list[str]:
    faults = []
    for column in COMPARED:
        if not len(smaller[column]):
            continue
        signs = mcnemar(list(smaller[column]), list(larger[column]))
        if signs.p_value < level:
            faults.append(
                f"{name}: attacked again, {column} is smaller than recorded for {signs.only_a} of {signs.n} images and "
                f"larger for {signs.only_b}; rounding does not favour one side (p = {signs.p_value:.1e})"
            )
    return faults
