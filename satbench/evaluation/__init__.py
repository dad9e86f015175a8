"""Measuring robustness: from a model and its images to a run folder of records."""

import datetime
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from torch import nn

from satbench.attacks import Attack
from satbench.data import Images, load_images, takes_loader
from satbench.device import resolve_device
from satbench.errors import BadInput
from satbench.evaluation import sweep
from satbench.evaluation.batch import usual_batch_size
from satbench.evaluation.harness import measure
from satbench.evaluation.provenance import revision, versions
from satbench.models.weights import model_digest
from satbench.progress import Progress, silent
from satbench.results.schema import SCHEMA_VERSION, DataInfo, Manifest, ModelInfo, Threat
from satbench.results.store import MANIFEST, RECORDS_FILE, Run, check_output_folder, write_run
from satbench.threat import ThreatModel
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
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Attack a model and store one record per sample, attack and threat in the run folder `out`.

    `model` is a module, or a name as `satbench.zoo.load` takes it. `norm`, `eps`, `steps`, `restarts` are comma lists
    as on the command line, or numbers. `dataset` is what `load_images` takes; a satbench run knows its own.
    `split` defaults to "test", but to "all" for files without a split of their own that the model was not trained on,
    and to "val" for ImageNet. `image_size` and `loader` default to the model's own, `batch_size` to
    `usual_batch_size`.
    The records of two equal calls on one machine are equal bytes. Raises `BadInput` before anything is written.
    """
    started = time.monotonic()
    out = Path(out)
    check_output_folder(out, MANIFEST, RECORDS_FILE)
    threats = sweep.threats(norm, _listed(eps))
    given = [attack] if isinstance(attack, str) else list(attack)
    attacks: list[Attack] = [one for one in given if not isinstance(one, str)]
    attacks += sweep.attacks([one for one in given if isinstance(one, str)], _listed(steps), _listed(restarts))
    if not attacks:
        raise BadInput("no attack is given; name one, such as --attack pgd")
    if batch_size is not None and batch_size < 1:
        raise BadInput(f"--batch-size {batch_size}; give a positive number")
    place = resolve_device(device)
    loaded = _loaded(model, checkpoint, device)
    images = _images(loaded, dataset, split, image_size, data_dir, loader).head(n)
    batch_size = batch_size or usual_batch_size(loaded.model, images.shape, place)
    records = measure(loaded.model, images, attacks, threats, seed, batch_size, place, progress)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        model=loaded.info,
        data=DataInfo(
            name=images.name,
            split=images.split,
            n=len(images),
            digest=images.digest,
            loader=images.loader,
            image_size=images.shape[-1],
        ),
        threats=[Threat(norm=threat.norm, eps=threat.eps) for threat in threats],
        attacks=[repr(one) for one in attacks],
        seed=seed,
        batch_size=batch_size,
        device=str(place),
        versions=versions(),
        revision=revision(),
        command=command,
        seconds=round(time.monotonic() - started, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        host=platform.node(),
    )
    return write_run(out, manifest, records)


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


def _images(
    loaded: Loaded,
    dataset: str | Images | None,
    split: str | None,
    size: int | None,
    data_dir: Path | None,
    loader: str | None,
) -> Images:
    if isinstance(dataset, Images):
        return dataset
    name = dataset or loaded.dataset
    if name is None:
        raise BadInput(f"model {loaded.info.ref!r} does not say what it was trained on; give --dataset")
    wanted = loaded.image_size if size is None else size
    if split is None and ":" in name and (name == loaded.dataset or _trained_on(loaded, name, wanted, data_dir)):
        split = "test"
    if loader is None and takes_loader(name):
        loader = loaded.loader
    return load_images(name, split, wanted, data_dir, loader)


def _trained_on(loaded: Loaded, name: str, size: int | None, data_dir: Path | None) -> bool:
    """Whether the training images are those of this data set, however its path is spelled."""
    if loaded.train_digest is None:
        return False
    try:
        return load_images(name, "train", size, data_dir).in_memory().digest == loaded.train_digest
    except BadInput:
        return False


__all__ = ["Progress", "Run", "ThreatModel", "evaluate", "silent"]
