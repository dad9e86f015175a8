"""Stored examples as pictures of a page."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_networks import nearest_mean

from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.evaluation import evaluate
from satbench.evaluation.pictures import pictures_of
from satbench.results.store import read_examples


def test_a_picture_is_the_image_and_what_broke_it(tmp_path: Path) -> None:
    settings = {"eps": 0.2, "dataset": "digits", "split": "test", "n": 12, "trust": False, "save_examples": True}
    run = evaluate(nearest_mean(), tmp_path / "run", ["fgsm", "pgd:steps=5"], **settings)
    pictures = pictures_of(run, count=2)
    images = load_images("digits", "test")
    stored = read_examples(run).merge(run.records, on=["attack", "norm", "eps", "sample_id"])
    assert len(pictures) == 2
    for one in pictures:
        (row,) = stored[stored["attack"].str.contains("steps=5") & (stored["sample_id"] == one.sample)].itertuples()
        x = images.x[images.ids.index(one.sample)]
        x_adv = load_file(run.path / row.example_file)["x_adv"][row.example_row]
        assert (one.label, one.clean, one.predicted) == tuple(
            f"class {label}" for label in (row.label, row.label, row.prediction)
        )
        assert one.image.shape == (8, 8, 1)
        assert np.abs(one.image[..., 0] / 255 - x[0].numpy()).max() <= 0.5 / 255 + 1e-6
        assert np.abs(one.attacked[..., 0] / 255 - x_adv[0].numpy()).max() <= 0.5 / 255 + 1e-6
        assert one.largest == pytest.approx(float((x_adv - x).abs().max()))
        delta = one.perturbation[..., 0] / 127 * one.largest
        assert torch.from_numpy(delta).sub((x_adv - x)[0]).abs().max() <= 0.5 / 127 * one.largest + 1e-6
        assert one.attack.startswith("PGD-5 at Linf 0.2")


def test_a_run_without_examples_has_no_pictures(tmp_path: Path) -> None:
    run = evaluate(nearest_mean(), tmp_path / "run", "fgsm", eps=0.2, dataset="digits", n=4, trust=False)
    with pytest.raises(BadInput, match="kept no examples"):
        pictures_of(run)
