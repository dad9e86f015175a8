"""Every option of the trainer does what it says, seen in what a step is given and in the weights that are left."""

import copy
import hashlib
import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy.stats import entropy
from tiny_training import BATCHES, WAYS, contents, tiny, write_rows
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from satbench import evaluate, load_model, train
from satbench.attacks import PGD
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.methods import METHODS, Method, Passes, Step
from satbench.methods.free import Free
from satbench.methods.pgd_at import PGDAT
from satbench.methods.standard import Standard
from satbench.models.weights import load_model_file, tensors_digest
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.recipes import RECIPES
from satbench.results.training_log import Ending, Epoch, Validated
from satbench.training import TrainConfig
from satbench.training.alarm import collapse
from satbench.training.checkpoint import read_metrics
from satbench.training.state import STATE
from satbench.training.step import targets

pytestmark = pytest.mark.numeric

MLP = {"model": "mlp", "model.width": 16}  # without batch norm


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


class PowerCut(Exception):
    pass


@dataclass
class Update:
    """What an update was given, the images that it was taken on, the network before it and its state after it."""

    step: Step
    x_adv: Tensor
    network: nn.Module
    after: dict[str, Tensor]

    def change(self) -> dict[str, Tensor]:
        return {name: self.after[name] - weight.detach() for name, weight in self.network.named_parameters()}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def watch(monkeypatch: pytest.MonkeyPatch, kind: type[Method]) -> list[Update]:
    """Make "watched" a method that is `kind`, and return what will be seen of it."""
    seen: list[Update] = []

    class Watched(kind):  # type: ignore[valid-type, misc]
        def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
            seen.append(Update(step, x_adv.detach().clone(), copy.deepcopy(model), {}))
            loss: Tensor = super().loss(model, x_adv, step)
            return loss

        def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
            super().after_update(model, x_adv, step)
            seen[-1].after = state(model)

    monkeypatch.setitem(METHODS, "watched", Watched)
    return seen


class Slope(Method):
    """Its loss is the sum of all weights, whose gradient is 1 everywhere."""

    slope = 1.0

    @property
    def passes(self) -> Passes:
        return Passes(1, 1)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return step.x

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return self.slope * torch.stack([weight.sum() for weight in model.parameters()]).sum()


class Flat(Slope):
    slope = 0.0


class FreeSlope(Free):
    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return torch.stack([weight.sum() for weight in model.parameters()]).sum() + 0 * x_adv.sum()


def rates(weights: Path, out: Path, config: TrainConfig) -> tuple[float, float]:
    """Clean and robust accuracy of a weight file on the validation split, as `satbench eval` measures them."""
    attack = PGD(steps=10)
    run = evaluate(str(weights), out, [attack], eps=str(config.threat.eps), split="val", device="cpu", trust=False)
    clean = run.records["clean_prediction"] == run.records["label"]
    return float(clean.mean()), 1 - float(run.records["broken"].mean())


def epoch_of(weights: Path) -> int:
    with safe_open(weights, "pt") as file:
        return int(json.loads(file.metadata()["satbench"])["provenance"]["epoch"])


def by_hand(network: nn.Module, x: Tensor, y: Tensor, eps: float, training: bool = False) -> Tensor:
    """Two steps of length eps up the sign of the gradient from the image, on a copy in the mode asked for."""
    network = copy.deepcopy(network).train(training)
    x_adv = x.clone()
    for _ in range(2):
        x_adv.requires_grad_()
        (slope,) = torch.autograd.grad(functional.cross_entropy(network(x_adv), y), x_adv)
        x_adv = torch.minimum(torch.maximum(x_adv.detach() + eps * slope.sign(), x - eps), x + eps).clamp(0, 1)
    return x_adv


# label smoothing


