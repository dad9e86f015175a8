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
from satbench.attacks.base import crafting, from_outside, stages_of, unit_of
from satbench.attacks.losses import margin
from satbench.data import Images
from satbench.errors import FAULTS, BadInput, reason
from satbench.evaluation.counting import Counted
from satbench.evaluation.judge import Judged, judge, logits_of
from satbench.evaluation.parts import KEY, Part, Work, keys_of, work_name
from satbench.evaluation.table import PLACE, carry, clean_table, enter, outcomes_of
from satbench.progress import Progress, silent
from satbench.results.schema import RECORDS, TIMING
from satbench.seeding import PerSample, derive
from satbench.threat import ThreatModel


@dataclass(frozen=True)
class Measured:
    """`records` with the columns of `results.schema.RECORDS`, `timing` with those of `TIMING`.

    `examples` says in which file and row the broken example of each record lies; `notes` are what the attacks said.
    """

    records: pd.DataFrame
    timing: pd.DataFrame
    examples: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class Search:
    """Where attacks search: `module`, a copy of the judged model or another network; `how` describes it."""

    module: nn.Module
    how: str
    is_copy: bool


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
) -> Measured:
    """One record per attack, threat and sample, in that order.

    The model is judged in eval mode and float32. A sample that is misclassified as it is counts as broken and is not
    attacked; one that a smaller eps of the same attack and norm has broken is broken by that example, at no passes.
    An ensemble's stages run on what still stands of the whole run. Images in files are decoded when they are needed.

    With a folder `out` every finished batch is stored there and found again; `identity` is what decides a result beside
    attack, threat, seed and image. With `examples` the broken ones are stored too. When memory runs out, half as many
    images go through the network at a time. Raises `BadInput` when the logits are not (N, K), not finite, or too few
    for the labels.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _listening() as notes:
        torch.manual_seed(derive(seed, "model"))
        bench = _Bench(model, images, seed, batch_size, device, search, identity or {}, out, examples, notes)
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
        kept = records[records["example_file"] != ""][["attack", "norm", "eps", "sample_id", *PLACE]]
        timing = pd.DataFrame(bench.timing, columns=TIMING.names)
        return Measured(records[RECORDS.names], timing, kept.reset_index(drop=True), list(dict.fromkeys(notes)))


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
        notes: list[str],
    ) -> None:
        self.model, self.images, self.seed, self.device = model, images, seed, device
        self.batch_size, self.identity, self.out, self.examples = batch_size, identity, out, examples
        self.judge = Counted(model, batch_size)
        self.search = Counted(search.module if search else model, batch_size)
        self.how = search.how if search else ""
        self.is_copy = search is not None and search.is_copy
        self.notes = notes
        self.report: Progress = silent
        self.done = self.total = 0
        self.timing: list[tuple[object, ...]] = []
        self.clean = self._clean()

    def run(self, attack: Attack, threat: ThreatModel, smaller: pd.DataFrame | None) -> pd.DataFrame:
        """What the attack did to every image: the columns of `RECORDS` and where the broken examples lie."""
        table = self.clean.copy()
        table[["attack", "norm", "eps"]] = repr(attack), threat.norm, threat.eps
        if smaller is not None:
            carry(table, smaller)
        stages = stages_of(attack)
        for position, stage in enumerate(stages):
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
        name = work_name(self.identity, stage, position, threat, self.seed, self.how, self.device.type)
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
            repr(attack),
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
                x_adv, seen, passes = self._attacked(stage, threat, x, y, streams, ids)
                break
            except (torch.OutOfMemoryError, RuntimeError) as error:
                self._make_room(error, len(rows))
        outcomes = outcomes_of(self.clean.loc[rows], x, x_adv, y, seen, passes)
        bad = sum(map(bool, seen.violations))
        if bad:
            self.notes.append(f"{stage} returned examples outside ball or box, which were not counted")
        seconds = time.monotonic() - started
        part = Part(outcomes, seconds, tuple(self.notes[heard:]))
        broken = torch.tensor(outcomes["broken"].to_numpy(), device=x_adv.device)
        return work.keep(part, x_adv[broken].float().cpu() if self.examples else x_adv[:0])

    def _attacked(
        self,
        stage: Attack,
        threat: ThreatModel,
        x: Tensor,
        y: Tensor,
        streams: PerSample,
        ids: tuple[str, ...],
    ) -> tuple[Tensor, Judged, tuple[Tensor, Tensor, Tensor]]:
        """Examples, the judge's word on them, and forward passes, backward passes and fall of each image, on the CPU.

        An image that fell on the search copy but stands before the judge, by a rounding error, is attacked again on the
        judged model itself.
        """
        x_adv = self._craft(self.search, stage, threat, x, y, streams)
        with crafting(self.model):
            seen = judge(self.judge, x, x_adv, y, threat)
        forward, backward, fell_at = (one.cpu() for one in self.search.counts())
        if not self.is_copy:
            return x_adv, seen, (forward, backward, fell_at)
        doubtful = ((seen.predictions == y) & (fell_at.to(y.device) >= 0)).nonzero()[:, 0]
        if len(doubtful):
            with crafting(self.search.model), torch.no_grad():
                copied = self.search.model(x_adv[doubtful].float()).argmax(1)
            doubtful = doubtful[copied != y[doubtful]]
        if len(doubtful):
            again = PerSample.of(self.seed, [ids[i] for i in doubtful.tolist()], "attack")
            x_adv[doubtful] = self._craft(self.judge, stage, threat, x[doubtful], y[doubtful], again)
            counts = [one.cpu() for one in self.judge.counts()]
            self.judge.threat = None
            with crafting(self.model):
                seen = judge(self.judge, x, x_adv, y, threat)
            where = doubtful.cpu()
            fell_at[where] = torch.where(counts[2] < 0, -1, forward[where] + counts[2])
            forward[where] += counts[0]
            backward[where] += counts[1]
        return x_adv, seen, (forward, backward, fell_at)

    def _craft(
        self, network: Counted, stage: Attack, threat: ThreatModel, x: Tensor, y: Tensor, streams: PerSample
    ) -> Tensor:
        network.watch(x, y, threat)
        held = _checksum(network.model) if from_outside(stage) else None
        try:
            with crafting(network.model):
                x_adv = stage(network, x.clone(), y.clone(), threat, streams).detach()
        except (BadInput, torch.OutOfMemoryError):
            raise
        except FAULTS as error:
            if _memory_ran_out(error):
                raise
            raise BadInput(f"{stage} failed on this model: {reason(error)}") from error
        if held is not None and not torch.equal(held, _checksum(network.model)):
            raise BadInput(f"{stage} changed the weights or buffers of the network; let it work on a copy of it")
        return x_adv

    def _make_room(self, error: RuntimeError, rows: int) -> None:
        """Let half as many images through the network at a time; anything but a lack of memory is raised again."""
        at_once = min(self.search.at_once, rows)
        if not _memory_ran_out(error) or at_once == 1:
            raise error
        self.search.at_once = self.judge.at_once = at_once // 2
        self.notes.append(f"memory ran out; {at_once // 2} images at a time went through the network from then on")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _images(self, rows: np.ndarray) -> tuple[tuple[str, ...], Tensor, Tensor]:
        ids, x, y = next(iter(self.images.take(rows.tolist()).batches(len(rows))))
        return ids, x.to(self.device), y.to(self.device)

    def _clean(self) -> pd.DataFrame:
        """What is known of every image before any attack."""
        predictions, margins = [], []
        for _, x, y in self.images.batches(self.batch_size):
            x, y = x.to(self.device), y.to(self.device)
            while True:
                try:
                    with crafting(self.model):
                        logits = logits_of(self.judge, x, y)
                    break
                except RuntimeError as error:
                    self._make_room(error, len(x))
            predictions.append(logits.argmax(1).cpu())
            margins.append(margin(logits, y).cpu())
        return clean_table(self.images, torch.cat(predictions), torch.cat(margins))


def _stage_name(attack: Attack, stage: Attack) -> str:
    return repr(stage) if len(stages_of(attack)) > 1 else ""


def _checksum(network: nn.Module) -> Tensor:
    """One number a weight and buffer, which almost any change moves."""
    tensors = [*network.parameters(), *network.buffers()]
    return torch.tensor([float(tensor.detach().double().nan_to_num().sum()) for tensor in tensors])


def _memory_ran_out(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


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
