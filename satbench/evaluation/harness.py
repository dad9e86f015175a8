"""Runs attacks on a model and writes down, sample by sample, what it saw for itself."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from satbench.attacks import Attack
from satbench.attacks.base import info_of, stages_of, unit_of
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation.executor import Executor, Search, info_as_run
from satbench.evaluation.judge import Vote
from satbench.evaluation.parts import KEY, Part, Work, keys_of, work_name
from satbench.evaluation.table import PLACE, carry, clean_table, enter, outcomes_of
from satbench.numerics.seeding import PerSample, derive
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import RECORDS, TIMING
from satbench.specs.attack import AttackInfo


@dataclass(frozen=True)
class Measured:
    """`records` with the columns of `results.schema.RECORDS`, `timing` with those of `TIMING`.

    `attacks` describes those that the records name, with the stages that were run. `examples` says in which file and
    row the broken example of each record lies; `notes` are what the attacks said.
    """

    records: pd.DataFrame
    timing: pd.DataFrame
    examples: pd.DataFrame
    attacks: list[AttackInfo]
    notes: list[str]


def measure(
    model: nn.Module,
    images: Images,
    attacks: Sequence[Attack],
    threats: Sequence[ThreatModel],
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: Progress = silent,
    search: Search | None = None,
    identity: dict[str, object] | None = None,
    out: Path | None = None,
    examples: bool = False,
    draws: int = 1,
    random_network: bool = False,
) -> Measured:
    """One record per attack, threat and sample, in that order.

    The model is judged in eval mode and float32. A sample that is misclassified as it is counts as broken and is not
    attacked; one that a smaller eps of the same attack and norm has broken is broken by that example, at no passes.
    An ensemble's stages run on what still stands of the whole run. Images in files are decoded when they are needed.

    The majority of `draws` passes of the model decides. One verdict of a `random_network`, or of a network that is
    searched in place of the judged one, ends no search: attacks run without their early stop. Every iterate that the
    attack shows such another network is judged on the model, and the first that it misclassifies is the example.

    With a folder `out` every finished batch is stored there and found again; `identity` is what decides a result beside
    attack, threat, seed and image. With `examples` the broken ones are stored too. When memory runs out, half as many
    images go through the network at a time. Raises `BadInput` when the logits are not (N, K), not finite, or too few
    for the labels.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _listening() as notes:
        torch.manual_seed(derive(seed, "model"))
        bench = _Bench(
            model, images, seed, batch_size, device, search, identity or {}, out, examples, draws, random_network, notes
        )
        steps = sum(len(stages_of(attack)) for attack in attacks) * len(threats)
        bench.report, bench.total = progress, steps * len(images)
        tables: dict[tuple[int, int], pd.DataFrame] = {}
        for i, attack in enumerate(attacks):
            for norm in dict.fromkeys(threat.norm for threat in threats):
                fallen = None
                growing = [(threat.eps, j) for j, threat in enumerate(threats) if threat.norm == norm]
                for _, j in sorted(growing):
                    fallen = tables[i, j] = bench.run(attack, threats[j], fallen)
        records = pd.concat([tables[key] for key in sorted(tables)], ignore_index=True)
        notes += _remarks(records, draws, random_network)
        kept = records[records["example_file"] != ""][["attack", "norm", "eps", "sample_id", *PLACE]]
        timing = pd.DataFrame(bench.timing, columns=TIMING.names)
        infos = [info_as_run(attack, bench.executor.stages(attack)) for attack in attacks]
        return Measured(records[RECORDS.names], timing, kept.reset_index(drop=True), infos, list(dict.fromkeys(notes)))