@pytest.mark.parametrize("amount", [0.1, 0.5])
def test_smoothing_over_all_classes_is_torchs(amount: float) -> None:
    logits, y = torch.randn(9, 5, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 5
    wanted = functional.cross_entropy(logits, y, label_smoothing=amount)
    torch.testing.assert_close(functional.cross_entropy(logits, targets(y, 5, amount, "all")), wanted)


def test_smoothing_over_the_others_takes_nothing_back() -> None:
    """Pang et al. 2021: 1 - s for the true class and s / (K - 1) for each other."""
    wanted = torch.full((3, 4), 0.3 / 3)
    wanted[range(3), [2, 0, 3]] = 0.7
    torch.testing.assert_close(targets(torch.tensor([2, 0, 3]), 4, 0.3, "others"), wanted)


@pytest.mark.parametrize("over", ["others", "all"])
def test_the_least_outer_loss_is_the_entropy_of_the_target(over: str) -> None:
    """Cross-entropy is convex in the logits, so where its slope is 0 it is least."""
    y = torch.arange(4)
    wanted = targets(y, 4, 0.2, over)
    logits = wanted.log().requires_grad_()
    step = Step.of(torch.zeros(4, 1, 1, 1), y, None, None)  # type: ignore[arg-type]
    step.targets = wanted
    loss = PGDAT().loss(lambda x: logits, step.x, step)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(entropy(wanted.numpy(), axis=1).mean(), rel=1e-6)
    (slope,) = torch.autograd.grad(loss, logits)
    assert slope.abs().max() < 1e-7


@pytest.mark.parametrize("over", ["others", "all"])
def test_smoothing_reaches_the_loss_and_not_the_attack(
    over: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, PGDAT)
    changes: dict[str, object] = {"method": "watched", "method.steps": 2, "method.init": "zero", "epochs": 1}
    smoothing = {"label_smoothing.amount": 0.6, "label_smoothing.over": over}
    train(tiny(dataset, **changes, **smoothing), tmp_path, "cpu")
    for update in seen:
        step = update.step
        torch.testing.assert_close(step.targets, targets(step.y, 3, 0.6, over), rtol=0, atol=0)
        assert torch.equal(update.x_adv, by_hand(update.network, step.x, step.y, 0.1))
    assert any(
        not torch.equal(update.x_adv, by_hand(update.network, update.step.x, update.step.targets, 0.1))
        for update in seen
    )


# batch norm while images are crafted


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_images_are_crafted_with_the_statistics_asked_for_and_leave_them_alone(
    mode: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, PGDAT)
    changes: dict[str, object] = {"method": "watched", "method.steps": 2, "method.init": "zero"}
    train(tiny(dataset, **changes, attack_bn_mode=mode), tmp_path, "cpu")
    assert len(seen) == 2 * BATCHES
    for last, update in pairwise(seen):
        crafted = update.network.state_dict()
        assert all(torch.equal(crafted[name], tensor) for name, tensor in last.after.items())
        assert any("running" in name and not torch.equal(crafted[name], update.after[name]) for name in crafted)
    for update in seen:
        images = {
            word: by_hand(update.network, update.step.x, update.step.y, 0.1, word == "train")
            for word in ("eval", "train")
        }
        assert torch.equal(update.x_adv, images[mode])
        assert not torch.equal(images["eval"], images["train"])


# learning rate and radius


@pytest.mark.one_in(6)
@pytest.mark.parametrize("kind", [Slope, FreeSlope], ids=["once", "replayed"])
@pytest.mark.parametrize("warmup_epochs", [0, 1.5])
@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ({"schedule": "one-cycle"}, lambda t: np.interp(t, [0, 0.3, 1], [0, 1, 0])),
        ({"schedule": "triangle", "schedule.peak": 0.6}, lambda t: np.interp(t, [0, 0.6, 1], [0, 1, 0])),
        ({"schedule": "cosine"}, lambda t: np.cos(np.pi * t / 2) ** 2),
        ({"schedule": "piecewise", "schedule.milestones": [0.4, 0.65]}, lambda t: 0.1 ** np.digitize(t, [0.4, 0.65])),
        ({"schedule": "constant"}, np.ones_like),
    ],
    ids=lambda one: one.get("schedule") if isinstance(one, dict) else None,
)
def test_every_update_has_the_learning_rate_of_its_middle(
    schedule: dict[str, object],
    formula: Callable[[np.ndarray], np.ndarray],
    warmup_epochs: float,
    kind: type[Method],
    dataset: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gradient of 1 moves every weight by the learning rate; a float32 below 1 is good to 6e-8 of it."""
    seen = watch(monkeypatch, kind)
    replays: dict[str, object] = {"method.replays": 3} if kind is FreeSlope else {}
    plain = {"optimizer.lr": 0.1, "optimizer.momentum": 0, "optimizer.weight_decay": 0}
    changes = {**MLP, "method": "watched", **replays, **plain, **schedule, "optimizer.warmup_epochs": warmup_epochs}
    train(tiny(dataset, **changes), tmp_path, "cpu")
    updates = 2 * BATCHES * (3 if replays else 1)
    middles = (np.arange(updates) + 0.5) / updates
    wanted = 0.1 * formula(middles) * (np.interp(2 * middles, [0, warmup_epochs], [0, 1]) if warmup_epochs else 1)
    found = torch.stack([-torch.cat([one.flatten() for one in update.change().values()]) for update in seen])
    torch.testing.assert_close(found, torch.tensor(wanted).float()[:, None].expand_as(found), rtol=0, atol=4e-7)
    assert [update.step.number for update in seen] == list(range(updates))


def test_the_radius_grows_for_the_method_and_not_for_validation(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, PGDAT)
    config = tiny(dataset, method="watched", **{"threat.eps": 0.3, "threat.warmup_epochs": 1.5, "method.steps": 1})
    train(config, tmp_path / "run", "cpu")
    middles = (np.arange(2 * BATCHES) + 0.5) / BATCHES
    radii = [update.step.threat.eps for update in seen]
    np.testing.assert_allclose(radii, np.minimum(0.3, 0.3 * middles / 1.5), rtol=1e-12)
    reached = [float((update.x_adv - update.step.x).abs().max()) for update in seen]
    np.testing.assert_allclose(reached, radii, rtol=1e-5)

    def keep(done: int, total: int, what: str) -> None:
        """The weights of the first epoch, when the radius has come to a quarter."""
        last = tmp_path / "slow" / "last.safetensors"
        if done == BATCHES and last.is_file():
            shutil.copytree(tmp_path / "slow", tmp_path / "early", dirs_exist_ok=True)
            shutil.copy(last, tmp_path / "early" / "best.safetensors")

    slow = config.with_values({"epochs": 4, "threat.warmup_epochs": 3.9})
    row = train(slow, tmp_path / "slow", "cpu", progress=keep).history[0]
    assert rates(tmp_path / "early", tmp_path / "full", config) == (row.val.figures["clean"], row.val.figures["robust"])
    small = config.with_values({"threat.eps": 0.3 / 4})
    assert rates(tmp_path / "early", tmp_path / "small", small) != (row.val.figures["clean"], row.val.figures["robust"])


# the optimizer


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_the_whole_gradient_is_clipped_to_its_norm(
    clip: float, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, Slope)
    plain = {"optimizer.momentum": 0, "optimizer.weight_decay": 0, "schedule": "constant", "epochs": 1}
    train(tiny(dataset, **MLP, method="watched", **plain, **{"optimizer.clip": clip}), tmp_path, "cpu")
    for update in seen:
        moved = torch.cat([one.flatten() for one in update.change().values()])
        assert float(moved.norm()) == pytest.approx(0.1 * min(clip, math.sqrt(len(moved))), rel=1e-5)
        assert float(moved.std()) < 1e-6  # in its direction


@pytest.mark.parametrize("decay", ["filters", "all"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_a_gradient_only_what_the_setting_says_decays(
    optimizer: str, decay: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, Flat)
    plain = {"optimizer.momentum": 0, "optimizer.weight_decay": 0.5, "schedule": "constant", "epochs": 1}
    settings = {"optimizer.name": optimizer, "optimizer.decay": decay, "activation": "psilu"}
    train(tiny(dataset, method="watched", **plain, **settings), tmp_path, "cpu")
    sides = set()
    for update in seen:
        for name, weight in update.network.named_parameters():
            sides.add(weight.ndim > 1)
            factor = 1 - 0.1 * 0.5 if decay == "all" or weight.ndim > 1 else 1
            torch.testing.assert_close(update.after[name], weight.data * factor)
    assert sides == {True, False}


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_plain_or_nesterovs(
    nesterov: bool, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v becomes 0.9 v + 1; the weights go down by lr v, or with Nesterov by lr (1 + 0.9 v)."""
    seen = watch(monkeypatch, Slope)
    plain = {"optimizer.nesterov": nesterov, "optimizer.weight_decay": 0, "schedule": "constant", "epochs": 1}
    train(tiny(dataset, **MLP, method="watched", **plain), tmp_path, "cpu")
    wanted = [1.9, 2.71, 3.439] if nesterov else [1.0, 1.9, 2.71]
    for update, times in zip(seen[:3], wanted, strict=True):
        for change in update.change().values():
            torch.testing.assert_close(change, torch.full_like(change, -0.1 * times), rtol=0, atol=4e-7)


# speed


FLOAT32 = 16 * 2**-24  # half a unit in the last place of 24 bits, grown in ten updates
BFLOAT16 = 2**-8  # of 8 bits: what grows, averages over weights and images


def in_a_continuous_way(dataset: str, **changes: object) -> TrainConfig:
    """L2, where a rounding of the gradient moves an image by a rounding; a sign would flip pixels by 2 eps."""
    return tiny(dataset, **{"threat.norm": "L2", "threat.eps": 0.5, "optimizer.lr": 0.05, **changes})


@pytest.mark.parametrize(
    ("changes", "rounding"),
    [
        ({"speed.channels_last": True}, FLOAT32),
        ({"speed.precision": "bf16-attack"}, BFLOAT16),
        ({"speed.precision": "bf16"}, BFLOAT16),
        ({"speed.precision": "bf16", "speed.channels_last": True}, BFLOAT16),
        pytest.param({"speed.compile": True}, FLOAT32, marks=pytest.mark.slow),
        pytest.param({"speed.compile": True, "speed.precision": "bf16"}, BFLOAT16, marks=pytest.mark.slow),
    ],
)
def test_a_faster_step_changes_the_result_by_its_rounding(
    changes: dict[str, object], rounding: float, dataset: str, tmp_path: Path
) -> None:
    plain = train(in_a_continuous_way(dataset), tmp_path / "plain", "cpu")
    config = in_a_continuous_way(dataset, **changes)
    fast = train(config, tmp_path / "fast", "cpu")
    for one, two in zip(plain.history, fast.history, strict=True):
        assert two.train_loss == pytest.approx(one.train_loss, rel=rounding)
    weights, others = (load_file(run.folder / "last.safetensors") for run in (plain, fast))
    assert weights.keys() == others.keys()
    off = torch.cat([(weights[name] - others[name]).flatten() for name in weights])
    start = torch.cat([tensor.flatten() for tensor in weights.values()])
    assert 0 < float(off.norm() / start.norm()) < rounding

    network, _ = load_model_file(fast.folder / "last.safetensors")
    assert all(
        tensor.is_contiguous() and tensor.dtype == weights[name].dtype for name, tensor in state(network).items()
    )
    best = fast.history[fast.best_epoch]
    attack = PGD(steps=2)
    run = evaluate(str(fast.folder), tmp_path / "eval", [attack], norm="L2", eps="0.5", split="val", device="cpu")
    assert (run.records["clean_prediction"] == run.records["label"]).mean() == pytest.approx(best.val.figures["clean"])
    assert 1 - run.records["broken"].mean() == pytest.approx(best.val.figures["robust"])


# passes


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "name", ["standard", "pgd_at", "trades", "mart", "awp", "fgsm_rs", "n_fgsm", "gradalign", "free"]
)
def test_the_log_counts_the_passes_that_the_method_states(name: str, dataset: str, tmp_path: Path) -> None:
    config = tiny(dataset, **WAYS[name])
    stated = METHODS[name](**config.method.params).passes
    for row in train(config, tmp_path, "cpu").history:
        assert (row.forward, row.backward) == (stated.forward, stated.backward)


