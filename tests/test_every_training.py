"""Every method and option that keeps state: a run that is stopped anywhere ends as one that never was."""

import os
import signal
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import BATCHES, BEGUN, WAYS, contents, tiny, write_rows

from satbench import train
from satbench.core.errors import BadInput
from satbench.methods import METHODS
from satbench.training.averaging import AVERAGES
from satbench.training.state import STATE

pytestmark = pytest.mark.numeric

SAME_BITS = ("pgd_at", "not resident", "measured at the end", "on a copy")  # ways that change a rounding at most


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


class PowerCut(Exception):
    pass


def stop_at(step: int) -> Callable[[int, int, str], None]:
    """Ctrl-C after an odd update, the power cut after an even one."""

    def report(done: int, total: int, what: str) -> None:
        if done == step and step % 2:
            os.kill(os.getpid(), signal.SIGINT)
        elif done == step:
            raise PowerCut

    return report


def test_every_method_and_average_is_among_the_ways() -> None:
    configs = [tiny("digits", **changes) for changes in WAYS.values()]
    assert {config.method.name for config in configs} == set(METHODS)
    assert {config.averaging.name for config in configs} == set(AVERAGES)


@pytest.mark.one_in(48)
@pytest.mark.parametrize("way", WAYS)
def test_a_run_stopped_anywhere_ends_with_the_same_bits(way: str, dataset: str, tmp_path: Path) -> None:
    config = tiny(dataset, **WAYS[way])
    whole = train(config, tmp_path / "whole", device="cpu")
    updates = config.epochs * BATCHES * int(config.method.params.get("replays", 1))
    for step in (1, updates // 3 + 1, updates // 2, updates - 2, updates - 1):
        with pytest.raises((KeyboardInterrupt, PowerCut)):
            train(config, tmp_path / "run", device="cpu", progress=stop_at(step), save_seconds=0)
    train(config, tmp_path / "run", device="cpu")
    assert contents(tmp_path / "run") == contents(whole.folder)


@pytest.fixture(scope="module")
def plain(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, object]], Path]:
    """The folder of a training without any of these options but the activation."""

    @cache
    def trained(activation: object) -> Path:
        changes = {} if activation is None else {"activation": activation}
        return train(tiny(dataset, **changes), tmp_path_factory.mktemp("plain") / "run", "cpu").folder

    return lambda options: trained(options.get("activation"))


@pytest.mark.one_in(24)
@pytest.mark.parametrize("way", [way for way in WAYS if way not in SAME_BITS])
def test_every_way_leads_somewhere_else(
    way: str, dataset: str, plain: Callable[[Mapping[str, object]], Path], tmp_path: Path
) -> None:
    """Else the option would do nothing, and its resume would prove nothing."""
    other = train(tiny(dataset, **WAYS[way]), tmp_path / "other", "cpu").folder
    one, two = (load_file(folder / "last.safetensors") for folder in (plain(WAYS[way]), other))
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("way", ["free", "ema", "swa"])
def test_what_a_method_remembers_is_in_the_checkpoint(way: str, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny(dataset, **WAYS[way]), tmp_path, "cpu", progress=stop_at(BATCHES * 2 + 1 if way == "free" else 7))
    names = load_file(tmp_path / STATE)
    if way == "free":
        assert names["method.delta"].shape == (BATCHES and 16, 1, 8, 8)
        assert names["method.delta"].abs().max() == pytest.approx(0.1)
    else:
        assert {name.partition(".")[2] for name in names if name.startswith("model.")} <= {
            name.partition(".")[2] for name in names if name.startswith("average.")
        }


