"""An activation with parameters, from the command line to the tables."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.parsing import parsed
from satbench.models.search_copy import search_copy
from satbench.recipes import RECIPES
from satbench.reporting.summary import summarise
from satbench.reporting.tables import accuracy_table
from satbench.results.store import read_run
from satbench.training.config import TrainConfig
from satbench.zoo import load_model
from satbench.zoo.registry import read_cards

SMALL = (
    "--epochs",
    "1",
    "--set",
    "model.width=4",
    "--set",
    "measure.evaluators=clean+fgsm+pgd:steps=1",
    "--device",
    "cpu",
)
CARD = """
network:
  format: safetensors
  summary: a network
  architecture: cnn-small
  activation: {activation}
  dataset: digits
  recipe: digits-sat
  method: pgd_at
  trained_for: {{norm: Linf, eps: "0.2"}}
  parameters: 10
  licence: MIT
  seed: 0
  weights: nowhere.safetensors
  sha256: "{sha256}"
"""


@pytest.mark.left_out
def test_parameters_reach_config_weights_search_copy_and_table(tmp_path: Path) -> None:
    out, measured = tmp_path / "celu:alpha=2", tmp_path / "measured"
    for arguments in (
        ("train", "digits-quick", "--activation", "celu:alpha=2.0", *SMALL, "--out", str(out)),
        ("eval", "--model", str(out), "--attack", "fgsm", "--n", "5", "--device", "cpu", "--out", str(measured)),
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    config = parsed(TrainConfig, json.loads((out / "config.json").read_text())["config"], "here")
    assert config.activation == "celu:alpha=2"
    assert config.recipe == "digits-quick [epochs=1, measure.evaluators=clean+fgsm+pgd:steps=1, model.width=4]"
    model = load_model(out)
    assert model.spec.activation == "celu:alpha=2"
    for network in (model, search_copy(model, torch.rand(2, 1, 8, 8)).module):
        assert [site.alpha for site in network.modules() if isinstance(site, nn.CELU)] == [2.0] * 3
    (line,) = accuracy_table(summarise([read_run(measured)]))
    assert line.activation == "celu:alpha=2"


def test_spellings_of_one_activation_are_one_training() -> None:
    one, same, default = (
        RECIPES["digits-sat"]().with_values({"activation": f"celu{words}"})
        for words in (":alpha=2.0", ":alpha=4/2", ":alpha=1")
    )
    assert one == same
    assert one.recipe == "digits-sat"
    assert one.digest("sha256:a") == same.digest("sha256:a") != default.digest("sha256:a")
    assert default.activation == "celu"
    assert one.label == "cnn-small celu:alpha=2"


def test_a_card_may_name_parameters(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(CARD.format(activation="celu:alpha=2.0", sha256="0" * 64))
    assert read_cards(path)["network"].activation == "celu:alpha=2"
    path.write_text(CARD.format(activation="celu:alpah=2", sha256="0" * 64))
    with pytest.raises(BadInput, match=r"entry 'network', field 'activation'.*did you mean alpha"):
        read_cards(path)


@pytest.mark.parametrize(
    ("given", "hint"), [("cellu:alpha=2", "did you mean celu"), ("celu:alpha=0", "give a positive number")]
)
def test_the_command_line_refuses_a_misspelled_activation(given: str, hint: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "digits-quick", "--activation", given, "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert hint in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_the_listing_shows_parameters_with_their_defaults() -> None:
    lines = CliRunner().invoke(app, ["models"]).output.splitlines()
    (line,) = (line for line in lines if line.strip().startswith("parametric_softplus"))
    assert line.endswith("; alpha = 10")
