"""The table of soft labels of SGLR and temporal ensembling: what it holds, when it begins, how noisy labels fare.

`tests/test_method_references.py` has the formulas.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from tiny_training import BATCHES, tiny, write_rows
from torch import Tensor, nn

from satbench import load_model, train
from satbench.core.lookup import pick
from satbench.data import training_splits
from satbench.methods import METHODS, Method, Processes, Step
from satbench.methods.temporal_ensembling import TemporalEnsembling
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.training.state import STATE

pytestmark = pytest.mark.numeric

THREAT = ThreatModel("Linf", 0.1)


def table_in(folder: Path) -> Tensor:
    return load_file(folder / STATE)["method.soft labels"]


def entropy(rows: Tensor) -> Tensor:
    return -torch.special.xlogy(rows, rows).sum(1)


# the weight of temporal ensembling


@pytest.mark.parametrize(
    ("epoch", "weight"),
    [
        (88.99, 0.0),  # the 89th epoch, counted from 1
        (89.0, 300 * math.exp(-5)),  # the 90th, not 0 any more
        (119.5, 300 * math.exp(-1.25)),  # half of the way, constant in an epoch
        (149.0, 300.0),  # the 150th
        (150.0, 300.0),
        (199.9, 300.0),
    ],
)
def test_the_ramp_of_temporal_ensembling_is_that_of_its_authors(epoch: float, weight: float) -> None:
    assert TemporalEnsembling().ramp(epoch) == pytest.approx(weight, rel=1e-12)


# single updates


class Sure(nn.Module):
    """Predicts `p` for every image, in every mode."""

    def __init__(self, p: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(p).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


def begin(method: Method, epoch: float, **parts: Any) -> Step:
    """Four of eight training images."""
    x, y = torch.rand(4, 1, 6, 6, generator=generator(1)), torch.tensor([0, 1, 2, 0])
    rows = torch.tensor([6, 1, 3, 0])
    state = method.initial_state(8, 3, tuple(x.shape))
    parts = {"state": state, "index": rows, "batch_index": rows, **parts}
    return replace(Step.of(x, y, THREAT, generator(0)), epoch=epoch, **parts)


def updated(method: Method, net: nn.Module, step: Step) -> float:
    x_adv = method.perturb(net.eval(), step)
    loss = method.loss(net.train(), x_adv, step)
    method.after_update(net, x_adv, step)
    return loss.item()


def build(name: str, **params: Any) -> Method:
    method = pick(METHODS, name, "method", **params)
    assert isinstance(method, Method)
    return method


@pytest.mark.parametrize("base", ["pgd_at", "trades"])
def test_targets_of_temporal_ensembling_sum_to_one_from_the_first_update_on(base: str) -> None:
    """The average starts at zero. Where all predictions are equal the target is their value, so its distance is 0."""
    p = [0.5, 0.3, 0.2]
    method, net = build("te", base=base, start_epoch=0, end_epoch=1, momentum=0.7, steps=1), Sure(p)
    state = method.initial_state(8, 3, (4, 1, 6, 6))
    for visits in (1, 2, 3):
        step = begin(method, 5.0, state=state)
        expected = -np.log(p)[step.y.numpy()].mean()
        assert updated(method, net, step) == pytest.approx(expected, rel=1e-6)  # else 300 squared distances more
        rows = state["soft labels"][step.index]
        torch.testing.assert_close(rows.sum(1), torch.full((4,), 1 - 0.7**visits))
    assert not state["soft labels"][[2, 4, 5, 7]].any()


def test_labels_of_sglr_fade_geometrically() -> None:
    """After t updates S = m^t one-hot + (1 - m^t) p where every prediction is p."""
    p = torch.tensor([0.5, 0.3, 0.2])
    method, net = build("sglr", start_epoch=2, steps=1), Sure(p.tolist())
    state = method.initial_state(8, 3, (4, 1, 6, 6))
    hot = torch.eye(3)[begin(method, 0).y]
    for t, epoch in enumerate((0.5, 1.99, 2.0, 3.5, 4.5)):
        step = begin(method, epoch, state=state)
        updated(method, net, step)
        share = 0.9 ** max(0, t - 1)
        torch.testing.assert_close(state["soft labels"][step.index], share * hot + (1 - share) * p)


def test_an_anchor_that_stays_keeps_its_weight() -> None:
    """When the label has all but left the table, the loss still has 1 - interp of it."""
    p = [0.5, 0.3, 0.2]
    fading, interp = (build("sglr", start_epoch=0, anchor=one, interp=0.6, steps=1) for one in ("fading", "interp"))
    state = {"soft labels": torch.tensor(p).expand(8, 3).clone()}  # what it comes to
    own = -(np.array(p) * np.log(p)).sum()
    label = -np.log(p)[[0, 1, 2, 0]].mean()
    for method, wanted in ((fading, own), (interp, 0.6 * own + 0.4 * label)):
        step = begin(method, 1.0, state={name: one.clone() for name, one in state.items()})
        assert updated(method, Sure(p), step) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("base", ["pgd_at", "trades"])
@pytest.mark.parametrize("name", ["sglr", "te"])
def test_before_its_start_a_method_is_its_base(name: str, base: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    found = []
    for method in (build(name, base=base, start_epoch=2, **({"end_epoch": 4} if name == "te" else {})), build(base)):
        step = begin(method, 1.9)
        x_adv = method.perturb(net, step)
        found.append((x_adv, method.loss(net, x_adv, step)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].item() == pytest.approx(found[1][1].item(), rel=1e-6)


class Second(Processes):
    """The second of two processes that share a batch; the first one has rows of 0.25."""

    rank, count = 1, 2

    def everywhere(self, values: Tensor, step: Step) -> Tensor:
        return torch.cat([torch.full_like(values[:2], 0.25), values])


@pytest.mark.parametrize("name", ["sglr", "te"])
def test_the_rows_of_all_processes_are_written(name: str) -> None:
    method = build(name, start_epoch=0, steps=1)
    whole = torch.tensor([2, 4, 6, 1, 3, 0])
    step = begin(method, 1.0, batch_index=whole, start=2, processes=Second())
    updated(method, Sure([0.5, 0.3, 0.2]), step)
    table = step.state["soft labels"]
    assert (table[[2, 4]] == 0.25).all()
    assert table[[6, 1, 3, 0]].any(1).all()
    assert not table[[5, 7]].any()


# whole trainings


def stop_at(update: int) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, what: str) -> None:
        if done == update:
            raise KeyboardInterrupt

    return report


def test_the_table_is_in_the_checkpoint_and_begins_with_the_labels(tmp_path: Path) -> None:
    """Before the start epoch of SGLR all rows are one-hot, after it they have an entropy; a probability all along."""
    changes = {"method": "sglr", "method.steps": 2, "method.start_epoch": 1, "drop_last": False}
    config = tiny(write_rows(tmp_path / "rows.npz"), **changes)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", "cpu", progress=stop_at(BATCHES + 1))  # saved after the first epoch
    before = table_in(tmp_path / "run")
    train(config, tmp_path / "run", "cpu")
    after = table_in(tmp_path / "run")
    images, _ = training_splits(config.dataset, None, None, None)
    assert before.shape == (len(images), 3)
    assert torch.equal(before, torch.eye(3)[images.y])
    assert not entropy(before).any()
    assert (after >= 0).all()
    torch.testing.assert_close(after.sum(1), torch.ones(len(images)))
    assert (entropy(after) > 0.01).all()


class Noisy(NamedTuple):
    """A run on 300 digits, a fifth of which have a wrong label."""

    table: Tensor
    given: Tensor  # the labels that it was trained on
    true: Tensor
    predicted: Tensor

    def fitted(self) -> float:
        """The share of the wrong labels that the network gives to their images."""
        wrong = self.given != self.true
        return float((self.predicted[wrong] == self.given[wrong]).float().mean())


def on_noisy_digits(folder: Path, seed: int, method: str, **params: object) -> Noisy:
    raw, draws = load_digits(), np.random.default_rng(seed)
    keep = draws.choice(len(raw.target), 500, replace=False)  # 300 of them are for training
    true = raw.target[keep]
    given = np.where(draws.random(500) < 0.2, (true + draws.integers(1, 10, 500)) % 10, true)
    file = folder / f"noisy-{seed}.npz"
    np.savez(file, x=(raw.images[keep, None] / 16).astype(np.float32), y=given)
    settings = {
        **{"model": "mlp", "threat.eps": 0.05, "epochs": 50, "batch_size": 100, "measure.every": 50, "seed": seed},
        **{"optimizer.name": "adamw", "optimizer.lr": 3e-3, "optimizer.weight_decay": 0},
        **{"drop_last": False, "method": method, "method.steps": 1},
        **{f"method.{key}": value for key, value in params.items()},
    }
    run = train(tiny(f"npz:{file}", **settings), folder / f"{method}-{seed}", "cpu")
    images, _ = training_splits(f"npz:{file}", None, None, None)
    rows = [int(one.rpartition("/")[2]) for one in images.ids]
    with torch.no_grad():
        predicted = load_model(str(run.folder / "last.safetensors"))(images.x).argmax(1)
    table = torch.empty(0) if method == "pgd_at" else table_in(run.folder)
    return Noisy(table, images.y, torch.from_numpy(true[rows]), predicted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noisy_labels_are_fitted_less_and_return_to_the_true_ones(seed: int, tmp_path: Path) -> None:
    """Some 60 labels are wrong. PGD training fits about half of them, both methods at most a tenth.

    Of the table of SGLR the largest entry returns to the true label of more images than it leaves.
    """
    plain = on_noisy_digits(tmp_path, seed, "pgd_at")
    te = on_noisy_digits(tmp_path, seed, "te", start_epoch=10, end_epoch=20)
    sglr = on_noisy_digits(tmp_path, seed, "sglr", start_epoch=10)
    assert te.fitted() < plain.fitted() - 0.2
    assert sglr.fitted() < plain.fitted() - 0.2
    wrong = sglr.given != sglr.true
    is_true = sglr.table.argmax(1) == sglr.true
    returned, left = int((wrong & is_true).sum()), int((~wrong & ~is_true).sum())
    assert returned > left + 10
    disagree = te.table.argmax(1) != te.given
    assert int((disagree & wrong).sum()) > 10
