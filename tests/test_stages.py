"""Runs of several stages, runs that begin with given weights, and the methods that need them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import BATCHES, tiny, write_rows
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.methods import METHODS
from satbench.methods.aft import AFT
from satbench.methods.base import Step
from satbench.methods.moat import MOAT
from satbench.numerics.threat import ThreatModel
from satbench.recipes import RECIPES
from satbench.training.build import check_start
from satbench.training.settings import StageConfig
from satbench.training.stages import known_from, stage_of, stages_of


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last.safetensors")


def equal(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("digits-standard", ""), ("digits-pgd-at", "authors' code"), ("digits-ssl-at", "reconstruction")],
)
def test_a_run_is_as_certain_as_its_least_certain_stage(recipe: str, expected: str) -> None:
    config = RECIPES[recipe]()
    assert known_from(config) == expected
    first = config.stages or (StageConfig(epochs=1.0),)
    standard = StageConfig(changes={"method": "standard"})
    assert known_from(config.model_copy(update={"stages": (*first[:-1], first[-1], standard)})) == expected


def test_every_update_has_the_settings_of_its_stage(dataset: str) -> None:
    """A schedule and its warm-up begin anew with their stage: the rates follow from the formulas."""
    changes = [
        {"updates": 3, "changes": {"method": "standard", "optimizer.lr": 0.2, "schedule": "constant"}},
        {"epochs": 0.8, "changes": {"schedule": "cosine", "threat.eps": 0.05}},
        {"changes": {"method": "trades", "optimizer.warmup_epochs": 0.4, "schedule": "constant"}},
    ]
    config = tiny(dataset, epochs=3, stages=changes)
    stages = stages_of(config, BATCHES)
    assert [(one.first, one.last) for one in stages] == [(0, 3), (3, 7), (7, 15)]
    assert [stage_of(stages, number) for number in range(16)] == [0] * 3 + [1] * 4 + [2] * 9
    assert [one.config.method.name for one in stages] == ["standard", "pgd_at", "trades"]
    assert [one.config.threat.eps for one in stages] == [0.1, 0.05, 0.1]
    rates = [stages[stage_of(stages, number)].learning_rate(number) for number in range(15)]
    cosine = [0.1 * 0.5 * (1 + math.cos(math.pi * (step + 0.5) / 4)) for step in range(4)]
    warm = [0.1 * min(1.0, (step + 0.5) / 5 / 0.4) for step in range(8)]
    assert rates == pytest.approx([0.2] * 3 + cosine + warm)


def test_stages_without_changes_are_one_run(dataset: str, tmp_path: Path) -> None:
    plain = {"epochs": 2, "schedule": "constant", "averaging": "ema"}
    train(tiny(dataset, **plain), tmp_path / "plain", "cpu")
    train(tiny(dataset, **plain, stages=[{}]), tmp_path / "one", "cpu")
    kept = [{"updates": 4, "changes": {}}, {"epochs": 0.4}, {}]
    kept = [{**one, "keep_optimizer": True} for one in kept]
    train(tiny(dataset, **plain, stages=kept), tmp_path / "three", "cpu")
    fresh = [{**one, "keep_optimizer": False} for one in kept]
    train(tiny(dataset, **plain, stages=fresh), tmp_path / "fresh", "cpu")
    assert equal(tmp_path / "plain", tmp_path / "one")
    assert equal(tmp_path / "plain", tmp_path / "three")
    assert not equal(tmp_path / "plain", tmp_path / "fresh")


def test_a_run_begins_with_the_weights_it_is_given(dataset: str, tmp_path: Path) -> None:
    train(tiny(dataset, epochs=1), tmp_path / "first", "cpu")
    still = {"epochs": 1, "seed": 3, "optimizer.lr": 1e-30, "optimizer.weight_decay": 0, "model.width": 4}
    config = tiny(dataset, **still, init_from=str(tmp_path / "first"))
    train(config, tmp_path / "second", "cpu")
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in learnt)
    assert "init_from" in json.loads((tmp_path / "second" / "config.json").read_text())["data"]
    train(tiny(dataset, epochs=1, seed=5), tmp_path / "third", "cpu")
    (tmp_path / "first").rename(tmp_path / "gone")
    (tmp_path / "third").rename(tmp_path / "first")
    with pytest.raises(BadInput, match="other images, or begins with other weights"):
        train(config, tmp_path / "second", "cpu")
    for change, hint in (
        ({"model.width": 8}, "its params is"),
        ({"model": "mlp", "model.width": 8}, "its architecture is 'cnn-small'"),
        ({"init_from": "nothing-of-the-kind"}, "nothing-of-the-kind"),
    ):
        with pytest.raises(BadInput, match=hint):
            train(tiny(dataset, **{"init_from": str(tmp_path / "first"), **change}), tmp_path / "x", "cpu")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("stages", "changes", "hint"),
    [
        ([{}, {}], {}, "stage 1 needs a length; give it epochs or updates"),
        *(
            (
                [{"updates": 2}, {"keep_optimizer": True, "changes": {f"optimizer.{key}": value}}],
                {},
                f"undefined: keep_optimizer in stage 2, whose optimizer is {ours} and the one before sgd filters",
            )
            for key, value, ours in (("name", "adamw", "adamw filters"), ("decay", "all", "sgd all"))
        ),
        ([{"epochs": 1}], {}, "the last stage lasts until the run ends; leave its length out"),
        ([{"epochs": 2}, {}], {}, r"stage 2 of 2 begins at update 10 and ends at 10 of the 10 of 2 epochs"),
        ([{"epochs": 0.01}, {}], {}, "stage 1 of 2 begins at update 0 and ends at 0"),
        ([{"epochs": -1}, {}], {}, "epochs"),
        ([{"epochs": 1, "changes": {"batch_size": 3}}, {}], {}, "batch_size cannot change between stages; method, "),
        ([{"epochs": 1, "changes": {"method": "trads"}}, {}], {}, "did you mean trades"),
        ([{"epochs": 1, "changes": {"method": "free"}}, {}], {}, "a method that replays its batches cannot share"),
        (
            [{"epochs": 1, "changes": {"optimizer.warmup_epochs": 1}}, {}],
            {},
            "a warm-up that is not over before the 1 ",
        ),
        ([{"epochs": 1}, {"changes": {"method": "aft"}}], {"data.val": "none"}, "needs the figure 'clean'"),
        (
            [{"epochs": 1}, {"changes": {"method": "aft"}}],
            {"measure.evaluators": "fgsm+pgd", "measure.best": "robust"},
            "needs the figure 'clean'",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(
    stages: list[dict[str, Any]], changes: dict[str, Any], hint: str, dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        train(tiny(dataset, stages=stages, **changes), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_a_start_with_another_activation_is_told_and_another_architecture_refused(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card tells both before anything is downloaded: its weights do not exist."""
    registry = tmp_path / "cards.yaml"
    card = {
        "format": "safetensors",
        "summary": "",
        "architecture": "cnn-small",
        "activation": "relu",
        "parameters": 1,
        "licence": "MIT",
        "dataset": "digits",
        "recipe": "digits-sat",
        "method": "pgd_at",
        "trained_for": {"norm": "Linf", "eps": 0.2},
        "weights": "missing.safetensors",
        "sha256": "0" * 64,
        "seed": 0,
    }
    registry.write_text(json.dumps({"mine": card}))
    monkeypatch.setenv("SATBENCH_ZOO", str(registry))
    from_card = tiny(dataset, init_from="mine")
    said = "init_from mine: its activation is relu, and this run trains its weights with silu; set activation to train"
    assert check_start(from_card).startswith(said)
    assert check_start(from_card.with_values({"activation": "relu"})) == ""
    with pytest.raises(BadInput, match=r"init_from mine: its architecture is 'cnn-small', and that .* is 'mlp'"):
        train(from_card.with_values({"model": "mlp"}), tmp_path / "run", "cpu")
    train(tiny(dataset, epochs=1), tmp_path / "first", "cpu")
    words = ["--dataset", dataset, "--activation", "relu", "--set", "model.width=4", "--set", "method.steps=1"]
    words += ["--set", f"init_from={tmp_path / 'first'}", "--set", "batch_size=16", "--dry-run", "--device", "cpu"]
    done = CliRunner().invoke(app, ["train", "digits-sat", *words])
    assert done.exit_code == 0, done.output
    assert "its activation is silu, and this run trains its weights with relu" in done.stderr