def test_resident_images_are_the_same_images(dataset: str, tmp_path: Path) -> None:
    for name, value in (("yes", True), ("no", False)):
        train(tiny(dataset, **{"speed.resident": value}), tmp_path / name, "cpu")
    assert (tmp_path / "yes/last.safetensors").read_bytes() == (tmp_path / "no/last.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"method": "standard", "surrogate.attacker": True, "activation": "relu"}, "whose attacker takes no pass"),
        ({"method": "free", "surrogate.attacker": True, "activation": "relu"}, "whose attacker takes no pass"),
        ({"method": "standard", "attack_bn_mode": "train"}, "which crafts no image"),
        ({"method": "standard", "speed.precision": "bf16-attack"}, "use bf16"),
        ({"surrogate.optimizer": True}, "a surrogate derivative with silu"),
        ({"activation": "relu", "surrogate.attacker": True, "speed.compile": True}, "speed.compile"),
        ({"method": "gradalign", "speed.compile": True}, "train it in float32"),
        ({"method": "gradalign", "speed.precision": "bf16"}, "train it in float32"),
        ({"method": "gradalign", "surrogate.optimizer": True, "activation": "relu"}, "whose loss holds a gradient"),
        ({"method": "mart", "label_smoothing.amount": 0.1}, "defined for hard labels"),
        ({"method": "ssl_at", "label_smoothing.amount": 0.1}, "ssl_at, whose loss is defined for no labels"),
        ({"method": "simclr"}, "augment=none with simclr, which learns from 2 views of every image that differ; set"),
        ({"method": "ssl_at", "speed.compile": True}, "speed.compile with ssl_at, which reads the representation"),
        ({"method": "ssl_at", "accumulation": 2}, "accumulation with ssl_at"),
        ({"method": "ssl_at", **BEGUN}, "the best epoch is chosen by 'knn_robust', which no evaluator gives"),
        ({"method": "ssl_at"}, "ssl_at of an untrained network; set init_from to a trained one, or give stages"),
        ({"method": "aft"}, "aft of an untrained network; set init_from to a trained one, or give stages"),
        (
            {"stages": [{"epochs": 1, "changes": {"method": "aft"}}, {}]},
            "aft of an untrained network; set init_from to a trained one",
        ),
        (
            {"method": "aft", "measure.every": 2, **BEGUN},
            "measure.every=2 with aft, which reads clean of the validation split after every epoch; set measure.every",
        ),
        ({"measure.evaluators": "clean+fgsm+pgd+knn"}, "k=75 of knn is more than the 72 training images"),
        ({"method": "awp", "method.method": "mart", "label_smoothing.amount": 0.1}, "defined for hard labels"),
        ({"method": "free", "threat.warmup_epochs": 1}, "crafts no image from the start"),
        ({"method": "te"}, "te that starts after epoch 89 of 2; set method.start_epoch"),
        ({"method": "sglr"}, "sglr that starts after epoch 89 of 2; set method.start_epoch"),
        (
            {"method": "moat"},
            "moat reaches its last stage, multi, after 4 epochs, and the run, or its stage, has 2; give more epochs",
        ),
        (
            {"method": "moat", "method.unit": "updates", "method.stages": [[10, "single"], [1, "multi"]]},
            "multi, after 10 updates, and the run, or its stage, has 10",
        ),
        (
            {"method": "te", "method.start_epoch": 0, "label_smoothing.amount": 0.1},
            "te, whose loss is defined for hard",
        ),
        (
            {"method": "sglr", "method.start_epoch": 0, "label_smoothing.amount": 0.1},
            "sglr, whose loss is defined for hard labels",
        ),
        (
            {"method": "sglr", "method.start_epoch": 0, "method.weighted": True, "accumulation": 2},
            "accumulation with sglr, whose loss weighs the images of a batch against each other",
        ),
        ({"method": "awp", "method.method": "free"}, "awp around free is undefined"),
        ({"method": "n_fgsm", "threat.norm": "L2"}, "Linf"),
        ({"method": "gradalign", "threat.norm": "L1"}, "Linf"),
        ({"averaging": "swa"}, "start"),
        ({"averaging": "swa", "averaging.start": 2}, "start before its end"),
        ({"averaging": "emma"}, "ema"),
        ({"averaging.decay": 0.9}, "takes none"),
        ({"method": "standard", "threat.warmup_epochs": 1}, "crafts no image"),
        ({"data.val": "none", "stop.patience": 2}, "both look at the validation split"),
        ({"data.val": "none", "stop.collapse": "stop"}, "both look at the validation split"),
        ({"measure.every": 2, "stop.collapse": "rollback"}, "the epoch before was not measured"),
        ({"data.val": 0.001}, "leaves a split empty"),
        ({"data.val": 90}, "leaves a split empty"),
        ({"threat.warmup_epochs": 2}, "not over before the 2 epochs are"),
        ({"optimizer.warmup_epochs": 9}, "not over before the 2 epochs are"),
        ({"label_smoothing.amount": 0.7}, "no more than the others"),
        ({"schedule": "piecewise", "schedule.milestones": [0.9, 0.5]}, "the earliest first"),
        ({"augment": "crop"}, "crop-flip"),
        ({"augment": "random-resized-crop"}, "crop-flip"),
        ({"schedule.peek": 0.2}, "peak|takes none|known"),
        ({"schedule": "piecewise", "schedule.milestones": "1"}, "milestones"),
    ],
)
def test_what_no_source_defines_is_refused_before_anything_is_written(
    changes: dict[str, object], hint: str, dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        train(tiny(dataset, **changes), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()
