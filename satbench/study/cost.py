"""What a training or an evaluation will cost: passes from its settings, seconds a pass measured on this device."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from satbench.attacks import PGD, Attack
from satbench.attacks.base import MostPasses, most_passes_of, unit_of
from satbench.core.bounded import read_bounded
from satbench.core.eps import Threat
from satbench.core.files import to_json, write_text
from satbench.core.parsing import parsed
from satbench.evaluation import EvaluationSpec, battery, images_for
from satbench.evaluation.batch import usual_batch_size, usual_threads
from satbench.evaluation.executor import stages_as_run
from satbench.evaluation.judge import DRAWS
from satbench.evaluation.probe import answers
from satbench.evaluation.request import resolved
from satbench.evaluation.search import PROBE, search_on
from satbench.evaluation.sweep import threats_of
from satbench.numerics.device import resolve_device, using_threads
from satbench.results.store import Run, read_run, seconds_of
from satbench.study.folder import HIDDEN, StudyFolder
from satbench.study.jobs import TRAINING, Jobs
from satbench.study.pilot import Clock, seconds_a_pass
from satbench.study.standing import CORRECT, Shares, assumed, expect, likely
from satbench.training import TrainConfig
from satbench.training.build import network, splits
from satbench.training.checkpoint import read_metrics, read_times
from satbench.training.dry_run import dry_run
from satbench.training.evaluators import evaluators_of
from satbench.trust.standing import AT_ONCE
from satbench.zoo import Loaded, from_module

PREDICTED = "cost.json"  # in the hidden folder of a study


@dataclass(frozen=True)
class Cost:
    """What a job takes on this device, or is said to take.

    passes: of images, forward and backward together. seconds: between `low` and `high`, which differ by how many images
    stand. cores: that are busy all the time, or 1 GPU. assumption: where the number of standing images is from.
    """

    passes: int
    seconds: float
    low: float
    high: float
    cores: int
    assumption: str

    def __str__(self) -> str:
        between = f"{duration(self.low)} to {duration(self.high)}"
        return (
            f"{self.passes:,} passes, {duration(self.seconds)} ({between}), {self.core_hours:.2g} core-hours; "
            f"{self.assumption}"
        )

    @property
    def core_hours(self) -> float:
        """Hours of one core, or of the GPU."""
        return self.seconds * self.cores / 3600


@dataclass(frozen=True)
class Measured:
    """What a finished job took; `passes` of a training are those of its updates."""

    passes: int
    seconds: float

    def ratio(self, predicted: Cost) -> float:
        """Measured seconds as a multiple of the predicted ones."""
        return self.seconds / predicted.seconds


def predict_evaluation(
    spec: EvaluationSpec,
    data_dir: Path | None = None,
    device: str = "auto",
    training: TrainConfig | None = None,
    runs: Sequence[Run] = (),
) -> Cost:
    """The cost of an evaluation, loading and trust battery included; it takes a few seconds and writes nothing.

    training: the config of the network, in place of `spec.model`, where it is not trained yet.
    runs: finished runs. Those of the same network say how many images stand, else those of others of the study at the
        same radii. Without any, PGD-20 on some images says it, or of a network that is not trained yet an assumption.

    A network that draws random numbers takes every step on every image. Where `rapid` continues with AutoAttack is not
    predicted. Raises `BadInput` as `evaluate` does.
    """
    asked, place = resolved(spec), resolve_device(device)
    clock, begun = Clock(place), time.perf_counter()
    networks = asked.networks(device) if training is None else [untrained(training, data_dir, place)]
    judged = networks[0]
    images = images_for(judged, spec.dataset, spec.split, spec.image_size, data_dir, spec.loader).head(spec.n)
    threats = threats_of(spec, judged.info)
    size = spec.batch_size or usual_batch_size(judged.model, images.shape, place)
    threads = spec.threads or max(usual_threads(one.model, images.shape, place) for one in networks)
    tallies = _Tally(), _Tally(), _Tally()
    sources: list[str] = []
    with using_threads(threads), torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        _, probe, _ = next(iter(images.head(min(PROBE, len(images))).batches(PROBE)))
        answered = answers(judged.model, probe.to(place), images.y, min(PROBE, size))
        model = search_on(networks[-1].model, probe.to(place), spec.search, another=len(networks) > 1).module
        loading = time.perf_counter() - begun
        draws = spec.draws or (DRAWS if answered.random else 1)
        look = partial(expect, judged, model, images, training, runs, spec.seed, clock)
        for norm in dict.fromkeys(threat.norm for threat in threats):
            growing = sorted((one for one in threats if one.norm == norm), key=lambda one: one.eps)
            for attack in asked.attacks:
                expected = look(attack, growing)
                sources.append(expected.source)
                steps = []
                for position, stage in enumerate(stages_as_run(attack, answered.random or len(networks) > 1)):
                    count = _rows(stage, position, size, len(images), expected.usual)
                    rate = seconds_a_pass(model, stage, images, count, growing[-1], spec.seed, clock)
                    most = _most(stage, norm, answered.outputs, expected.when_broken)
                    forward = most.forward * len(networks)  # in a transfer, every iterate is judged as well
                    steps.append((most._replace(forward=forward), rate))
                for tally, shares in zip(tallies, (expected.usual, expected.least, expected.most), strict=True):
                    tally.add(steps, shares, len(images), draws)
        if spec.trust:
            rate = seconds_a_pass(judged.model, PGD(), images, AT_ONCE, threats[0], spec.seed, clock)
            for tally in tallies:
                tally.check(rate)
    usual, least, most_of_all = (loading + tally.seconds for tally in tallies)
    source = " and ".join(dict.fromkeys(sources))
    cores = threads if place.type == "cpu" else 1
    return Cost(round(tallies[0].passes), usual, least, most_of_all, cores, source)


def predict_training(config: TrainConfig, data_dir: Path | None = None, device: str = "auto") -> Cost:
    """The cost of a training with its measurements on the validation split, from its first updates; writes nothing.

    Where a method lets images stop early, their passes are the most. Raises `BadInput` as `train` does.
    """
    found = dry_run(config, device, data_dir, Clock(resolve_device(device)))
    updates = sum(found.passes())
    measurements = -(-config.epochs // config.measure.every) if found.val_images else 0
    measured = [one.attack for one in evaluators_of(config) if one.attack is not None]
    attacks = [most_passes_of(one, config.threat.norm, 2) for one in measured]
    totals = []
    for seconds, correct, stood in zip(found.seconds(), CORRECT, likely(config), strict=True):
        tally = _Tally()
        rate = seconds / updates  # a pass of the updates and one of the attacks are taken as equal
        for attack in attacks:
            tally.add([(attack, rate)], Shares(correct, (stood,)), measurements * found.val_images, 1)
        measuring = measurements * found.val_seconds + tally.seconds  # of the fresh network, on which nothing stands
        totals.append((updates + tally.passes, seconds + measuring))
    threads = torch.get_num_threads() if resolve_device(device).type == "cpu" else 1
    source = f"{sum(len(one.seconds) for one in found.stages)} updates; {assumed(config)} of the validation images"
    return Cost(round(totals[0][0]), totals[0][1], totals[1][1], totals[2][1], threads, source)


def predict_jobs(
    jobs: Jobs,
    names: Collection[str],
    data_dir: Path | None = None,
    device: str = "auto",
    runs: Sequence[Run] = (),
    found: Callable[[str, Cost], None] = lambda name, cost: None,
) -> dict[str, Cost]:
    """The costs of those jobs of a study whose names are given, by their names.

    Jobs that differ in nothing but seeds cost the same, and are looked at once. A training has as many threads as a
    worker of the study. `runs` are finished runs of the same networks or of other seeds. `found` is called with each
    cost as it is known.
    """
    costs: dict[str, Cost] = {}
    known: dict[str, Cost] = {}
    configs = {one.name: one.config for one in jobs.trainings}

    def trained(config: TrainConfig) -> Cost:
        name = config.digest("")
        if name not in known:
            known[name] = predict_training(config, data_dir, device)
        return known[name]

    def evaluated(spec: EvaluationSpec, config: TrainConfig | None) -> Cost:
        name = resolved(spec.model_copy(update={"seed": 0})).spec.digest + (config.digest("") if config else "")
        if name not in known:
            known[name] = predict_evaluation(spec, data_dir, device, config, runs)
        return known[name]

    with using_threads(jobs.resources.cpus):
        for training in jobs.trainings:
            if training.name in names:
                costs[training.name] = trained(training.config)
                found(training.name, costs[training.name])
    for one in jobs.evaluations:
        if one.name in names:
            costs[one.name] = evaluated(one.spec, configs.get(one.training or ""))
            found(one.name, costs[one.name])
    return costs


def predict_study(jobs: Jobs, folder: Path, data_dir: Path | None, device: str) -> None:
    """Write the costs of the jobs that are left of the study in `folder` into it, beside those predicted before.

    A study that continues is compared with what was predicted at first.
    """
    costs = _predicted(folder)
    left = {one.name for one in StudyFolder(folder, jobs, "").unfinished()} - costs.keys()
    if left:
        costs |= predict_jobs(jobs, left, data_dir, device)
        write_text(folder / HIDDEN / PREDICTED, to_json({name: asdict(cost) for name, cost in costs.items()}))


def beside_measured(jobs: Jobs, folder: Path) -> list[str]:
    """A sentence each for the trainings and the evaluations that were predicted: measured and predicted seconds."""
    costs = _predicted(folder)
    trained = {one.name: measured_training(folder / one.name / TRAINING) for one in jobs.trainings if one.name in costs}
    run = {one.name: measured_evaluation(folder / one.name) for one in jobs.evaluations if one.name in costs}
    said = []
    for what, found in (("trainings", trained), ("evaluations", run)):
        if not found:
            continue
        seconds, predicted = (
            sum(one.seconds for one in found.values()),
            sum(costs[name].seconds for name in found),
        )
        ratios = sorted(one.ratio(costs[name]) for name, one in found.items())
        said.append(
            f"{what}: {duration(seconds)} measured, {duration(predicted)} predicted; measured by predicted "
            f"{seconds / predicted:.2f}, of single ones {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )
    return said


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits or the unit."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def measured_evaluation(folder: Path) -> Measured:
    """What a finished run took, by its records, its times and its trust battery; raises `BadInput` for no run."""
    run = read_run(folder)
    return Measured(run.passes, seconds_of(run))


def measured_training(folder: Path) -> Measured:
    """What a finished training took, by its log; `BadInput` for a damaged one."""
    times = read_times(folder)
    images = [round(row.images_per_second * row.seconds) for row in times]
    rows = zip(read_metrics(folder), images, strict=False)
    passes = sum(((row.forward or 0) + (row.backward or 0)) * count for row, count in rows)
    return Measured(round(passes), sum(row.seconds + row.measuring_seconds for row in times))


class _Tally:
    """Passes and seconds of an evaluation, as its attacks are added."""

    def __init__(self) -> None:
        self.passes = self.seconds = 0.0

    def add(self, stages: Sequence[tuple[MostPasses, float]], shares: Shares, n: int, draws: int) -> None:
        """An attack on `n` images at growing radii; with each stage the seconds of its passes.

        What a smaller radius or an earlier stage broke takes none. The first stage leaves what stands in the end.
        """
        before = shares.correct
        for stood in shares.stood:
            entering = before
            for most, rate in stages:
                standing = min(stood, entering)
                whole = standing + (entering - standing) * most.when_broken
                passes = n * (whole * (most.forward + most.backward) + entering * draws)
                self.passes, self.seconds = self.passes + passes, self.seconds + passes * rate
                entering = standing
            before = min(before, stood)

    def check(self, rate: float) -> None:
        """The trust battery after all attacks."""
        passes = self.passes / battery.PASSES
        self.passes, self.seconds = self.passes + passes, self.seconds + passes * rate


def _most(stage: Attack, norm: str, classes: int, when_broken: float | None) -> MostPasses:
    """What an image takes; where a pilot has seen what one that breaks takes of PGD, that replaces the usual share."""
    most = most_passes_of(stage, norm, classes)
    if isinstance(stage, PGD) and most.when_broken < 1 and when_broken is not None:
        return most._replace(when_broken=when_broken / stage.restarts)
    return most


def _predicted(folder: Path) -> dict[str, Cost]:
    file = folder / HIDDEN / PREDICTED
    return parsed(dict[str, Cost], read_bounded(file), str(file), "delete it") if file.is_file() else {}


def _rows(stage: Attack, position: int, size: int, n: int, shares: Shares) -> int:
    """How many images of a batch go through the network together most of the time."""
    entering = n * (shares.stood[0] if position else shares.correct)
    full = entering / (unit_of(stage) or size)
    batches = full + 0.5 if full > 1 else 1  # the last one is half full on average
    leave_early = position == 0 and unit_of(stage) is None
    remaining = shares.stood[0] / max(shares.correct, 1e-9) if leave_early else 1.0
    return max(1, round(entering / batches * remaining))


def untrained(config: TrainConfig, data_dir: Path | None, place: torch.device) -> Loaded:
    """The network of a config as its training starts."""
    images, _ = splits(config, data_dir)
    loaded = from_module(network(config, images).to(place).eval(), config.recipe, config.label)
    info = loaded.info.model_copy(update={"trained_for": Threat(norm=config.threat.norm, eps=config.threat.eps)})
    return replace(
        loaded,
        info=info,
        dataset=config.dataset,
        image_size=config.image_size,
        train_digest=images.fingerprint,
        val=config.data.val,
        train_n=config.data.train_n,
    )