def test_attacks_that_stop_early_cost_less(dataset: str, tmp_path: Path) -> None:
    config = tiny(dataset, **{"method.steps": 3, "method.early_stop": [[0, 1]]})
    stated = PGDAT(steps=3).passes
    for row in train(config, tmp_path, "cpu").history:
        assert 2 < row.forward == row.backward < stated.forward == stated.backward


@pytest.mark.slow
def test_trades_draws_clean_and_attacked_predictions_together_as_beta_grows(tmp_path: Path) -> None:
    """The divergence of the two on held-out digits, by an attack that seeks just that, falls with beta."""
    images, threat = load_images("digits", "val").in_memory(), ThreatModel("Linf", 0.2)
    found = []
    for beta in (0.5, 2, 8):
        changes = {"method.beta": beta, "method.steps": 3, "model": "mlp", "model.width": 64, "epochs": 6}
        folder = train(RECIPES["digits-trades"]().with_values(changes), tmp_path / str(beta), "cpu").folder
        model = load_model(str(folder))
        attack = PGD(steps=10, loss="kl", init="gaussian", keep="last")
        x_adv = attack(model, images.x, images.y, threat, generator(0))
        with torch.no_grad():
            clean, attacked = (functional.log_softmax(model(x), 1) for x in (images.x, x_adv))
        found.append(functional.kl_div(attacked, clean, log_target=True, reduction="batchmean").item())
    assert found[0] > 2 * found[1] > 4 * found[2]


