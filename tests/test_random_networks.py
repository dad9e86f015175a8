"""Networks that draw random numbers: a vote judges, and one lucky draw neither breaks an image nor ends a search."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from satbench import evaluate, load_model
from satbench.attacks import PGD
from satbench.attacks.rapid import MOST_PASSES
from satbench.core.errors import BadInput
from satbench.evaluation.judge import vote
from satbench.results.store import Run

N = 80


class Noisy(nn.Module):
    """The digits network behind Gaussian noise."""

    def __init__(self, sigma: float = 0.2) -> None:
        super().__init__()
        self.inner, self.sigma = load_model("digits-silu"), sigma

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x + self.sigma * torch.randn_like(x))
        return logits


def measure(out: Path, *attacks: object, **options: object) -> Run:
    settings = {"eps": "0.2", "n": N, "dataset": "digits", "trust": False, "device": "cpu"} | options
    return evaluate(Noisy(), out, list(attacks), **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    attacks = (PGD(), PGD(keep="last"), PGD(steps=20, eot=20))
    return measure(tmp_path_factory.mktemp("random") / "run", *attacks)


def table(run: Run, column: str) -> np.ndarray:
    """A row per attack, in the order of the manifest."""
    wide = run.records.pivot_table(index="attack", columns="sample_id", values=column, aggfunc="first")
    return wide.loc[[info.id for info in run.manifest.attacks]].to_numpy(dtype=float)


@pytest.mark.left_out
def test_pgd_is_no_weaker_than_its_last_iterate_and_expectation_is_stronger(run: Run) -> None:
    best, last, expected = 1 - table(run, "broken").mean(1)
    luck = 2 * np.sqrt(0.25 / N)  # two standard errors of a rate
    assert best <= last + luck
    assert expected <= best
    shares = table(run, "correct_share").mean(1)
    assert shares[0] <= shares[1] + luck
    assert shares[2] < shares[0] - luck / 2


def test_attacks_keep_their_name_and_take_all_their_passes(run: Run) -> None:
    assert run.manifest.attacks[0] == PGD().info
    attacked = run.records[run.records["clean_prediction"] == run.records["label"]]
    passes = attacked.groupby("attack")[["forward", "backward"]].agg(["min", "max"])
    for attack, (forward, backward) in zip(
        [info.id for info in run.manifest.attacks], [(11, 10), (10, 10), (420, 400)], strict=True
    ):
        assert passes.loc[attack].tolist() == [forward, forward, backward, backward]


@pytest.mark.left_out
def test_rapid_takes_all_its_passes(tmp_path: Path) -> None:
    records = measure(tmp_path, "rapid", n=8).records
    attacked = records[records["clean_prediction"] == records["label"]]
    assert len(attacked)
    assert set(attacked["forward"] + attacked["backward"]) == {MOST_PASSES}


def test_the_majority_of_ten_passes_decides_and_the_manifest_says_so(run: Run) -> None:
    assert run.manifest.draws == 10
    assert "the network draws random numbers: the majority of 10 passes decides" in run.manifest.notes[0]
    tenths = run.records["correct_share"] * 10
    assert np.allclose(tenths, tenths.round(), atol=1e-5)
    assert len(set(tenths.round())) > 5
    surely, hardly = run.records["correct_share"] > 0.5, run.records["correct_share"] < 0.1
    assert not run.records.loc[surely, "broken"].any()
    assert run.records.loc[hardly, "broken"].all()


def test_an_image_misclassified_without_an_attack_has_no_correct_share(run: Run) -> None:
    wrong = run.records["clean_prediction"] != run.records["label"]
    assert 0 < wrong.sum() < len(wrong)
    assert (run.records.loc[wrong, "correct_share"] == 0).all()


def test_equal_runs_give_equal_bytes_and_other_draws_other_votes(tmp_path: Path) -> None:
    one, two = (measure(tmp_path / name, PGD(steps=3), n=30) for name in ("one", "two"))
    assert (one.path / "records.parquet").read_bytes() == (two.path / "records.parquet").read_bytes()
    three = measure(tmp_path / "three", PGD(steps=3), n=30, draws=3)
    assert three.manifest.draws == 3
    assert set((three.records["correct_share"] * 3).round(4)) <= {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(BadInput, match="--draws 0: give a whole number from 1"):
        measure(tmp_path / "none", PGD(), draws=0)


def test_a_network_without_randomness_is_judged_once(tmp_path: Path) -> None:
    run = evaluate("digits-silu", tmp_path, "pgd", n=20, trust=False, device="cpu")
    assert (run.manifest.draws, run.manifest.notes) == (1, [])
    assert (run.records["correct_share"] == (~run.records["broken"]).astype(float)).all()


class Turns(nn.Module):
    """Gives the classes of `answers` in turn, whatever the image."""

    def __init__(self, *answers: int) -> None:
        super().__init__()
        self.answers = list(answers)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor([self.answers.pop(0)] * len(x)), 4).float()


@pytest.mark.parametrize(
    ("answers", "prediction", "share"),
    [([1, 1, 1], 1, 1.0), ([1, 1, 2], 1, 2 / 3), ([1, 2, 1, 2], 2, 0.5), ([2, 1, 3], 2, 1 / 3), ([0, 0, 1], 0, 1 / 3)],
)
def test_a_tie_with_another_class_is_lost(answers: list[int], prediction: int, share: float) -> None:
    y = torch.tensor([1, 1])
    seen = vote(Turns(*answers), torch.zeros(2, 1, 2, 2), y, len(answers))
    assert seen.predictions.tolist() == [prediction] * 2
    assert seen.correct_shares.tolist() == pytest.approx([share] * 2)
    assert seen.margins.tolist() == pytest.approx([(2 * answers.count(1) - len(answers)) / -len(answers)] * 2)


@pytest.mark.slow
def test_pgd_over_expected_gradients_is_close_to_autoattacks_version_for_random_networks(tmp_path: Path) -> None:
    run = measure(tmp_path, PGD(steps=100, schedule="apgd", eot=20), "autoattack:version=rand")
    ours, theirs = table(run, "correct_share").mean(1)
    assert ours <= theirs + 0.1
