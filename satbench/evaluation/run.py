"""Measuring robustness: from a model and its images to a run folder of records."""

import datetime
import functools
import itertools
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import from_outside, info_of, stages_of
from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.files import check_output_folder
from satbench.core.home import alone_in
from satbench.core.progress import Progress, silent
from satbench.data import Images, load_images, takes_loader, training_splits
from satbench.evaluation import resume, sweep
from satbench.evaluation.batch import usual_batch_size, usual_threads
from satbench.evaluation.battery import quick_trust
from satbench.evaluation.classes import chance_note, with_labels_of
from satbench.evaluation.continued import after_trust
from satbench.evaluation.executor import Search
from satbench.evaluation.fingerprint import numerics_fingerprint
from satbench.evaluation.harness import measure
from satbench.evaluation.judge import DRAWS
from satbench.evaluation.probe import Answers, answers
from satbench.evaluation.provenance import revision, versions
from satbench.evaluation.request import Network, Numbers, Request, make_request
from satbench.evaluation.search import LABELLED, PROBE, Transfer, search_on, source_name
from satbench.models.buffers import buffers_kept
from satbench.models.precision import Float32Ends
from satbench.numerics.device import resolve_device, using_threads
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import clean_table
from satbench.results.schema import SCHEMA_VERSION, DataInfo, Manifest
from satbench.results.store import MANIFEST, PARTS, RECORDS_FILE, Run, write_run
from satbench.specs.evaluation import EvaluationSpec, SearchForm
from satbench.zoo import Loaded


def evaluate(
    model: Network | EvaluationSpec,
    out: str | Path,
    attack: str | Attack | Sequence[str | Attack] | None = None,
    norm: str | None = None,
    eps: Numbers | None = None,
    steps: Numbers | None = None,
    restarts: Numbers | None = None,
    *,
    threat: str | ThreatModel | Sequence[str | ThreatModel] = (),
    data_dir: Path | None = None,
    device: str = "auto",
    command: str = "",
    progress: Progress = silent,
    **fields: Any,
) -> Run:
    """Attack a model and store one record per sample, attack and threat in the run folder `out`.

    `model` is a whole `EvaluationSpec`, or a module, or a name as `satbench.zoo.load` takes it. The further keyword
    arguments are the fields of the spec, such as `n=1000` or `search="plain"`; `dataset` may be `Images` and `source` a
    module. `attack` is one or several, objects or names, by default PGD. `norm`, `eps`, `steps`, `restarts` are comma
    lists as on the command line, or numbers. `threat`, instead of `norm` and `eps`, is one threat or several, as
    "Linf:8/255" or a `ThreatModel`. Without `threat` and `eps` the radius is the one the model was trained for in
    `norm`, by default Linf. `data_dir` is where relative data paths lie.

    The searches "bf16" and "surrogate" are part of the attack's identity, and so is `source`. The judge is always the
    model itself, on float32 images; weights of another dtype get them cast, which a note says. Buffers that passes move
    are put back before every batch and at the end. A model that draws random numbers is judged by the majority of
    `draws` passes and attacked without early stop; a tie counts as misclassified. With `trust` the quick form of the
    trust battery checks the model, for at most a tenth of the run's passes; where it doubts the number, `rapid`
    continues with the attacks of AutoAttack, and the battery runs again on what then stands.

    A killed call that is repeated continues where it stopped. A finished one is only read, which `Run.reused` says; one
    with more images, attacks or threats in the same folder computes what is new, and one whose model, attack or
    satbench has changed in its code computes everything. The records of two equal calls on one machine with equal
    `threads` are equal bytes. Raises `BadInput` before anything is written, also when `out` holds a run of another
    model, data set, seed or search, or one that this call would shrink: more images, attacks or threats, or examples or
    a trust verdict where it asks for none.
    """
    asked = make_request(model, attack, norm, eps, steps, restarts, threat, fields)
    return run_request(asked, Path(out), data_dir, device, command, progress)


