"""A training of seconds, and every way of training that keeps state, for the tests of the trainer."""

from pathlib import Path

import numpy as np

from satbench.recipes import RECIPES
from satbench.training import TrainConfig
from satbench.training.state import STATE

IMAGES, CLASSES = 120, 3
BATCH = 16
BATCHES = 5  # an epoch: 72 of the images are for training

# the options of `satbench train` that make its default recipe one of a second
TINY = ("model.width=8", "measure.evaluators=clean+fgsm+pgd:steps=1", "method.steps=1")
SMALL = ["--model", "mlp", *(word for setting in TINY for word in ("--set", setting))]

BEGUN: dict[str, object] = {"stages": [{"updates": 2, "changes": {"method": "standard"}}, {}]}  # then fine-tuned
READ_OUT = {"measure.evaluators": "clean+knn:k=3,steps=2"}  # of methods that learn no classes

# how a training differs from PGD training with two steps; beside what no test has to name
WAYS: dict[str, dict[str, object]] = {
    "standard": {"method": "standard"},
    "pgd_at": {},
    "pgd_at early_stop": {"method.early_stop": [[0, 1], [1, 2]]},
    "trades": {"method": "trades", "method.steps": 2},
    "mart": {"method": "mart", "method.steps": 2},
    "awp": {"method": "awp", "method.steps": 2},
    "awp around trades": {"method": "awp", "method.method": "trades", "method.steps": 2, "method.warmup_epochs": 1},
    "fgsm_rs": {"method": "fgsm_rs"},
    "n_fgsm": {"method": "n_fgsm"},
    "gradalign": {"method": "gradalign"},
    "free": {"method": "free", "method.replays": 3},
    "moat": {"method": "moat", "method.stages": [[0.4, "single"], [0.4, "benign&multi"]], "method.steps": 2},
    "aft": {"method": "aft", "method.steps": 2, "method.anchor": 0.5, "method.early_stop": [], **BEGUN},
    "stages": {
        "stages": [
            {"updates": 2, "changes": {"method": "standard", "optimizer.lr": 0.05}},
            {"epochs": 0.6, "changes": {"schedule": "cosine", "optimizer.warmup_epochs": 0.2}, "keep_optimizer": True},
            {"changes": {"method": "aft", "method.steps": 2, "method.early_stop": [], "optimizer.lr": 0.01}},
        ]
    },
    "sglr": {"method": "sglr", "method.steps": 2, "method.start_epoch": 1},
    "sglr interp": {
        "method": "sglr",
        "method.steps": 2,
        "method.start_epoch": 0,
        "method.anchor": "interp",
        "method.clean_bn_mode": "eval",
    },
    "sglr on trades": {"method": "sglr", "method.base": "trades", "method.steps": 2, "method.start_epoch": 0},
    "self-adaptive": {
        "method": "sglr",
        "method.base": "trades",
        "method.clean_share": 1,
        "method.weighted": True,
        "method.steps": 2,
        "method.start_epoch": 0,
    },
    "te": {"method": "te", "method.steps": 2, "method.start_epoch": 0, "method.end_epoch": 1},
    "te on trades": {
        "method": "te",
        "method.base": "trades",
        "method.steps": 2,
        "method.start_epoch": 1,
        "method.end_epoch": 2,
    },
    "adr": {"method": "adr", "method.steps": 2, "method.end_epoch": 2, "method.decay": 0.8},
    "adr on trades": {
        "method": "adr",
        "method.base": "trades",
        "method.steps": 2,
        "method.end_epoch": 1,
        "attack_bn_mode": "train",
    },
    "awp around adr": {"method": "awp", "method.method": "adr", "method.steps": 2, "method.end_epoch": 1},
    "extra data": {"data.extra": "tiny_training:generated_rows", "data.extra_fraction": 0.4},
    "sglr with extra data": {
        "method": "sglr",
        "method.steps": 2,
        "method.start_epoch": 0,
        "data.extra": "tiny_training:generated_rows",
        "drop_last": False,
        "augment": "crop-flip",
    },
    "sglr with ema": {"method": "sglr", "method.steps": 2, "method.start_epoch": 1, "averaging": "ema"},
    "te with swa": {
        "method": "te",
        "method.steps": 2,
        "method.start_epoch": 0,
        "method.end_epoch": 1,
        "averaging": "swa",
        "averaging.start": 0,
    },
    "simclr": {"method": "simclr", "augment": "crop-flip", **READ_OUT},
    "ssl_at": {"method": "ssl_at", "method.steps": 2, **READ_OUT, **BEGUN},
    "self-supervised stages": {
        "augment": "crop-flip",
        "stages": [
            {"updates": 3, "changes": {"method": "simclr"}},
            {"epochs": 0.8, "changes": {"method": "standard"}},
            {"changes": {"method": "ssl_at", "method.steps": 2}},
        ],
        **READ_OUT,
    },
    "ema": {"averaging": "ema"},
    "swa": {"averaging": "swa", "averaging.start": 0},
    "smoothing": {"label_smoothing.amount": 0.2},
    "crafted with batch statistics": {"attack_bn_mode": "train"},
    "surrogate": {"activation": "relu", "surrogate.attacker": True, "surrogate.optimizer": True},
    "adamw": {"optimizer.name": "adamw", "optimizer.lr": 0.01},
    "clipped": {"optimizer.clip": 0.1},
    "augmented": {"augment": "crop-flip"},
    "warm-ups": {"optimizer.warmup_epochs": 1.5, "threat.warmup_epochs": 1.5},
    "piecewise": {"schedule": "piecewise", "schedule.milestones": [0.5]},
    "bf16": {"speed.precision": "bf16"},
    "channels last": {"speed.channels_last": True},
    "not resident": {"speed.resident": False},
    "accumulated": {"accumulation": 3},
    "no validation": {"data.val": "none"},
    "measured at the end": {"measure.every": 2},
    "on a copy": {"speed.search_copy": True},
}


def write_rows(file: Path) -> str:
    """Grey noise images whose class shows as a bright row; the name of the data set."""
    x, y = rows(seed=0)
    np.savez(file, x=x, y=y)
    return f"npz:{file}"


def rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(IMAGES) % CLASSES
    x = np.random.default_rng(seed).random((IMAGES, 1, 8, 8)) * 0.6
    x[np.arange(IMAGES), 0, 2 * y] += 0.4
    return x.astype(np.float32), y


def generated_rows(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Other such images, as a data set of a user's own."""
    return rows(seed=1 if split == "train" else 2)


def tiny(dataset: str, **changes: object) -> TrainConfig:
    """Two epochs of PGD-2 on a convnet with batch norm."""
    start = {
        "recipe": "tiny",
        "dataset": dataset,
        "model.width": 4,
        "method.steps": 2,
        "threat.eps": 0.1,
        "epochs": 2,
        "batch_size": BATCH,
        "measure.evaluators": "clean+fgsm+pgd:steps=2",
        "optimizer.lr": 0.1,
    }
    return RECIPES["digits-sat"]().with_values(start).with_values({"recipe": "tiny", **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """What equal runs share to the byte: neither times, nor the state, which holds them too, nor the lock."""
    timed = ("times.jsonl", STATE)
    return {file.name: file.read_bytes() for file in folder.glob("[!.]*") if file.is_file() and file.name not in timed}