def test_the_scale_of_a_regulated_attack_is_shown_at_the_end(dataset: str, tmp_path: Path) -> None:
    """Of an epoch, that under which its images were crafted: it begins at 0.5, and rises after the first by 0.2."""
    recipe = tiny(
        dataset,
        **{"method": "aft", "method.steps": 1, "method.early_stop": [], "optimizer.lr": 1e-30, "epochs": 3},
        **{"method.start": 0.5, "method.up": 0.2, "stages": [{"epochs": 1, "changes": {"method": "standard"}}, {}]},
    )
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    words = ["train", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("method", {}).get("scale") for row in rows] == [None, 0.5, pytest.approx(0.7)]
    head, _, best, last, begun = (line.split(" | ") for line in done.stdout.splitlines()[:5])
    assert head[-1] == "scale |"
    assert [one[-1] for one in (best, last, begun)] == ["0.5 |", "0.7 |", "- |"]


def norm_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.Flatten(), nn.Linear(108, 4))


def step_of(network: nn.Module, method: AFT) -> Step:
    draws = torch.Generator().manual_seed(1)
    x, y = torch.rand(6, 1, 8, 8, generator=draws), torch.arange(6) % 4
    step = Step.of(x, y, ThreatModel("Linf", 0.1), draws)
    step.state, step.network = method.initial_state(6, 4, tuple(x.shape)), network
    method.begin(network, step.state, lambda: {"clean": 0.9, "robust": 0.0})
    return step


