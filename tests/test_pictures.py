"""Stored examples as pictures of a page."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_networks import nearest_mean
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.evaluation import evaluate
from satbench.evaluation.pictures import pictures_of
from satbench.results.store import read_examples


def test_a_picture_is_the_image_and_what_broke_it(tmp_path: Path) -> None:
    settings = {"eps": 0.2, "dataset": "digits", "split": "test", "n": 12, "trust": False, "save_examples": True}
    run = evaluate(nearest_mean(), tmp_path / "run", ["fgsm", "pgd:steps=5"], **settings)
    pictures = pictures_of(run)
    images = load_images("digits", "test")
    stored = read_examples(run).merge(run.records, on=["attack", "norm", "eps", "sample_id"])
    assert len(pictures) == 3
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


@pytest.mark.left_out
def test_a_report_shows_the_pictures_that_runs_stored(tmp_path: Path) -> None:
    settings = {"eps": 0.2, "dataset": "digits", "split": "test", "n": 12, "trust": False}
    evaluate(nearest_mean(), tmp_path / "runs" / "stored", "fgsm", save_examples=True, **settings)
    evaluate(nearest_mean(), tmp_path / "runs" / "plain", "fgsm", seed=1, **settings)
    said = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")])
    assert said.exit_code == 0, said.output
    assert (tmp_path / "report" / "examples.svg").is_file()
    assert "Images that FGSM at Linf 0.2 broke" in (tmp_path / "report" / "index.html").read_text()


def test_a_report_says_why_stored_examples_have_no_pictures(tmp_path: Path) -> None:
    """The archive of the images is gone; the report is written without pictures."""
    images = load_images("digits", "test").head(12)
    np.savez(tmp_path / "images.npz", x=images.x.numpy(), y=images.y.numpy())
    data = {"dataset": "npz:images.npz", "data_dir": tmp_path, "eps": 0.2, "trust": False}
    run = evaluate(nearest_mean(), tmp_path / "run", "fgsm", save_examples=True, **data)
    (tmp_path / "images.npz").unlink()
    words = ["report", str(run.path), "--out", str(tmp_path / "report"), "--data-dir", str(tmp_path)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert f"no pictures of {run.path}: no such file: {tmp_path / 'images.npz'}" in said.stderr
    assert not (tmp_path / "report" / "examples.svg").exists()