def run_request(
    asked: Request,
    out: Path,
    data_dir: Path | None = None,
    device: str = "auto",
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """What `evaluate` does once it is known what was asked for."""
    started = time.monotonic()
    spec = asked.spec
    check_output_folder(out, MANIFEST, RECORDS_FILE, PARTS)
    place = resolve_device(device)
    networks = asked.networks(device)
    loaded = networks[0]
    threats = sweep.threats_of(spec, loaded.info)
    dataset = spec.dataset if asked.images is None else asked.images
    images = images_for(loaded, dataset, spec.split, spec.image_size, data_dir, spec.loader).head(spec.n)
    batch_size = spec.batch_size or usual_batch_size(loaded.model, images.shape, place)
    threads = spec.threads or max(usual_threads(one.model, images.shape, place) for one in networks)
    attacks = _labelled(list(asked.attacks), spec.search, networks[1:])
    with using_threads(threads), buffers_kept(*(one.model for one in networks)) as buffers:
        where, answered = _where(networks, images, spec.search, place)
        draws = spec.draws or (DRAWS if answered[0].random else 1)
        described = Manifest(
            schema_version=SCHEMA_VERSION,
            model=loaded.info,
            data=data_info(images, digest=""),
            threats=[Threat(norm=each.norm, eps=each.eps) for each in threats],
            attacks=[info_of(one) for one in attacks],
            seed=spec.seed,
            batch_size=batch_size,
            search=where.info,
            examples=spec.save_examples,
            trust=None,
            notes=[],
            device=str(place),
            versions=versions(),
            revision=revision(),
            fingerprint=resume.fingerprint(answered, networks, attacks),
            draws=draws,
            threads=threads,
            numerics=numerics_fingerprint(),
            command=command,
            seconds=0,
            created="",
            host=platform.node(),
        )
        finished = resume.finished(out, described, images, spec.trust)
        if finished is not None:
            return finished
        for one, each in itertools.product(attacks, threats):
            _check_threat(one, each, where.module, images)
        with alone_in(out, "eval"):
            finished = resume.finished(out, described, images, spec.trust)  # by another command since
            if finished is not None:
                return finished
            measured_with = functools.partial(
                measure,
                loaded.model,
                images,
                threats=threats,
                seed=spec.seed,
                batch_size=batch_size,
                device=place,
                progress=progress,
                search=where,
                identity=resume.identity(described),
                out=out,
                examples=spec.save_examples,
                draws=draws,
                random_network=answered[0].random,
            )
            check = functools.partial(quick_trust, loaded.model, images, threats, spec.seed)
            measured = measured_with(attacks)
            checked = check(measured.records, measured.attacks) if spec.trust else None
            further, continued = after_trust([] if networks[1:] else attacks, checked, answered[0].random)
            if further:
                measured = measured_with(further)
                checked = check(measured.records, measured.attacks)
            notes = _notes(loaded, images, measured.records, answered[0].outputs, buffers.moved())
            manifest = described.model_copy(
                update={
                    "data": data_info(images, images.digest),
                    "attacks": measured.attacks,
                    "trust": checked,
                    "notes": [*notes, *measured.notes, *continued],
                    "seconds": round(time.monotonic() - started, 3),
                    "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                }
            )
            kept = measured.examples if spec.save_examples else None
            return write_run(out, manifest, measured.records, measured.timing, kept)


def _labelled(attacks: list[Attack], search: str, sources: list[Loaded]) -> list[Attack]:
    """The attacks, their identity saying where they search if that is not a copy of the judged network."""
    if search in LABELLED:
        attacks = [LABELLED[search](one) for one in attacks]
    for other in sources:
        attacks = [Transfer(one, source=source_name(other.info)) for one in attacks]
    return attacks


def _notes(loaded: Loaded, images: Images, records: pd.DataFrame, outputs: int, moved: list[str]) -> list[str]:
    """What a reader must know of the network, of its classes, and of how it was run."""
    correct = int(clean_table(records).sum())
    given = chance_note(correct, len(images), outputs), images.note, loaded.note
    notes = [note for note in given if note is not None]
    notes += [loaded.model.note] if isinstance(loaded.model, Float32Ends) else []
    if moved:
        notes.append(f"passes in eval mode change buffers of the network ({', '.join(moved)}); they were put back")
    return notes


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


def _check_threat(attack: Attack, threat: ThreatModel, model: nn.Module, images: Images) -> None:
    """Let satbench's own attacks refuse a threat, on no images, before any work."""
    nothing = torch.empty(0, *images.shape)
    for stage in stages_of(attack):
        if not from_outside(stage):
            stage(model, nothing, torch.empty(0, dtype=torch.int64), threat, PerSample(()))


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
        raise BadInput(f"model {loaded.info.ref!r} does not say what it was trained on; give --dataset")
    wanted = loaded.image_size if size is None else size
    if split is None and ":" in name and (name == loaded.dataset or _trained_on(loaded, name, wanted, data_dir)):
        split = "test"
    if split in ("train", "val") and loaded.val is not None and name == loaded.dataset:
        trained_on, held_out = training_splits(name, wanted, data_dir, loaded.val)
        chosen = trained_on if split == "train" else held_out
        if chosen is None:
            raise BadInput(f"{loaded.info.ref} was trained without a validation split; use --split test")
        return chosen
    if loader is None and takes_loader(name):
        loader = loaded.loader
    return with_labels_of(loaded, load_images(name, split, wanted, data_dir, loader))


def _trained_on(loaded: Loaded, name: str, size: int | None, data_dir: Path | None) -> bool:
    """Whether the training images are those of this data set, however its path is spelled."""
    if loaded.train_digest is None:
        return False
    try:
        if loaded.val is not None:
            return training_splits(name, size, data_dir, loaded.val)[0].fingerprint == loaded.train_digest
        return load_images(name, "train", size, data_dir).fingerprint == loaded.train_digest
    except BadInput:
        return False
