"""What an evaluation runs on, once networks and images are there."""

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from satbench.attacks import Attack
from satbench.attacks.base import from_outside, info_of, stages_of
from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.plugins import check_allowed
from satbench.core.progress import Progress
from satbench.data import Images, is_own_data, load_images, takes_loader, training_splits
from satbench.evaluation import resume, sweep
from satbench.evaluation.assemble import Measured, assemble
from satbench.evaluation.batch import usual_batch_size
from satbench.evaluation.battery import quick_trust, trust_part
from satbench.evaluation.classes import with_labels_of
from satbench.evaluation.compute import compute, keys_of, step_name
from satbench.evaluation.executor import Executor, Search
from satbench.evaluation.fingerprint import numerics_fingerprint
from satbench.evaluation.joining import Begun, fingerprint_in
from satbench.evaluation.judge import DRAWS
from satbench.evaluation.parts import Work
from satbench.evaluation.plan import Plan, Step
from satbench.evaluation.probe import Answers, answers
from satbench.evaluation.provenance import revision, versions
from satbench.evaluation.request import Request
from satbench.evaluation.search import LABELLED, PROBE, Transfer, search_on, source_name
from satbench.evaluation.worker import Worker
from satbench.models.classifier import channels_of
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import SCHEMA_VERSION, DataInfo, Manifest, Trust
from satbench.results.store import PARTS, Run
from satbench.specs.evaluation import EvaluationSpec, SearchForm
from satbench.zoo import Loaded


@dataclass(frozen=True)
class Setting:
    """The judged network, perhaps one to search on, the images and the attacks of an evaluation in the folder `out`.

    `described` is the manifest as far as it is known before anything is measured.
    """

    spec: EvaluationSpec
    out: Path
    networks: list[Loaded]
    images: Images
    threats: list[ThreatModel]
    attacks: list[Attack]
    place: torch.device
    where: Search
    answered: Answers
    here: Begun
    described: Manifest

    def finished(self) -> Run | None:
        """The run in the folder, if it is the one that is wanted, whole; see `resume.finished`."""
        return resume.finished(self.out, self.described, self.images, self.spec.trust)

    def measured(self, attacks: list[Attack], progress: Progress, patient: bool) -> Measured | None:
        """What the attacks do; None while others compute parts of it.

        A sample that is misclassified as it is counts as broken and is not attacked; one that a smaller eps of the same
        attack and norm has broken is broken by that example, at no passes. An ensemble's stages run on what still
        stands of the whole run. Images in files are decoded when they are needed. When memory runs out, half as many
        images go through the network at a time.
        """
        said, random = self.described, self.answered.random
        model = self.networks[0].model
        executor = Executor(model, self.where, said.batch_size, said.seed, said.draws, random)
        plan = Plan(keys_of(self.images), attacks, self.threats, executor.stages, said.batch_size, self._work)
        worker = Worker(executor, self.images, said.seed, self.place, self.here.numerics)
        if not compute(plan, worker, progress, patient):
            return None
        return assemble(plan, attacks, self.threats, said.draws, random)

    def _work(self, step: Step) -> Work:
        said = self.described
        name = step_name(step, resume.identity(said), said.seed, said.search.identity, self.place.type)
        return Work(self.out, name, said.examples and step.attack is not None)

    def withdraw(self) -> None:
        """Delete what a run that was refused has stored, unless an attack has finished some of it."""
        parts = self.out / PARTS
        clean = self._work(Step(None, None, 0, None, self.described.batch_size)).folder
        if not any(folder != clean and folder.is_dir() for folder in parts.glob("*")):
            shutil.rmtree(parts, ignore_errors=True)

    def checked(self, measured: Measured, patient: bool) -> Trust | None:
        """The verdict of the quick trust battery; None while another worker computes it."""

        def check() -> Trust:
            model, seed = self.networks[0].model, self.described.seed
            return quick_trust(model, self.images, self.threats, seed, measured.records, measured.attacks)

        decisive = resume.identity(self.described) | {"threats": list(map(str, self.threats))}
        records, seed = measured.records, self.described.seed
        return trust_part(self.out, decisive, seed, records, measured.attacks, check, patient)

    def check_threats(self) -> None:
        """Let satbench's own attacks refuse a threat, on no images, before any work."""
        nothing = torch.empty(0, *self.images.shape)
        stages = [stage for attack in self.attacks for stage in stages_of(attack) if not from_outside(stage)]
        for stage in stages:
            for threat in self.threats:
                stage(self.where.module, nothing, torch.empty(0, dtype=torch.int64), threat, PerSample(()))


