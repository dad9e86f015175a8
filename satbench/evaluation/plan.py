"""What is to be computed of an evaluation: jobs, and which of them wait for which.

An evaluation is a tree of steps. The first is the network's answer to every image as it is. From it goes a chain for
every attack and norm: growing radii, and at each radius the stages of an ensemble. The images that stand after a step
come to the next one in their order and are cut into batches there. So a batch depends on the parts before it and on
nothing else, all workers cut the same ones, and a step need not have ended for the next one to begin.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from satbench.attacks import Attack
from satbench.attacks.base import info_of, unit_of
from satbench.evaluation.cutting import cut
from satbench.evaluation.parts import Key, Part, Work, batch_name
from satbench.numerics.threat import ThreatModel


@dataclass(frozen=True)
class Step:
    """One stage of an attack at one threat, or, without an attack, the network's answers to images as they are.

    `size` is the number of images in a batch. Images of a stage that draws for whole batches are `together`: what was
    known of some of them in another batch is of no use.
    """

    attack: Attack | None
    stage: Attack | None
    position: int
    threat: ThreatModel | None
    size: int
    together: bool = False

    @property
    def stage_id(self) -> str:
        """The id of the stage, "" without an attack."""
        return "" if self.stage is None else info_of(self.stage).id


@dataclass(eq=False)
class Batch:
    """Rows of the run's images that are computed together; those that were `held` before need no computing."""

    rows: list[int]
    held: list[Part]
    missing: list[int]
    name: str  # of the part about the missing ones


@dataclass(frozen=True)
class Job:
    """A part to compute: the images of the run at `rows`, of which nothing is known at this step."""

    step: Step
    work: Work
    rows: list[int]
    name: str


@dataclass(eq=False)
class Stream:
    """The batches of one step, as far as the images that come to it are known."""

    step: Step
    work: Work
    keys: Sequence[Key]  # of all images of the run
    after: list["Stream"] = field(default_factory=list)
    coming: list[int] = field(default_factory=list)  # not in a batch yet
    whole: bool = False  # nothing more comes
    passed: int = 0  # images that will not come, because they fell before
    batches: list[Batch] = field(default_factory=list)
    parts: list[list[Part]] = field(default_factory=list)  # of the first batches; they are handed on in order

    @property
    def ended(self) -> bool:
        """Whether every part is there and what stands was handed on."""
        return self.whole and not self.coming and len(self.parts) == len(self.batches)

    @property
    def done(self) -> int:
        """For how many images of the run the step is settled."""
        return self.passed + sum(len(batch.rows) for batch in self.batches[: len(self.parts)])

    def look(self) -> None:
        """Take in the parts that are there by now, and hand on the images that stand."""
        new = cut(self.coming, len(self.keys), self.step.size, ended=self.whole)
        self.batches += [self._batch(list(rows)) for rows in new]
        self.coming = self.coming[sum(map(len, new)) :]
        for batch in self.batches[len(self.parts) :]:
            parts = self.found(batch)
            if parts is None:
                break
            self.parts.append(parts)
            fallen = {
                key for part in parts for key, broken in zip(part.keys, part.columns["broken"], strict=True) if broken
            }
            standing = [row for row in batch.rows if self.keys[row] not in fallen]
            for stream in self.after:
                stream.coming += standing
                stream.pass_by(len(batch.rows) - len(standing))
        for stream in self.after:
            stream.whole = self.ended

    def pass_by(self, count: int) -> None:
        """Note that so many images will come neither here nor to the steps after this one."""
        self.passed += count
        for stream in self.after:
            stream.pass_by(count)

    def found(self, batch: Batch) -> list[Part] | None:
        """What is known of all images of a batch, in parts, or None while some of it is not."""
        if not batch.missing:
            return batch.held
        part = self.work.part(batch.name)
        return None if part is None else [*batch.held, part]

    def jobs(self) -> Iterator[Job]:
        """The jobs that can be done now."""
        for batch in self.batches[len(self.parts) :]:
            if self.found(batch) is None:
                yield Job(self.step, self.work, batch.missing, batch.name)

    def _batch(self, rows: list[int]) -> Batch:
        keys = [self.keys[row] for row in rows]
        name = batch_name(keys)
        if self.step.together or self.work.part(name) is not None:
            return Batch(rows, [], rows, name)
        held = self.work.held(keys)
        known = {key for part in held for key in part.keys}
        missing = [row for row, key in zip(rows, keys, strict=True) if key not in known]
        return Batch(rows, held, missing, batch_name([self.keys[row] for row in missing]) if held else name)


class Plan:
    """The steps of an evaluation, and what is there of each.

    `streams` are in the order in which one worker goes through them: the clean step first, then for every attack, norm
    and growing radius the stages; `steps[attack, threat]` are the streams of an attack at a threat, by their positions.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        attacks: Sequence[Attack],
        threats: Sequence[ThreatModel],
        stages: Callable[[Attack], Sequence[Attack]],
        batch_size: int,
        work: Callable[[Step], Work],
    ) -> None:
        def stream(step: Step, before: Stream | None) -> Stream:
            made = Stream(step, work(step), keys)
            if before is not None:
                before.after.append(made)
            self.streams.append(made)
            return made

        self.streams: list[Stream] = []
        self.steps: dict[tuple[int, int], list[Stream]] = {}
        self.clean = stream(Step(None, None, 0, None, batch_size), None)
        self.clean.coming, self.clean.whole = list(range(len(keys))), True
        for i, attack in enumerate(attacks):
            for norm in dict.fromkeys(threat.norm for threat in threats):
                before = self.clean
                growing = [(threat.eps, j) for j, threat in enumerate(threats) if threat.norm == norm]
                for _, j in sorted(growing):
                    self.steps[i, j] = []
                    for position, stage in enumerate(stages(attack)):
                        unit = unit_of(stage)
                        step = Step(attack, stage, position, threats[j], unit or batch_size, unit is not None)
                        before = stream(step, before)
                        self.steps[i, j].append(before)

    @property
    def ended(self) -> bool:
        """Whether every part is there."""
        return all(stream.ended for stream in self.streams)

    @property
    def done(self) -> tuple[int, int]:
        """Pairs of an image and a step of an attack: those that are settled, and all."""
        attacked = [stream for stream in self.streams if stream.step.attack is not None]
        return sum(stream.done for stream in attacked), len(attacked) * len(self.clean.keys)

    def jobs(self) -> Iterator[Job]:
        """The jobs that can be done now, in the order of the streams."""
        self.look()
        for stream in self.streams:
            yield from stream.jobs()

    def look(self) -> None:
        """Take in the parts that are there by now."""
        for stream in self.streams:
            stream.look()
