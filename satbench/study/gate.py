"""Measures a suite, a study with a baseline, in growing batches of images until every figure is settled.

Approval goes through the same batches to the last image: outcomes may depend on the batch an image is in by a rounding
error, so that only equal batches repeat bits.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from satbench.attacks.base import stages_of, unit_of
from satbench.core.errors import BadInput
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation import images_for
from satbench.evaluation.batch import usual_threads
from satbench.evaluation.fingerprint import numerics_fingerprint
from satbench.evaluation.provenance import revision, versions
from satbench.evaluation.request import Request, resolved
from satbench.evaluation.run import run_request
from satbench.evaluation.sweep import threats_of
from satbench.numerics.device import resolve_device, using_threads
from satbench.regression import Baseline, Expected, Measured, NetworkVerdict, Outcomes, Seen, judge
from satbench.regression.baseline import Right
from satbench.regression.compare import AGAIN, check_figures, check_same, reasons
from satbench.regression.figures import CLEAN, figure_names, figures_of
from satbench.results.sequential import looks
from satbench.results.store import MANIFEST
from satbench.specs.attack import AttackInfo
from satbench.specs.study import ALL, DECIDED, Choice, Measurement, Study, read_study
from satbench.study.jobs import Evaluation, Jobs, jobs_of
from satbench.study.run import run_study
from satbench.zoo import Loaded

CHECKED = "checked"  # folder of the runs of a check: a study may have its own runs beside it


@dataclass(frozen=True)
class Member:
    """One network of a suite in one evaluation; `asked` is a digest of the evaluation without the network."""

    measured: str
    evaluation: Evaluation
    measurement: Measurement
    asked: str

    @property
    def attacks(self) -> list[AttackInfo]:
        """What the evaluation attacks with."""
        return [one for one in self.evaluation.spec.attacks if isinstance(one, AttackInfo)]


@dataclass(frozen=True)
class Suite:
    """A study file, its jobs, and its networks in their evaluations."""

    file: Path
    study: Study
    jobs: Jobs
    members: tuple[Member, ...]


def read_suite(file: Path) -> Suite:
    """The suite in a study file; raises `BadInput` as `read_study` and `jobs_of` do, and where nothing is measured."""
    study = read_study(file)
    jobs = jobs_of(study, str(file))
    if not study.evaluations:
        raise BadInput(f"{file} has no evaluations; give what `satbench check` shall measure")
    choices = [choice for grid in study.trainings for choice in grid.choices()]  # in the order of the jobs
    trained = {one.name: _words(choice) for one, choice in zip(jobs.trainings, choices, strict=True)}
    found: list[Member] = []
    for measurement in study.evaluations:
        alone = jobs_of(study.model_copy(update={"evaluations": (measurement,)}), str(file))
        for one in alone.evaluations:
            spec = one.spec
            network = trained[one.training] if one.training else spec.name or spec.model
            attacks = dict.fromkeys(info.label for info in spec.attacks if isinstance(info, AttackInfo))
            asked = spec.model_copy(update=dict.fromkeys(DECIDED)).digest
            found.append(Member(f"{network}, {' and '.join(attacks)}", one, measurement, asked))
    names = [one.measured for one in found]
    members = [
        one if names.count(one.measured) == 1 else replace(one, measured=f"{one.measured}, {one.asked[:8]}")
        for one in found
    ]
    for name in names if len({one.measured for one in members}) < len(members) else ():
        if names.count(name) > 1:
            raise BadInput(f"{file}: two networks are called {name!r}; give each a name of its own")
    return Suite(file, study, jobs, tuple(members))


def _words(choice: Choice) -> str:
    """A training as the study spells it, so that it keeps its name where a recipe changes."""
    said = [choice.recipe, choice.activation, *(f"{name}={value}" for name, value in choice.overrides.items())]
    said += [None if choice.seed is None else f"seed {choice.seed}"]
    return " ".join(filter(None, said))


@dataclass(eq=False)
class Subject:
    """A network of a suite that is open, with all images of its evaluation.

    asked: the evaluation, with the open network in place of its name. numerics: as in `Measured`. unit: how many images
    an attack draws for together, 0 where none does.
    """

    member: Member
    expected: Expected
    asked: Request
    images: Images
    folder: Path
    numerics: str
    unit: int
    device: str
    seen: Seen | None = None
    first: dict[str, list[bool]] = field(default_factory=dict)

    def look(self, n: int, trust: bool, progress: Progress = silent) -> None:
        """Measure the first `n` images; what was measured before is used again.

        An outcome counts as it was first seen, until all images are there: in units some are drawn anew with more.
        """
        spec = self.asked.spec.model_copy(update={"n": n, "trust": trust})
        run = run_request(replace(self.asked, spec=spec), self.folder, device=self.device, progress=progress)
        figures = figures_of(run, self.member.attacks)
        for name, right in figures.items():
            known = self.first.setdefault(name, [])
            known += right[len(known) :].tolist()
        said = run.manifest
        self.seen = Seen(
            ids=self.images.ids[:n],
            figures=figures if n == len(self.images) else {name: _right(known) for name, known in self.first.items()},
            network=said.model.digest,
            training=self.member.evaluation.training,
            numerics=self.numerics if said.draws == 1 and not said.other_numerics else "",
            trust=said.trust,
            passes=run.passes,
        )

    def looks(self) -> Iterator[int]:
        """How many images are measured at a time; all at once where nothing can be settled before.

        That is a published rate, and bits where an attack draws for many images together.
        """
        whole = len(self.images)
        return iter((whole,)) if at_once(self.expected.approved, self.numerics, self.unit) else looks(whole, self.unit)


def at_once(approved: Measured | None, numerics: str, unit: int) -> bool:
    """Whether all images are measured in one look: for published rates, and where bits of units are compared."""
    return approved is None or (unit > 0 and bool(numerics) and approved.numerics == numerics)


def _right(known: list[bool]) -> Right:
    return np.array(known, dtype=bool)


def opened(
    suite: Suite,
    baseline: Baseline | None,
    out: Path,
    engine: str,
    device: str,
    data_dir: Path | None,
    examples: bool = False,
) -> list[Subject]:
    """Train what the suite trains, and open its networks and images; with `examples` attacked images are kept.

    Raises `BadInput` where the suite is not the one that was approved, before anything is attacked, and where it can be
    before anything is trained.
    """
    check_members(suite, baseline)
    jobs = suite.jobs.model_copy(update={"evaluations": ()})
    if jobs.trainings:
        run_study(jobs, out, engine, device, data_dir)
    return [_open(suite, one, baseline, out, device, data_dir, examples) for one in suite.members]


def settle(
    subjects: Sequence[Subject], report: Callable[[Sequence[NetworkVerdict]], None], progress: Progress = silent
) -> tuple[NetworkVerdict, ...]:
    """Measure more and more images of every network until the suite is settled.

    The suite has changed as soon as one figure or trust verdict has. A network is done once all its figures are
    settled and its trust, which takes a tenth of its passes and is looked at only then, is not worse than approved;
    trust that looks worse on some of the images is looked at again on more of them, and on all where a figure changed.
    `report` gets what each look gave, and once more what trust is before it is looked at on more images.
    """
    left = {subject: subject.looks() for subject in subjects}
    done: set[Subject] = set()
    while True:
        for subject in subjects:
            if subject not in done:
                subject.look(next(left[subject]), False, progress)
        verdicts = _judged(subjects)
        report(verdicts)
        broken = any(one.state == "changed" for one in verdicts)
        for subject, verdict in zip(subjects, verdicts, strict=True):
            if subject in done or verdict.state != ("changed" if broken else "unchanged"):
                continue
            _trusted(subject, verdict.n, progress)
            done.add(subject)
        for position, subject in enumerate(subjects):
            while subject in done and _is_open((verdicts := _judged(subjects))[position]):
                report(verdicts)
                _trusted(subject, len(subject.images) if broken else next(left[subject]), progress)
        verdicts = _judged(subjects)
        if broken or len(done) == len(subjects) or any(one.state == "changed" for one in verdicts):
            return verdicts


def measured(subjects: Sequence[Subject], progress: Progress = silent) -> dict[str, Measured]:
    """Measure every image of every network, by the looks that `settle` takes, for approval."""
    found = {}
    for subject in subjects:
        whole = len(subject.images)
        for n in (whole,) if subject.unit else looks(whole):
            subject.look(n, False, progress)
        _trusted(subject, len(subject.images), progress)
        seen = subject.seen
        assert seen is not None
        found[subject.member.measured] = Measured(
            network=seen.network,
            training=seen.training,
            asked=subject.member.asked,
            data=subject.images.digest,
            numerics=seen.numerics,
            trust=None if seen.trust is None else seen.trust.verdict,
            figures={name: Outcomes.of(right) for name, right in seen.figures.items()},
        )
    return found


def trust_sentences(subjects: Sequence[Subject]) -> list[str]:
    """A line for each network that was measured: its trust verdict, with what it rests on where that is no pass."""
    lines = []
    for one in subjects:
        trust = None if one.seen is None else one.seen.trust
        if trust is not None:
            lines.append("; ".join((f"{one.member.measured}: trust {trust.verdict}", *reasons(trust))))
    return lines


def approved(reason: str, found: dict[str, Measured]) -> Baseline:
    """A baseline of what was measured; raises `BadInput` for a network whose trust verdict is "fail"."""
    for name, one in found.items():
        if one.trust == "fail":
            raise BadInput(
                f"{name}: the trust verdict is fail; its figures cannot be approved, repair the network first"
            )
    return Baseline(reason=reason, versions=versions(), revision=revision(), measured=found)


def figures_and_images(member: Member, network: Loaded, data_dir: Path | None) -> tuple[list[str], Images]:
    """The names of the figures of a network in its evaluation, and all its images."""
    spec = member.evaluation.spec
    images = images_for(network, spec.dataset, spec.split, spec.image_size, data_dir, spec.loader).head(spec.n)
    threats = threats_of(spec, network.info)
    return [CLEAN, *figure_names(member.attacks, threats).values()], images


def tolerances(member: Member, names: Sequence[str]) -> dict[str, float]:
    """The tolerances of an evaluation as fractions, by the names of figures."""
    given = member.measurement.tolerance
    rest = given.get(ALL, 0.0)
    points = dict.fromkeys(names, rest) | {name: one for name, one in given.items() if name != ALL}
    return {name: one / 100 for name, one in points.items()}


def numerics_of(asked: Request, networks: Sequence[Loaded], images: Images, device: torch.device) -> str:
    """The fingerprint of the arithmetic of an evaluation on this machine; "" where bits are not repeated."""
    if device.type != "cpu":
        return ""
    with using_threads(asked.spec.threads or max(usual_threads(one.model, images.shape, device) for one in networks)):
        return numerics_fingerprint()


def unit_of_attacks(asked: Request) -> int:
    """How many images an attack of the evaluation draws for together, 0 where none does."""
    return max(unit_of(stage) or 0 for attack in asked.attacks for stage in stages_of(attack))


def _judged(subjects: Sequence[Subject]) -> tuple[NetworkVerdict, ...]:
    return judge([(one.expected, one.seen) for one in subjects if one.seen is not None])


def _is_open(verdict: NetworkVerdict) -> bool:
    return "open" in (verdict.trust_state, verdict.state)


def _trusted(subject: Subject, n: int, progress: Progress) -> None:
    """Let the trust battery look at the network on the first `n` images, where the suite asks for it."""
    seen = subject.seen
    assert seen is not None
    if subject.asked.spec.trust and (seen.trust is None or len(seen.ids) != n):
        subject.look(n, True, progress)
    elif len(seen.ids) != n:
        subject.look(n, False, progress)


def check_members(suite: Suite, baseline: Baseline | None) -> None:
    """Raise `BadInput` where the baseline holds other networks than the suite."""
    if baseline is None:
        return
    names = [one.measured for one in suite.members]
    if set(names) != set(baseline.measured):
        first = min(set(names) ^ set(baseline.measured))
        where = "not approved" if first in names else "approved and no more part of it"
        raise BadInput(f"{suite.file}: {first!r} is {where}; {AGAIN}")


def _open(
    suite: Suite,
    member: Member,
    baseline: Baseline | None,
    out: Path,
    device: str,
    data_dir: Path | None,
    examples: bool,
) -> Subject:
    spec = member.evaluation.spec_in(out)
    spec = spec.model_copy(update={"save_examples": spec.save_examples or examples})
    folder = out / CHECKED / member.evaluation.name
    (folder / MANIFEST).unlink(missing_ok=True)  # of an earlier check, whose batches are used again
    asked, place = resolved(spec), resolve_device(device)
    networks = asked.networks(device)
    names, images = figures_and_images(member, networks[0], data_dir)
    numerics, unit = numerics_of(asked, networks, images, place), unit_of_attacks(asked)
    held = None if baseline is None else baseline.measured[member.measured]
    expected = Expected(
        measured=member.measured,
        approved=held,
        published=member.measurement.published,
        tolerance=tolerances(member, names),
        drop=suite.study.gate.drop / 100,
        images=len(images),
        by_units=unit > 0,
    )
    check_figures(expected, names)
    if held is not None:
        check_same(member.measured, held, member.asked, images.digest, len(images))
    opened = replace(asked, model=networks[0], source=networks[1] if len(networks) > 1 else None, images=images)
    return Subject(member, expected, opened, images, folder, numerics, unit, device)
