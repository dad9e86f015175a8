"""Checks the stored examples of a run from scratch: on another machine, by someone who does not believe it."""

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from satbench.attacks.base import crafting
from satbench.data import Images, load_images
from satbench.device import resolve_device
from satbench.errors import BadInput
from satbench.evaluation.batch import usual_batch_size
from satbench.evaluation.classes import with_labels_of
from satbench.evaluation.judge import judge, logits_of
from satbench.progress import Progress, silent
from satbench.results.store import Run, read_examples, read_run, records_digest
from satbench.threat import ThreatModel
from satbench.zoo import Loaded, load

SLACK = 1e-3  # of a margin or distance: another processor rounds otherwise


@dataclass(frozen=True)
class Verified:
    """How many claims of a run were computed again, and a sentence for each that did not hold."""

    clean: int
    broken: int
    unproven: int
    faults: list[str]


def verify(
    run: Run | str | Path,
    model: str | Loaded | None = None,
    dataset: str | Images | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Verified:
    """Compute every clean prediction and every stored example of a run again and compare with its records.

    For each record that says an image was broken by an attack there must be an example: inside ball and box around the
    very image (same hash), of the recorded class under the recorded network (same digest), which is wrong. What no
    example can prove, the images that stand, is counted as `unproven`. `model` and `dataset` say where network and
    images are when they have moved. Raises `BadInput` when the run kept no examples, or network or images differ.
    """
    run = run if isinstance(run, Run) else read_run(Path(run))
    listed = read_examples(run)
    said = run.manifest
    loaded = model if isinstance(model, Loaded) else load(model or said.model.ref, device=device)
    if loaded.info.digest != said.model.digest:
        raise BadInput(
            f"{run.path} measured a network of digest {said.model.digest}, {loaded.info.ref!r} has "
            f"{loaded.info.digest}; name the one that was measured with --model"
        )
    images = _images(said.data.name, said.data.split, said.data.image_size, said.data.loader, dataset, data_dir)
    images = with_labels_of(loaded, images.head(said.data.n))
    if images.digest != said.data.digest:
        raise BadInput(f"the images of {images.name} are not those of {run.path}: ids, labels or pixels differ")
    place = resolve_device(device)
    loaded.model.to(place)
    size = usual_batch_size(loaded.model, images.shape, place)
    records = run.records.merge(listed, how="left", on=["attack", "norm", "eps", "sample_id"])
    faults = [] if records_digest(run.path) == said.records else ["records.parquet is not the file that the run wrote"]
    if len(run.records) != len(said.attacks) * len(said.threats) * said.data.n:
        faults.append(
            f"{len(run.records)} records, but {len(said.attacks)} attacks, {len(said.threats)} threats and "
            f"{said.data.n} images"
        )
    standing = records[~records["broken"] & records["example_file"].notna()]
    faults += [f"{one}: an example is kept of an image that is recorded as standing" for one in standing["sample_id"]]
    total, done = int((records["broken"] & (records["clean_prediction"] == records["label"])).sum()), 0
    with crafting(loaded.model):
        faults += _clean_faults(loaded, images, records, size, place)
        attacked = records[records["clean_prediction"] == records["label"]]
        for (attack, norm, eps), group in attacked[attacked["broken"]].groupby(["attack", "norm", "eps"], sort=False):
            threat = ThreatModel(norm, eps)
            for start in range(0, len(group), size):
                part = group.iloc[start : start + size]
                faults += [f"{attack} {threat}: {fault}" for fault in _faults(run.path, loaded, images, part, threat)]
                done += len(part)
                progress(done, total, f"{attack} {threat}")
    return Verified(len(images), total, len(attacked) - total, faults)


def _images(
    name: str, split: str, size: int | None, loader: str | None, given: str | Images | None, data_dir: Path | None
) -> Images:
    if isinstance(given, Images):
        return given
    return load_images(given or name, split, size, data_dir, loader)


def _clean_faults(loaded: Loaded, images: Images, records: pd.DataFrame, size: int, place: torch.device) -> list[str]:
    claimed = records.drop_duplicates("sample_id").set_index("sample_id")["clean_prediction"]
    wrong = []
    for ids, x, y in images.batches(size):
        found = logits_of(loaded.model, x.to(place), y.to(place)).argmax(1).tolist()
        pairs = [(one, seen, claimed.get(one)) for one, seen in zip(ids, found, strict=True)]
        wrong += [f"{one}: clean prediction is {seen}, recorded {said}" for one, seen, said in pairs if seen != said]
    mistaken = records["clean_prediction"] != records["label"]
    unmarked = records[mistaken & ~records["broken"]]
    return wrong + [f"{one}: wrong as it is, but recorded as standing" for one in unmarked["sample_id"].unique()]


def _faults(folder: Path, loaded: Loaded, images: Images, part: pd.DataFrame, threat: ThreatModel) -> list[str]:
    """What does not hold of these records, all of which claim a broken image."""
    without = part["example_file"].isna()
    faults = [f"{one}: recorded as broken, but no example is kept" for one in part.loc[without, "sample_id"]]
    part = part[~without]
    if part.empty:
        return faults
    place = next(loaded.model.parameters(), torch.empty(0)).device
    position = {one: row for row, one in enumerate(images.ids)}
    _, x, y = next(iter(images.take([position[one] for one in part["sample_id"]]).batches(len(part))))
    x_adv = torch.stack([_example(folder, row.example_file, row.example_row) for row in part.itertuples()])
    if x_adv.shape != x.shape:
        return [*faults, f"examples have shape {tuple(x_adv.shape)}, images {tuple(x.shape)}"]
    seen = judge(loaded.model, x.to(place), x_adv.to(place), y.to(place), threat)
    margins, distances = seen.margins.tolist(), threat.distance(x, x_adv).tolist()
    outcome = zip(part.itertuples(), seen.predictions.tolist(), seen.violations, margins, distances, strict=True)
    for row, prediction, violation, found, moved in outcome:
        if violation:
            faults.append(f"{row.sample_id}: the example is {violation}")
        elif prediction == row.label:
            faults.append(f"{row.sample_id}: the example is classified correctly, as {prediction}")
        elif prediction != row.prediction:
            faults.append(f"{row.sample_id}: the example is classified as {prediction}, recorded {row.prediction}")
        elif not math.isclose(found, row.margin, rel_tol=SLACK, abs_tol=SLACK):
            faults.append(f"{row.sample_id}: the example's margin is {found:g}, recorded {row.margin:g}")
        elif not math.isclose(moved, recorded := getattr(row, f"distance_{threat.norm.lower()}"), rel_tol=SLACK):
            faults.append(f"{row.sample_id}: the example is {moved:g} away, recorded {recorded:g}")
    return faults


def _example(folder: Path, name: str, row: int) -> Tensor:
    try:
        with safe_open(folder / name, "pt") as file:
            example: Tensor = file.get_slice("x_adv")[int(row)]
            return example
    except (OSError, SafetensorError, IndexError) as error:
        raise BadInput(
            f"{folder / name} is missing or damaged ({type(error).__name__}); delete it and run the eval again"
        ) from None
