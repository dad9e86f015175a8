"""Examples of a run as pictures for its page."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from satbench.core.errors import BadInput
from satbench.core.plugins import check_allowed
from satbench.data import is_own_data, load_images
from satbench.evaluation.stored import example
from satbench.reporting.examples import EACH, Example
from satbench.reporting.names import ClassNames, short_names, threat_name
from satbench.reporting.pictures import Picture, small
from satbench.results.store import Run, read_examples


def examples_of(run: Run, data_dir: Path | None = None, dataset: str | None = None) -> tuple[Example, ...]:
    """The run's `pictures_of` as the card of a leaderboard shows them."""
    return tuple(map(small, pictures_of(run, data_dir, dataset)))


def pictures_of(run: Run, data_dir: Path | None = None, dataset: str | None = None) -> list[Picture]:
    """The first `EACH` images that the run's strongest attack broke, in the order of the records, each once.

    The images are read again from where `load_images` finds them, as `dataset` where they have another name now. Raises
    `BadInput` where the run kept no examples, no image was broken, or the images are others than those of the run.
    """
    examples = read_examples(run)
    data = run.manifest.data
    if dataset is None and is_own_data(data.name):
        check_allowed(data.name, run.path)
    images = load_images(dataset or data.name, data.split, data.image_size, data_dir, data.loader).head(data.n)
    if images.digest != data.digest:
        raise BadInput(f"the images of {images.name} are not those of {run.path}: ids, labels or pixels differ")
    strongest = max(run.manifest.attacks, key=lambda one: (one.strength, one.id))
    chosen = run.records.merge(examples, on=["attack", "norm", "eps", "sample_id"])
    is_shown = (chosen["attack"] == strongest.id) & (chosen["clean_prediction"] == chosen["label"])
    chosen = chosen[is_shown].drop_duplicates("sample_id").head(EACH)
    if chosen.empty:
        raise BadInput(f"{run.path} has no example of {strongest.label} that broke an image; give another run")
    attack = short_names(run.manifest.attacks)[strongest.id]
    places = {sample: place for place, sample in enumerate(images.ids)}
    _, x, _ = next(iter(images.take([places[sample] for sample in chosen["sample_id"]]).batches(len(chosen))))
    names = ClassNames(images.ids, images.y.tolist())
    return [
        _picture(
            original,
            example(run.path, row.example_file, row.example_row),
            network=run.manifest.model.label,
            attack=f"{attack} at {threat_name(row.norm, row.eps)}",
            sample=row.sample_id,
            label=names[row.label],
            clean=names[row.clean_prediction],
            predicted=names[row.prediction],
        )
        for row, original in zip(chosen.itertuples(index=False), x, strict=True)
    ]


def pixels(x: Tensor) -> npt.NDArray[np.uint8]:
    """An image (C, H, W) in [0, 1] as it is drawn, (H, W, C)."""
    drawn: npt.NDArray[np.uint8] = (x * 255).round().byte().permute(1, 2, 0).numpy()
    return drawn


def _picture(x: Tensor, x_adv: Tensor, **said: Any) -> Picture:
    delta = x_adv - x
    largest = float(delta.abs().max())
    perturbation = (delta / (largest or 1.0) * 127).round().to(torch.int8).permute(1, 2, 0).numpy()
    return Picture(largest=largest, image=pixels(x), perturbation=perturbation, attacked=pixels(x_adv), **said)