@pytest.mark.parametrize(("mix", "anchor"), [(0.5, 0.0), (0.3, 2.0), (1.0, 0.0), (1.0, 1.0)])
def test_aft_is_its_formula(mix: float, anchor: float) -> None:
    network, method = norm_network(), AFT(mix=mix, anchor=anchor, steps=2)
    step = step_of(network, method)
    start = norm_network()
    with torch.no_grad():
        network[0].weight.mul_(1.5)  # f is no longer f_0
    start.eval()
    x_adv = (step.x + 0.05).clamp(0, 1)
    network.train()
    moved = norm_network()
    moved.load_state_dict(network.state_dict())
    moved.train()
    loss = method.loss(network, x_adv, step)
    clean, adversarial = moved(step.x).log_softmax(1), norm_network()
    adversarial.load_state_dict(network.state_dict())
    wanted = mix * functional.nll_loss(adversarial.train()(x_adv).log_softmax(1), step.y)
    wanted = wanted + (1 - mix) * functional.nll_loss(clean, step.y)
    p0 = start(step.x).softmax(1)
    wanted = wanted + anchor * (p0 * (p0.log() - clean)).sum(1).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    loss.backward()
    if mix < 1 or anchor:  # the clean half alone moves the running statistics
        assert torch.equal(network[1].running_mean, moved[1].running_mean)


def test_the_controller_falls_rises_and_stays_in_its_bounds() -> None:
    method = AFT(start=0.25, least=0.1, up=0.1, down=0.05, budget=0.01)
    state = step_of(norm_network(), method).state
    assert method.logged(state) == {"scale": 0.25, "start_clean": 0.9, "start_robust": 0.0}
    seen = []
    for clean in [0.88] * 5 + [0.895] * 11 + [0.889, 0.891]:
        method.after_epoch(state, {"clean": clean})
        seen.append(round(method.logged(state)["scale"], 6))
    down, up = [0.2, 0.15, 0.1, 0.1, 0.1], [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0]
    assert seen == [*down, *up, 0.95, 1.0]


def test_the_regulated_attack_stays_in_the_scaled_ball() -> None:
    network, method = norm_network().eval(), AFT(steps=3)
    step = step_of(network, method)
    moved = (method.perturb(network, step) - step.x).abs().amax()
    assert 0 < moved <= 0.25 * 0.1 + 1e-7


@pytest.mark.parametrize(
    ("spelled", "unit", "wanted"),
    [
        ([(4, "single"), (2, "multi")], "epochs", "ssssmm" * 2),
        ([(1, "benign"), (3, "single"), (2, "multi")], "epochs", "bsssmm" * 2),
        ([(20, "benign&single"), (10, "multi")], "updates", "bs"),
    ],
)
def test_moat_takes_its_stages_in_turn(spelled: Any, unit: Any, wanted: str) -> None:
    method, letters = MOAT(spelled, unit), {"Standard": "b", "FGSMRS": "s", "PGDAT": "m"}
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    taken, passes = [], []
    for number in range(120):  # ten an epoch
        step = Step.of(x, y, ThreatModel("Linf", 0.1), torch.Generator())
        step.number, step.epoch = number, (number + 0.5) / 10
        one = method.taken_by(step)
        taken.append(letters[type(one).__name__])
        passes.append(one.passes.forward)
    if unit == "epochs":
        assert taken == [letter for letter in wanted for _ in range(10)]
    else:
        assert taken == (list(wanted) * 10 + ["m"] * 10) * 4
    assert method.mean_passes(12).forward == pytest.approx(sum(passes) / len(passes))
    assert method.mean_passes(12).backward == pytest.approx(sum(passes) / len(passes))


def test_moat_costs_what_it_says() -> None:
    """Four passes of an image where forward and backward are one; a part of a period at the end counts as it is."""
    assert MOAT().mean_passes(30).forward == 4
    assert MOAT().mean_passes(4).forward == 2
    assert METHODS["moat"](stages=[[1, "benign"], [3, "single"], [2, "multi"]]).mean_passes(6).forward == 23 / 6
    with pytest.raises(BadInput, match="unknown examples 'fast' in stages of moat; known: benign, single, multi"):
        METHODS["moat"](stages=[[1, "fast"]])