# the end of a run


@pytest.fixture(scope="module")
def patient(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, list[Epoch], int]:
    """A config without patience, its log, and after how many epochs patience 2 ends it."""
    config = tiny(dataset, epochs=12, **{"optimizer.lr": 0.3})
    history = train(config, tmp_path_factory.mktemp("patient"), "cpu").history
    figures = [(row.val.figures["robust"], row.val.figures["clean"]) for row in history]
    waited = [last - figures.index(max(figures[: last + 1])) for last in range(len(figures))]
    return config, history, waited.index(2) + 1


def test_patience_ends_a_run_that_gets_no_better(patient: tuple[TrainConfig, list[Epoch], int], tmp_path: Path) -> None:
    config, history, length = patient
    assert 3 < length < 12
    trained = train(config.with_values({"stop.patience": 2}), tmp_path, "cpu")
    assert trained.history == [
        *history[: length - 1],
        history[length - 1].model_copy(update={"ended": Ending.PATIENCE}),
    ]
    assert epoch_of(tmp_path / "last.safetensors") == length - 1
    assert epoch_of(tmp_path / "best.safetensors") == trained.best_epoch == length - 3


def test_a_run_that_ended_early_is_left_alone(patient: tuple[TrainConfig, list[Epoch], int], tmp_path: Path) -> None:
    """Also when it died between its last save and its end."""
    config, _, length = patient
    config = config.with_values({"stop.patience": 2})

    def stop(done: int, total: int, what: str) -> None:
        if f"epoch {length}" in what:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(config, tmp_path, "cpu", progress=stop)
    assert (tmp_path / STATE).is_file()
    before = contents(tmp_path)
    reports: list[int] = []
    for _ in range(2):
        train(config, tmp_path, "cpu", progress=lambda done, total, what: reports.append(done))
        assert contents(tmp_path) == {name: data for name, data in before.items() if not name.startswith("state")}
    assert reports == []