def prepare(
    asked: Request, networks: list[Loaded], images: Images, threads: int, out: Path, place: torch.device, command: str
) -> Setting:
    """Look at what networks answer on the first images, and decide where the attacks search.

    Raises `BadInput` for networks, images and attacks that do not go together.
    """
    spec, loaded = asked.spec, networks[0]
    threats = sweep.threats_of(spec, loaded.info)
    attacks = _labelled(list(asked.attacks), spec.search, networks[1:])
    where, answered = _where(networks, images, spec.search, place)
    code = resume.code_digest(networks, attacks)
    here = Begun.here(resume.fingerprint(answered, code), code, numerics_fingerprint(), answered)
    described = Manifest(
        schema_version=SCHEMA_VERSION,
        model=loaded.info,
        data=data_info(images, digest=""),
        threats=[Threat(norm=each.norm, eps=each.eps) for each in threats],
        attacks=[info_of(one) for one in attacks],
        seed=spec.seed,
        batch_size=spec.batch_size or usual_batch_size(loaded.model, images.shape, place),
        search=where.info,
        examples=spec.save_examples,
        trust=None,
        notes=[],
        device=str(place),
        versions=versions(),
        revision=revision(),
        fingerprint=fingerprint_in(out, here),
        draws=spec.draws or (DRAWS if answered[0].random else 1),
        threads=threads,
        numerics=here.numerics,
        command=command,
        seconds=0,
        created="",
        host=platform.node(),
    )
    return Setting(spec, out, networks, images, threats, attacks, place, where, answered[0], here, described)


def _labelled(attacks: list[Attack], search: str, sources: list[Loaded]) -> list[Attack]:
    """The attacks, their identity saying where they search if that is not a copy of the judged network."""
    if search in LABELLED:
        attacks = [LABELLED[search](one) for one in attacks]
    for other in sources:
        attacks = [Transfer(one, source=source_name(other.info)) for one in attacks]
    return attacks


def data_info(images: Images, digest: str) -> DataInfo:
    """The images as a manifest describes them; `digest` is theirs, "" before it is known."""
    return DataInfo(
        name=images.name,
        split=images.split,
        n=len(images),
        digest=digest,
        loader=images.loader,
        image_size=images.shape[-1],
    )


def _where(
    networks: list[Loaded], images: Images, search: SearchForm, place: torch.device
) -> tuple[Search, list[Answers]]:
    """Where the attacks search, on the last of the networks, and what each answers on the first images.

    Raises `BadInput` for a network that does not fit the images.
    """
    _, probe, _ = next(iter(images.head(min(PROBE, len(images))).batches(PROBE)))
    probe = probe.to(place)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        answered = [
            answers(one.model, probe, images.y, min(PROBE, usual_batch_size(one.model, images.shape, place)))
            for one in networks
        ]
        return search_on(networks[-1].model, probe, search, another=len(networks) > 1), answered


def images_for(
    loaded: Loaded,
    dataset: str | Images | None,
    split: str | None,
    size: int | None,
    data_dir: Path | None,
    loader: str | None,
) -> Images:
    """The images that a network is measured on where `dataset` and the others, if given, do not say otherwise."""
    if isinstance(dataset, Images):
        return with_labels_of(loaded, dataset)
    name = dataset or loaded.dataset
    if name is None:
        raise BadInput(f"model {loaded.info.reference!r} does not say what it was trained on; give --dataset")
    if dataset is None and is_own_data(name):
        check_allowed(name, loaded.info.reference)
    wanted = loaded.image_size if size is None else size
    channels = channels_of(loaded.model)
    if split is None and ":" in name and (name == loaded.dataset or _trained_on(loaded, name, wanted, data_dir)):
        split = "test"
    own = loaded.val is not None or loaded.train_n is not None
    if split in ("train", "val") and own and name == loaded.dataset:
        trained_on, held_out = training_splits(name, wanted, data_dir, loaded.val, loaded.train_n, channels=channels)
        chosen = trained_on if split == "train" else held_out
        if chosen is None:
            raise BadInput(f"{loaded.info.reference} was trained without a validation split; use --split test")
        return chosen
    if loader is None and takes_loader(name):
        loader = loaded.loader
    return with_labels_of(loaded, load_images(name, split, wanted, data_dir, loader, channels))


def _trained_on(loaded: Loaded, name: str, size: int | None, data_dir: Path | None) -> bool:
    """Whether the training images are those of this data set, however its path is spelled."""
    if loaded.train_digest is None:
        return False
    try:
        return any(
            training_splits(name, size, data_dir, loaded.val, loaded.train_n, in_files, channels_of(loaded.model))[
                0
            ].fingerprint
            == loaded.train_digest
            for in_files in (True, False)
        )
    except BadInput:
        return False