@pytest.mark.parametrize(("batch_norm", "batches"), [("both", 2), ("clean", 1)])
def test_aft_counts_the_batches_that_move_the_running_statistics(batch_norm: str, batches: int) -> None:
    network = norm_network()
    method = AFT(batch_norm=batch_norm, steps=2)
    step = step_of(network, method)
    network.train()
    method.loss(network, step.x, step)
    (norm,) = (module for module in network.modules() if isinstance(module, _BatchNorm))
    assert norm.num_batches_tracked == batches


@pytest.mark.parametrize(
    ("changes", "passes", "epochs"),
    [
        ({"method": "pgd_at", "method.steps": 10}, 440, 20),  # 11 forward and 11 backward
        ({"method": "pgd_at", "method.steps": 10}, 461, 20),
        ({"method": "standard"}, 440, 220),
        ({"method": "fgsm_rs"}, 440, 110),
        ({"method": "free", "method.replays": 8}, 440, 27),  # 16 an epoch
        ({"method": "moat", "method.steps": 7}, 96, 12),  # 4 epochs of 4, 2 of 16, twice
        ({"method": "moat", "method.steps": 7}, 64, 10),  # 48, and four cheap epochs
        ({"stages": [{"epochs": 4, "changes": {"method": "standard"}}, {}], "method.steps": 3}, 40, 8),  # 8 + 4 of 8
    ],
)
def test_a_budget_of_passes_decides_the_epochs(
    changes: dict[str, Any], passes: int, epochs: int, dataset: str, tmp_path: Path
) -> None:
    config = tiny(dataset, **changes, **{"budget.passes": passes})
    assert config.epochs == epochs
    assert config.with_values({"seed": 3}) == config.with_values({"seed": 3, "epochs": 7})


def test_a_run_takes_what_its_budget_pays_for(dataset: str, tmp_path: Path) -> None:
    config = tiny(dataset, **{"budget.passes": 13, "method.steps": 1})
    trained = train(config, tmp_path, "cpu")
    assert len(trained.history) == 3
    spent = sum((row.forward or 0) + (row.backward or 0) for row in trained.history)
    assert 13 - 4 < spent <= 13
    with pytest.raises(BadInput, match="pays for less than 1 epochs, which take 4"):
        tiny(dataset, **{"budget.passes": 3, "method.steps": 1})
    with pytest.raises(BadInput, match="a stage whose length is a number of updates"):
        tiny(dataset, **{"budget.passes": 30, "stages": [{"updates": 1}, {}]})


@pytest.mark.slow
def test_multi_step_examples_keep_single_step_training_from_collapse(tmp_path: Path) -> None:
    """Eight points of accuracy under PGD more than FGSM training, whatever the seed; it is at 17 on 450 images."""
    robust: dict[str, list[float]] = {"digits-moat": [], "digits-collapse": []}
    for name, found in robust.items():
        for seed in range(2):
            config = RECIPES[name]().with_values({"epochs": 30, "seed": seed, "stop.collapse": "note"})
            train(config, tmp_path / f"{name}-{seed}", "cpu")
            run = evaluate(
                str(tmp_path / f"{name}-{seed}"),
                tmp_path / f"eval-{name}-{seed}",
                "pgd:restarts=3",
                eps=0.25,
                steps=40,
                device="cpu",
                trust=False,
            )
            found.append(1 - float(run.records["broken"].mean()))
    assert min(robust["digits-moat"]) > max(robust["digits-collapse"]) + 0.08


@pytest.mark.slow
def test_fine_tuning_keeps_the_clean_accuracy_that_adversarial_fine_tuning_loses(tmp_path: Path) -> None:
    """On validation images, at full radius: mixed within two points of where it began, adversarial alone below it."""
    clean: dict[float, list[float]] = {0.5: [], 1.0: []}
    for mix, found in clean.items():
        for seed in range(2):
            alone = {"method.early_stop": [], "method.start": 1, "method.least": 1} if mix == 1 else {}
            config = RECIPES["digits-aft"]().with_values({"seed": seed, "method.mix": mix, **alone})
            (*_, row) = train(config, tmp_path / f"{mix}-{seed}", "cpu").history
            assert row.val is not None
            found.append(row.val.figures["clean"] - row.method["start_clean"])
            assert row.val.figures["robust"] > row.method["start_robust"] + 0.05
    assert sum(clean[0.5]) / 2 > -0.02
    assert sum(clean[1.0]) / 2 < sum(clean[0.5]) / 2 - 0.02