# the alarm


def row(epoch: int, fgsm: float, robust: float, n: int = 100_000, by_fgsm_alone: float = 0) -> Epoch:
    alone = round((fgsm - robust + by_fgsm_alone) * n)
    val = Validated(n=n, figures={"clean": 1, "fgsm": fgsm, "robust": robust}, alone=alone)
    return Epoch(epoch=epoch, lr=0.1, train_loss=1, val=val)


@pytest.mark.parametrize(
    ("history", "raised"),
    [
        ([row(0, 0.50, 0.24)], True),
        ([row(0, 0.50, 0.25)], False),  # half of it
        ([row(0, 0.35, 0.14)], True),
        ([row(0, 0.35, 0.16)], False),  # a gap of 19 points
        ([row(0, 0.35, 0.14, n=100)], False),  # of 21, on 100 images
        ([row(0, 0.60, 0.20, n=100)], True),
        ([row(0, 0.60, 0.20, n=100, by_fgsm_alone=0.4)], False),  # of 40 again, on images that PGD misses as often
        ([row(0, 0.10, 0.00)], False),
        ([row(0, 0.00, 0.00)], False),
        ([row(0, 0.40, 0.35), row(1, 0.80, 0.50)], False),  # still rising
        ([row(0, 0.70, 0.60), row(1, 0.65, 0.39)], True),
        ([row(0, 0.70, 0.60), row(1, 0.65, 0.41)], False),  # by 19 points
        ([row(0, 0.70, 0.60), row(1, 0.60, 0.39)], True),
        ([row(0, 0.70, 0.60), row(1, 0.59, 0.39)], False),  # FGSM has fallen half as far
        ([row(0, 0.70, 0.60), row(1, 0.67, 0.50), row(2, 0.65, 0.39)], True),  # slowly
        ([row(0, 0.70, 0.60), row(1, 0.65, 0.39), row(2, 0.70, 0.55)], False),  # the last epoch counts
    ],
)
def test_the_alarm_at_its_edges(history: list[Epoch], raised: bool) -> None:
    assert bool(collapse(history, "fgsm", "robust")) is raised


