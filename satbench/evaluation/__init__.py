"""Measuring robustness: from a model and its images to a run folder of records."""

import datetime
import itertools
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import crafting, from_outside, stages_of
from satbench.data import Images, load_images, takes_loader, training_splits
from satbench.device import resolve_device
from satbench.errors import BadInput
from satbench.evaluation import resume, sweep
from satbench.evaluation.batch import usual_batch_size
from satbench.evaluation.harness import Search, measure
from satbench.evaluation.judge import logits_of
from satbench.evaluation.provenance import revision, versions
from satbench.evaluation.search import FOLDED, LABELLED, PROBE, Transfer, check_search, search_on
from satbench.home import alone_in
from satbench.models.weights import model_digest
from satbench.progress import Progress, silent
from satbench.results.schema import SCHEMA_VERSION, DataInfo, Manifest, ModelInfo, Threat
from satbench.results.store import MANIFEST, PARTS, RECORDS_FILE, Run, check_output_folder, write_run
from satbench.seeding import PerSample
from satbench.threat import ThreatModel
from satbench.trust import examine
from satbench.zoo import Loaded, load


def evaluate(
    model: str | nn.Module | Loaded,
    out: str | Path,
    attack: str | Sequence[str | Attack] = "pgd",
    norm: str = "Linf",
    eps: str | float | Sequence[str | float] = "8/255",
    steps: str | int | Sequence[int] | None = None,
    restarts: str | int | Sequence[int] | None = None,
    dataset: str | Images | None = None,
    split: str | None = None,
    image_size: int | None = None,
    loader: str | None = None,
    data_dir: Path | None = None,
    n: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    checkpoint: Path | None = None,
    source: str | nn.Module | Loaded | None = None,
    search: str = FOLDED,
    save_examples: bool = False,
    trust: bool = True,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Attack a model and store one record per sample, attack and threat in the run folder `out`.

    `model` is a module, or a name as `satbench.zoo.load` takes it. `norm`, `eps`, `steps`, `restarts` are comma lists
    as on the command line, or numbers. `dataset` is what `load_images` takes; a satbench run knows its own.
    `split` defaults to "test", but to "all" for files without a split of their own that the model was not trained on,
    and to "val" for ImageNet. `image_size` and `loader` default to the model's own, `batch_size` to
    `usual_batch_size`.

    The attacks search on a private copy of the model with folded batch norms ("folded"), on the model as it is
    ("plain"), on a copy in bfloat16 ("bf16"), or with parametric softplus' derivative for every ReLU's ("surrogate");
    the last two are part of the attack's identity. With `source` they search on that other network. The judge is
    always the model itself in float32. `save_examples` keeps the examples that broke an image, for
    `verify`. `trust` has the quick form of the trust battery check the model, for at most a tenth of the run's passes.

    A killed call that is repeated goes on where it stopped; a finished one is only read; one with more images, attacks
    or threats in the same folder computes what is new. The records of two equal calls on one machine are equal bytes.
    Raises `BadInput` before anything is written, also when `out` holds a run of another model, data set, seed or
    search, or one that this call would shrink: more images, attacks or threats, or examples or a trust verdict where it
    asks for none.
    """
    started = time.monotonic()
    out = Path(out)
    check_output_folder(out, MANIFEST, RECORDS_FILE, PARTS)
    threats = sweep.threats(norm, _listed(eps))
    given = [attack] if isinstance(attack, str) else list(attack)
    attacks: list[Attack] = [one for one in given if not isinstance(one, str)]
    attacks += sweep.attacks([one for one in given if isinstance(one, str)], _listed(steps), _listed(restarts))
    if not attacks:
        raise BadInput("no attack is given; name one, such as --attack pgd")
    if batch_size is not None and batch_size < 1:
        raise BadInput(f"--batch-size {batch_size}; give a positive number")
    check_search(search)
    place = resolve_device(device)
    loaded = _loaded(model, checkpoint, device)
    other = None if source is None else _loaded(source, None, device)
    images = images_for(loaded, dataset, split, image_size, data_dir, loader).head(n)
    batch_size = batch_size or usual_batch_size(loaded.model, images.shape, place)
    if search in LABELLED:
        attacks = [LABELLED[search](one) for one in attacks]
    if other is not None:
        name = f"{other.info.label}@{other.info.digest.removeprefix('sha256:')[:12]}"
        attacks = [Transfer(one, source=name) for one in attacks]
    where, logits = _where(loaded, other, images, search, place)
    described = Manifest(
        schema_version=SCHEMA_VERSION,
        model=loaded.info,
        data=DataInfo(
            name=images.name,
            split=images.split,
            n=len(images),
            digest="",
            loader=images.loader,
            image_size=images.shape[-1],
        ),
        threats=[Threat(norm=threat.norm, eps=threat.eps) for threat in threats],
        attacks=[repr(one) for one in attacks],
        seed=seed,
        batch_size=batch_size,
        search=where.how,
        examples=save_examples,
        trust=None,
        notes=[],
        device=str(place),
        versions=versions(),
        revision=revision(),
        fingerprint=resume.fingerprint(logits, attacks),
        command=command,
        seconds=0,
        created="",
        host=platform.node(),
    )
    finished = resume.finished(out, described, images, trust)
    if finished is not None:
        return finished
    for one, threat in itertools.product(attacks, threats):
        _check_threat(one, threat, where.module, images)
    with alone_in(out, "eval"):
        finished = resume.finished(out, described, images, trust)  # by another command since
        if finished is not None:
            return finished
        measured = measure(
            loaded.model,
            images,
            attacks,
            threats,
            seed,
            batch_size,
            place,
            progress,
            where,
            resume.identity(described),
            out,
            save_examples,
        )
        checked = None
        if trust:
            passes = int(measured.records[["forward", "backward"]].to_numpy().sum())
            checked = examine(
                loaded.model,
                images,
                max((one for one in threats if one.norm == threats[0].norm), key=lambda one: one.eps),
                seed=seed,
                depth="quick",
                budget=passes // 10,
                records=measured.records,
            )
        manifest = described.model_copy(
            update={
                "data": described.data.model_copy(update={"digest": images.digest}),
                "trust": checked,
                "notes": measured.notes,
                "seconds": round(time.monotonic() - started, 3),
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
        )
        return write_run(out, manifest, measured.records, measured.timing, measured.examples if save_examples else None)


@overload
def _listed(value: None) -> None: ...
@overload
def _listed(value: str | float | Sequence[str | float]) -> str: ...
def _listed(value: str | float | Sequence[str | float] | None) -> str | None:
    """Numbers as the comma list a command line would hold."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else ",".join(map(str, value))


def _loaded(model: str | nn.Module | Loaded, checkpoint: Path | None, device: str) -> Loaded:
    if isinstance(model, Loaded):
        return model
    if isinstance(model, nn.Module):
        name = type(model).__name__
        model.to(resolve_device(device))
        return Loaded(model, ModelInfo(ref=name, digest=model_digest(model), label=name))
    return load(model, checkpoint, device)


def _where(
    loaded: Loaded, other: Loaded | None, images: Images, search: str, place: torch.device
) -> tuple[Search, torch.Tensor]:
    """Where the attacks search, and what that network and the judged one say to the first images.

    Raises `BadInput` for a network that does not fit the images.
    """
    _, probe, _ = next(iter(images.head(min(PROBE, len(images))).batches(PROBE)))
    probe = probe.to(place)
    logits = []
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        for one in filter(None, (loaded, other)):
            torch.manual_seed(0)
            with crafting(one.model):
                logits.append(logits_of(one.model, probe, images.y))
        return search_on((other or loaded).model, probe, search, another=other is not None), torch.cat(logits, 1)


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
        return dataset
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
    return load_images(name, split, wanted, data_dir, loader)


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


__all__ = ["Progress", "Run", "ThreatModel", "evaluate", "images_for", "silent"]
