"""Computes clean predictions and the stored examples of a run again and compares them with its records."""

from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from satbench.attacks.losses import margin
from satbench.core.errors import BadInput
from satbench.core.files import file_digest
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation.consistency import THREAT, names_of
from satbench.evaluation.judge import judge, logits_of
from satbench.evaluation.worker import DISTANCES
from satbench.numerics.threat import ThreatModel, distance
from satbench.results.store import Run, read_examples

# of the largest logit, or of a distance: another processor sums in another order, and a sum of k products of float32 is
# off by at most k 2^-24 of the sum of their sizes, 3e-4 for the 4,608 of ResNet's widest layer, and usually by its root
SLACK = 1e-3
SIZE = 64  # images at a time


def stored_faults(
    run: Run, model: nn.Module, images: Images, device: torch.device, progress: Progress = silent
) -> list[str]:
    """Clean predictions and stored examples, if the run kept any, that do not give what is recorded of them.

    Raises `BadInput` when a file of examples is missing or damaged.
    """
    faults, largest = _clean_faults(run, model, images, device)
    if run.manifest.examples:
        faults += _example_faults(run, model, images, largest, device, progress)
    return faults


def _clean_faults(run: Run, model: nn.Module, images: Images, device: torch.device) -> tuple[list[str], Tensor]:
    """Clean predictions that do not hold, and the largest logit of each image by size, float32 (N,)."""
    rows = run.records.head(len(images))
    faults, largest = [], []
    start = 0
    for ids, x, y in images.batches(run.manifest.batch_size):
        logits = logits_of(model, x.to(device), y.to(device)).cpu()
        slack = SLACK * logits.abs().amax(1)
        part = rows.iloc[start : start + len(ids)]
        claimed = torch.tensor(part["clean_prediction"].to_numpy()).long()
        possible = (claimed >= 0) & (claimed < logits.shape[1])
        reached = logits.gather(1, torch.where(possible, claimed, 0)[:, None])[:, 0]
        wrong = ~possible | (reached < logits.amax(1) - slack)
        faults += [
            f"{ids[i]}: clean prediction is {int(logits[i].argmax())}, recorded {int(claimed[i])}"
            for i in wrong.nonzero()[:, 0].tolist()
        ]
        recorded = torch.tensor(part["margin"].to_numpy())
        moved = ~((recorded - margin(logits, y.cpu())).abs() <= slack) & (claimed != y.cpu()) & ~wrong
        faults += [f"{ids[i]}: wrong without an attack, but by another margin" for i in moved.nonzero()[:, 0].tolist()]
        largest.append(slack / SLACK)
        start += len(ids)
    for column in ("clean_prediction", "margin"):
        first = run.records.groupby("sample_id")[column].transform("first")
        varies = run.records["clean_prediction"] != run.records["label"]
        varies = (varies if column == "margin" else True) & (run.records[column] != first)
        faults += [f"{row}: another clean {column} than in other records" for row in names_of(run.records[varies])]
    return faults, torch.cat(largest)


def _example_faults(
    run: Run, model: nn.Module, images: Images, largest: Tensor, device: torch.device, progress: Progress
) -> list[str]:
    """Stored examples that do not prove their record, and records of broken images without an example.

    `largest` is the largest logit of each image by size.
    """
    listed = read_examples(run)
    files = listed.drop_duplicates("example_file")
    faults = [
        f"{row.example_file} is not the file that the run wrote"
        for row in files.itertuples()
        if file_digest(run.path / str(row.example_file)) not in ("absent", row.example_digest)
    ]
    keys = [*THREAT, "sample_id"]
    twice = listed[listed.duplicated(keys)]
    faults += [f"{row}: several examples are listed" for row in names_of(twice)]
    records = run.records.merge(listed.drop_duplicates(keys), how="left", on=keys)
    claimed = records["broken"] & (records["clean_prediction"] == records["label"])
    has = records["example_file"].notna()
    faults += [
        f"{row}: an example is kept of an image that no attack broke" for row in names_of(records[has & ~claimed])
    ]
    faults += [f"{row}: recorded as broken, but no example is kept" for row in names_of(records[claimed & ~has])]
    if int(has.sum()) != len(listed.drop_duplicates(keys)):
        faults.append("examples are listed of images or attacks that have no record")
    total, done = int((claimed & has).sum()), 0
    for (attack, norm, eps), group in records[claimed & has].groupby(THREAT, sort=False):
        for start in range(0, len(group), SIZE):
            part = group.iloc[start : start + SIZE]
            faults += _faults(run.path, model, images, largest, part, ThreatModel(norm, eps), device)
            done += len(part)
            progress(done, total, f"{attack} {norm} {eps:g}")
    return faults


def _faults(
    folder: Path,
    model: nn.Module,
    images: Images,
    largest: Tensor,
    part: pd.DataFrame,
    threat: ThreatModel,
    device: torch.device,
) -> list[str]:
    """What does not hold of these records of broken images, all of which have an example."""
    position = {one: row for row, one in enumerate(images.ids)}
    rows = [position[one] for one in part["sample_id"]]
    _, x, y = next(iter(images.take(rows).batches(len(rows))))
    x_adv = torch.stack([example(folder, row.example_file, row.example_row) for row in part.itertuples()])
    if x_adv.shape != x.shape:
        return [f"{folder}: examples have shape {tuple(x_adv.shape)}, images {tuple(x.shape)}"]
    seen = judge(model, x.to(device), x_adv.to(device), y.to(device), threat)
    moved = {column: distance(norm, x, x_adv).tolist() for column, norm in DISTANCES.items()}
    faults = []
    for i, (row, name) in enumerate(zip(part.itertuples(), names_of(part), strict=True)):
        prediction, found, slack = int(seen.predictions[i]), float(seen.margins[i]), SLACK * float(largest[rows[i]])
        farther = [
            f"is {moved[column][i]:g} away in {norm}, recorded {getattr(row, column):g}"
            for column, norm in DISTANCES.items()
            if not abs(moved[column][i] - getattr(row, column)) <= SLACK * moved[column][i]
        ]
        if seen.violations[i]:
            faults.append(f"{name}: the example is {seen.violations[i]}")
        elif prediction == row.label and not found >= -slack:
            faults.append(f"{name}: the example is classified correctly, as {prediction}")
        elif prediction not in (row.prediction, row.label):
            faults.append(f"{name}: the example is classified as {prediction}, recorded {row.prediction}")
        elif not abs(found - float(row.margin)) <= slack:
            faults.append(f"{name}: the example's margin is {found:g}, recorded {row.margin:g}")
        elif farther:
            faults.append(f"{name}: the example {farther[0]}")
    return faults


def example(folder: Path, name: str, row: int) -> Tensor:
    """The attacked image float (C, H, W) in a row of the file `name`; raises `BadInput` where that is damaged."""
    try:
        with safe_open(folder / name, "pt") as file:
            example: Tensor = file.get_slice("x_adv")[int(row)]
            return example
    except (OSError, SafetensorError, IndexError) as error:
        raise BadInput(
            f"{folder / name} is missing or damaged ({type(error).__name__}); delete it and run the eval again"
        ) from None