COLLAPSE = "catastrophic overfitting"
PGD_AT = {"method.steps": 10, "method.init": "uniform"}


def digest(file: Path) -> str:
    return tensors_digest(load_file(file))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The recipe at the command line, and what it printed."""
    out = tmp_path_factory.mktemp("collapse") / "run"
    result = CliRunner().invoke(app, ["train", "digits-collapse", "--device", "cpu", "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_fgsm_training_raises_the_alarm_and_ends_there(stopped: tuple[Path, str]) -> None:
    folder, said = stopped
    history = read_metrics(folder)
    assert 3 < len(history) <= 16
    assert [bool(row.alarm) for row in history] == [False] * (len(history) - 1) + [True]
    assert [row.ended for row in history] == [Ending.NONE] * (len(history) - 1) + [Ending.COLLAPSE]
    assert epoch_of(folder / "last.safetensors") == len(history) - 1
    assert f"alarm in epoch {len(history)}, {COLLAPSE}: {history[-1].alarm}\n" in said
    assert f"ended after epoch {len(history)} of 40: {COLLAPSE}\n" in said


def test_a_rollback_keeps_the_weights_of_the_epoch_before(stopped: tuple[Path, str], tmp_path: Path) -> None:
    digests: list[str] = []

    def look(done: int, total: int, what: str) -> None:
        file = tmp_path / "last.safetensors"
        if file.is_file() and (not digests or digests[-1] != digest(file)):
            digests.append(digest(file))

    config = RECIPES["digits-collapse"]().with_values({"stop.collapse": "rollback"})
    trained = train(config, tmp_path, "cpu", progress=look)
    history = read_metrics(stopped[0])
    assert trained.history == [*history[:-1], history[-1].model_copy(update={"ended": Ending.ROLLBACK})]
    assert len(digests) == len(history) - 1
    assert digest(tmp_path / "last.safetensors") == digests[-1]
    assert epoch_of(tmp_path / "last.safetensors") == len(history) - 2
    before = contents(tmp_path)
    train(config, tmp_path, "cpu", progress=look)
    assert contents(tmp_path) == before


def test_an_epoch_that_is_rolled_back_is_never_the_best(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarm(history: list[Epoch], weak: str, strong: str) -> str:
        """At the first epoch that is better than the one before."""
        robust = [row.val.figures["robust"] for row in history]
        return "a reason" if len(robust) > 1 and robust[-1] > robust[-2] else ""

    monkeypatch.setattr("satbench.training.run.collapse", alarm)
    config = tiny(dataset, epochs=12, **{"optimizer.lr": 0.3, "stop.collapse": "rollback"})
    trained = train(config, tmp_path, "cpu")
    robust = [row.val.figures["robust"] for row in trained.history]
    assert robust[-1] == max(robust) > max(robust[:-1])
    assert trained.last_epoch == len(robust) - 2 == epoch_of(tmp_path / "last.safetensors")
    assert trained.best_epoch == robust.index(max(robust[:-1])) == epoch_of(tmp_path / "best.safetensors")


@pytest.mark.parametrize("alarmed", [1, 2])
def test_a_rollback_has_no_weights_before_the_first_epoch(
    alarmed: int, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarm(history: list[Epoch], weak: str, strong: str) -> str:
        return "a reason" if len(history) == alarmed else ""

    monkeypatch.setattr("satbench.training.run.collapse", alarm)
    trained = train(tiny(dataset, epochs=3, **{"stop.collapse": "rollback"}), tmp_path, "cpu")
    assert len(trained.history) == alarmed
    assert trained.history[-1].ended == (Ending.ROLLBACK if alarmed == 2 else Ending.COLLAPSE)
    assert epoch_of(tmp_path / "last.safetensors") == 0


@pytest.mark.slow
def test_pgd_training_raises_none_by_then(tmp_path: Path) -> None:
    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("epoch 16"):
            raise PowerCut

    with pytest.raises(PowerCut):
        train(RECIPES["digits-collapse"]().with_values(PGD_AT), tmp_path, "cpu", progress=stop)
    history = read_metrics(tmp_path)
    assert len(history) == 16
    assert [row.alarm for row in history] == [""] * 16


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_alarm_tells_the_two_apart_for_every_seed(seed: int, tmp_path: Path) -> None:
    config = RECIPES["digits-collapse"]().with_values({"stop.collapse": "note", "seed": seed})
    fgsm = train(config, tmp_path / "fgsm", "cpu").history
    pgd = train(config.with_values(PGD_AT), tmp_path / "pgd", "cpu").history
    assert len(fgsm) == len(pgd) == 40
    assert any(row.alarm for row in fgsm[:16])
    assert not any(row.alarm for row in pgd)
    assert gap(fgsm[-1]) > 2 * gap(pgd[-1])


def gap(row: Epoch) -> float:
    assert row.val is not None
    return row.val.figures["fgsm"] - row.val.figures["robust"]


LINE = (
    '{"epoch": 0, "lr": 0.1, "train_loss": 2.0, "train_accuracy": 0.5, "alarm": "", "ended": %s, "val_n": 10, '
    '"val_alone": 2, "val_clean": 1.0, "val_fgsm": 0.4, "val_robust": 0.3}\n'
)


@pytest.mark.parametrize(
    ("sentence", "ending"),
    [
        ("", Ending.NONE),
        ("no better epoch in 7", Ending.PATIENCE),
        (COLLAPSE, Ending.COLLAPSE),
        (f"{COLLAPSE}; the last weights are those of the epoch before", Ending.ROLLBACK),
    ],
)
def test_a_log_whose_ending_is_a_sentence_is_read(sentence: str, ending: Ending, tmp_path: Path) -> None:
    """Earlier versions wrote it so, and called a count of the alarm otherwise; all else is written as it was read."""
    line = (LINE % json.dumps(sentence)).replace("val_alone", "val_broken_by_pgd_alone")
    (tmp_path / "metrics.jsonl").write_text(line, encoding="utf-8")
    (row,) = read_metrics(tmp_path)
    assert row.ended is ending
    assert json.dumps(row.to_dict()) + "\n" == LINE % json.dumps(ending.value)


@pytest.mark.parametrize(
    "line",
    [
        LINE % '"tired"',
        LINE.replace('"val_robust": 0.3', '"val_robust": "x"') % '""',
        LINE.replace('"lr": 0.1', '"lr": "x"') % '""',
    ],
)
def test_a_log_with_a_wrong_row_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"metrics\.jsonl, line 1, field '(ended|val\.figures\.robust|lr)'.*; train into a new folder"
    ):
        read_metrics(tmp_path)


# faults and signals


class Spoilt(PGDAT):
    """From update 7 on its attack gives what PGD gives where a slope is infinite."""

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        x_adv = super().perturb(model, step)
        return torch.full_like(x_adv, torch.nan) if step.number >= 7 else x_adv


@pytest.mark.parametrize("save_seconds", [0, 600])
def test_an_attack_that_gives_nan_stops_the_run_with_its_step(
    save_seconds: float, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "spoilt", Spoilt)
    config = tiny(dataset, method="spoilt")
    for _ in range(2):
        with pytest.raises(BadInput, match=r"^the loss is nan at epoch 1, step 2; lower lr, into another --out$"):
            train(config, tmp_path, "cpu", save_seconds=save_seconds)
        written = {name for name in contents(tmp_path) if name != "state.previous.safetensors"}
        assert written == {"best.safetensors", "config.json", "last.safetensors", "metrics.jsonl"}
        assert (tmp_path / STATE).is_file()
        assert [row.epoch for row in read_metrics(tmp_path)] == [0]
        assert epoch_of(tmp_path / "last.safetensors") == 0
        for file in tmp_path.glob("*.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values())


def test_a_network_that_explodes_in_the_last_update_is_not_saved(dataset: str, tmp_path: Path) -> None:
    """Its loss, taken before, is finite."""
    wild = {"epochs": 1, "batch_size": 72, "schedule": "constant", "optimizer.lr": 1e30}
    with pytest.raises(BadInput, match=r"after epoch 0, step 0: .*NaN or infinite logits.*lower lr"):
        train(tiny(dataset, **wild), tmp_path, "cpu")
    assert contents(tmp_path).keys() == {"config.json"}


class Terminated(Standard):
    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        if step.number == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().perturb(model, step)


def test_a_run_told_to_end_saves_the_update_and_goes_on_later(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(dataset, method="standard")
    whole = train(config, tmp_path / "whole", "cpu")
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "standard", Terminated)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", "cpu")
    assert signal.getsignal(signal.SIGTERM) is handler
    with safe_open(tmp_path / "run" / STATE, "pt") as file:
        position = json.loads(file.metadata()["position"])
    assert (position["epoch"], position["step"]) == (1, 2)  # with update 6, the second of its epoch
    train(config, tmp_path / "run", "cpu")
    assert contents(tmp_path / "run") == contents(whole.folder)


def test_the_command_line_answers_the_end_as_it_answers_ctrl_c(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "standard", Terminated)
    words = ["train", "digits-standard", "--dataset", dataset, "--epochs", "4", "--device", "cpu"]
    result = CliRunner().invoke(app, [*words, "--set", "batch_size=16", "--out", str(tmp_path / "run")])
    assert result.exit_code == 130
    assert "interrupted; run the same command again" in result.stderr
    assert (tmp_path / "run" / STATE).is_file()


# the backward ablation


@pytest.mark.slow
def test_the_surrogate_trains_four_relu_networks(tmp_path: Path) -> None:
    digests = set()
    for name in ("none", "attacker", "optimizer", "both"):
        config = RECIPES[f"digits-surrogate-{name}"]().with_values({"epochs": 2, "method.steps": 2})
        folder = train(config, tmp_path / name, "cpu").folder
        weights = load_file(folder / "last.safetensors")
        digests.add(hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in weights.values())).hexdigest())
        network, _ = load_model_file(folder / "last.safetensors")
        assert network.spec.activation == "relu"
        kinds = [type(part) for part in network.modules() if isinstance(part, nn.ReLU)]
        assert kinds == [nn.ReLU] * len(kinds) != []
        margins = {}
        for search in ("folded", "surrogate"):
            run = evaluate(
                str(folder),
                tmp_path / f"{name} {search}",
                "fgsm",
                eps="0.1",
                n=30,
                device="cpu",
                search=search,
                trust=False,
            )
            assert run.manifest.search.form == search
            margins[search] = run.records["margin"].to_numpy()
        assert not np.array_equal(margins["folded"], margins["surrogate"])
    assert len(digests) == 4


# averages


def test_the_weights_kept_and_measured_are_the_average(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch(monkeypatch, PGDAT)
    config = tiny(dataset, method="watched", **{"method.steps": 2, "epochs": 4, "optimizer.lr": 0.2})
    plain = train(config, tmp_path / "plain", "cpu")
    seen.clear()
    averaging = {"averaging": "ema", "averaging.decay": 0.8, "averaging.warmup": 0}
    trained = train(config.with_values(averaging), tmp_path / "ema", "cpu")
    average = {name: weight.detach().double() for name, weight in seen[0].network.named_parameters()}
    at_epoch = []
    for k, update in enumerate(seen):
        d = min(0.8, (1 + k) / (10 + k))
        average = {name: d * old + (1 - d) * update.after[name].double() for name, old in average.items()}
        if (k + 1) % BATCHES == 0:
            at_epoch.append({**update.after, **average})
    for file, epoch in (("best", trained.best_epoch), ("last", 3)):
        kept = load_file(tmp_path / "ema" / f"{file}.safetensors")
        assert epoch_of(tmp_path / "ema" / f"{file}.safetensors") == epoch
        for name, tensor in kept.items():
            torch.testing.assert_close(tensor, at_epoch[epoch][name].to(tensor.dtype), rtol=1e-5, atol=1e-6)
        logged = trained.history[epoch].val.figures["clean"], trained.history[epoch].val.figures["robust"]
        weights = tmp_path / "ema" / f"{file}.safetensors"
        assert rates(weights, tmp_path / file, config) == pytest.approx(logged)
    figures = [
        [(row.val.figures["clean"], row.val.figures["robust"]) for row in run.history] for run in (plain, trained)
    ]
    assert figures[0] != figures[1]
    assert [row.train_loss for row in plain.history] == [row.train_loss for row in trained.history]