class _Bench:
    """One model and its images, ready for one attack after another."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        seed: int,
        batch_size: int,
        device: torch.device,
        search: Search | None,
        identity: dict[str, object],
        out: Path | None,
        examples: bool,
        draws: int,
        random_network: bool,
        notes: list[str],
    ) -> None:
        self.images, self.seed, self.device = images, seed, device
        self.batch_size, self.identity, self.out, self.examples = batch_size, identity, out, examples
        self.executor = Executor(model, search, batch_size, seed, draws, random_network)
        self.searched = search.info.identity if search else ""
        self.draws, self.notes = draws, notes
        self.report: Progress = silent
        self.done = self.total = 0
        self.timing: list[tuple[object, ...]] = []
        self.clean = self._clean()

    def run(self, attack: Attack, threat: ThreatModel, smaller: pd.DataFrame | None) -> pd.DataFrame:
        """What the attack did to every image: the columns of `RECORDS` and where the broken examples lie."""
        table = self.clean.copy()
        table[["attack", "norm", "eps"]] = info_of(attack).id, threat.norm, threat.eps
        if smaller is not None:
            carry(table, smaller)
        for position, stage in enumerate(self.executor.stages(attack)):
            standing = np.flatnonzero(~table["broken"].to_numpy())
            self._tell(len(table) - len(standing), attack, threat)
            work = self._work(stage, position, threat)
            size = unit_of(stage) or self.batch_size
            for start in range(0, len(standing), size):
                rows = standing[start : start + size]
                outcomes = self._batch(work, attack, stage, position, threat, rows)
                enter(table, rows, outcomes, _stage_name(attack, stage))
                self._tell(len(rows), attack, threat)
        return table

    def _tell(self, count: int, attack: Attack, threat: ThreatModel) -> None:
        self.done += count
        if count:
            self.report(self.done, self.total, f"{attack} {threat}")

    def _work(self, stage: Attack, position: int, threat: ThreatModel) -> Work:
        name = work_name(self.identity, info_of(stage).id, position, threat, self.seed, self.searched, self.device.type)
        return Work(self.out, name, self.examples)

    def _batch(
        self, work: Work, attack: Attack, stage: Attack, position: int, threat: ThreatModel, rows: np.ndarray
    ) -> pd.DataFrame:
        """The outcomes of these rows, in order; those that are known already are not computed again."""
        keys = keys_of(self.clean.loc[rows])
        whole = work.batch(keys)
        known = whole or work.samples(keys if unit_of(stage) is None else [])
        there = set(keys_of(known.outcomes))
        missing = [row for row, key in zip(rows.tolist(), keys, strict=True) if key not in there]
        parts = [known] if there else []
        if missing:
            parts.append(self._attack(work, stage, position, threat, np.array(missing)))
        for part in parts:
            self._book(attack, stage, threat, part)
        if len(parts) == 1:
            return parts[0].outcomes
        both = pd.concat([part.outcomes for part in parts])
        return both.set_index(KEY, drop=False).loc[keys].reset_index(drop=True)

    def _book(self, attack: Attack, stage: Attack, threat: ThreatModel, part: Part) -> None:
        self.notes += [note for note in part.notes if note not in self.notes]
        passes = (int(part.outcomes[column].sum()) for column in ("forward", "backward"))
        row = (
            info_of(attack).id,
            _stage_name(attack, stage),
            threat.norm,
            threat.eps,
            len(part.outcomes),
            *passes,
            part.seconds,
        )
        self.timing.append(row)

    def _attack(self, work: Work, stage: Attack, position: int, threat: ThreatModel, rows: np.ndarray) -> Part:
        """Attack these images, all of which are classified correctly, judge what comes back, and store it."""
        ids, x, y = self._images(rows)
        heard = len(self.notes)
        started = time.monotonic()
        while True:
            torch.manual_seed(derive(self.seed, "model", work.name, ids[0]))  # for a model that draws numbers
            streams = PerSample.of(self.seed, ids, "attack", *([position] if position else []))
            try:
                x_adv, seen, passes = self.executor.attack(stage, threat, x, y, streams, ids)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._halve(error, len(rows))
        outcomes = outcomes_of(self.clean.loc[rows], x, x_adv, y, seen, passes)
        bad = sum(map(bool, seen.violations))
        if bad:
            self.notes.append(f"{stage} returned examples outside ball or box, which were not counted")
        if self.executor.search.estimated:
            self.notes.append(
                f"pass counts of {stage} are uniform estimates: it calls the network, or parts of it, on images that "
                "could not be assigned to those under attack"
            )
        seconds = time.monotonic() - started
        part = Part(outcomes, seconds, tuple(self.notes[heard:]))
        broken = torch.tensor(outcomes["broken"].to_numpy(), device=x_adv.device)
        return work.keep(part, x_adv[broken].float().cpu() if self.examples else x_adv[:0])

    def _halve(self, error: RuntimeError, rows: int) -> None:
        left = self.executor.halve(error, rows)
        self.notes.append(f"memory ran out; {left} images at a time went through the network from then on")

    def _images(self, rows: np.ndarray) -> tuple[tuple[str, ...], Tensor, Tensor]:
        ids, x, y = next(iter(self.images.take(rows.tolist()).batches(len(rows))))
        return ids, x.to(self.device), y.to(self.device)

    def _clean(self) -> pd.DataFrame:
        """What is known of every image before any attack."""
        seen: list[Vote] = []
        for _, x, y in self.images.batches(self.batch_size):
            x, y = x.to(self.device), y.to(self.device)
            while True:
                try:
                    seen.append(self.executor.clean(x, y))
                    break
                except RuntimeError as error:
                    self._halve(error, len(x))
        columns = zip(*((one.predictions, one.margins, one.correct_shares) for one in seen), strict=True)
        return clean_table(self.images, Vote(*(torch.cat(column).cpu() for column in columns)))


def _stage_name(attack: Attack, stage: Attack) -> str:
    return info_of(stage).id if len(stages_of(attack)) > 1 else ""


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


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what the attacks' libraries say."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, ear = logging.getLogger("satbench.attacks"), Ear(logging.INFO)
    level = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
