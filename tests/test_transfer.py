"""Transfer: what another network says of an iterate ends no search; the judged one decides on every iterate."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from satbench import evaluate, load_model
from satbench.data import load_images
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.results.store import Run

EPS = 0.3
N = 40


def transfer(out: Path, attack: object, **options: object) -> Run:
    settings = {"eps": str(EPS), "n": N, "source": "digits-relu", "trust": False, "device": "cpu"} | options
    return evaluate("digits-silu", out, [attack], **settings)  # type: ignore[list-item, arg-type]


def standing(run: Run) -> int:
    return int((~run.records["broken"]).sum())


@pytest.mark.slow
def test_the_default_pgd_does_not_stop_at_the_sources_first_error(tmp_path: Path) -> None:
    names = ("pgd", "pgd:keep=last", "pgd:steps=100,schedule=apgd", "apgd-ce", "rapid")
    pgd, last, own_apgd, apgd, rapid = (standing(transfer(tmp_path / str(i), name)) for i, name in enumerate(names))
    assert pgd <= last
    assert pgd < N / 2
    assert own_apgd <= apgd + 0.05 * N
    assert rapid <= apgd


@pytest.mark.left_out
def test_the_cheap_stages_of_an_ensemble_do_not_stop_either(tmp_path: Path) -> None:
    records = transfer(tmp_path / "cascade", "cascade", n=12).records
    stages = set(records["stage"]) - {""}
    assert any("early_stop=False" in stage for stage in stages)
    single = transfer(tmp_path / "single", "pgd:restarts=2", n=12).records
    assert records["broken"].sum() >= single["broken"].sum()


@dataclass(frozen=True)
class Shown:
    """Shows the network some images, among them one of which none may count, and returns the images as they are."""

    far: float = 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        for _ in range(8):
            signs = torch.randint(2, x.shape[1:], generator=generator).mul(2).sub(1)
            model((x + (threat.eps + self.far) * signs).clamp(0, 1))
        return x


def test_every_iterate_in_ball_and_box_counts_for_every_attack(tmp_path: Path) -> None:
    inside, outside = transfer(tmp_path / "in", Shown(), save_examples=True), transfer(tmp_path / "out", Shown(0.1))
    attacked = inside.records[inside.records["clean_prediction"] == inside.records["label"]]
    broken = attacked[attacked["broken"]]
    assert 0 < len(broken) < len(attacked)
    assert not outside.records.loc[attacked.index, "broken"].any()
    target, data = load_model("digits-silu"), load_images("digits").in_memory().head(N)
    generator = torch.Generator().manual_seed(0)
    wrong = []
    for _ in range(8):
        signs = torch.randint(2, data.x.shape[1:], generator=generator).mul(2).sub(1)
        with torch.no_grad():
            wrong.append(target((data.x + EPS * signs).clamp(0, 1)).argmax(1) != data.y)
    misclassified = torch.stack(wrong)[:, attacked.index.tolist()]
    assert (misclassified.any(0).numpy() == attacked["broken"]).all()
    fell = misclassified.long().argmax(0) + 1  # the iterate, from 1
    first = pd.Series(fell.numpy(), index=attacked.index)[broken.index]
    assert (broken["fell_at"] == 2 * first).all()  # of either network
    assert (broken["forward"] == 8 + first).all()
    assert (attacked.loc[~attacked["broken"], "forward"] == 16).all()
    index = pd.read_parquet(inside.path / "examples.parquet")
    assert len(index) == len(broken)
    place = index.iloc[0]
    row = data.ids.index(place["sample_id"])
    x_adv = load_file(inside.path / place["example_file"])["x_adv"][place["example_row"]]
    assert target(x_adv[None]).argmax() != data.y[row]


def test_records_of_a_transfer_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    whole, parts = (transfer(tmp_path / str(size), "pgd", n=20, batch_size=size).records for size in (20, 7))
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-3, atol=1e-4)
