"""How much is held out for validation, how often it is measured, in which precision, and what that costs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import contents, tiny, write_rows
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import load_images, training_splits
from satbench.training.checkpoint import read_times

FIGURES = {"val_n", "val_clean", "val_fgsm", "val_robust", "val_alone"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.mark.parametrize(("val", "n"), [(0.02, 27), (0.5, 674), (100, 100), (1000, 1000)])
def test_a_validation_split_has_the_size_asked_for_and_every_class(val: float, n: int) -> None:
    images, held_out = training_splits("digits", val=val)
    assert held_out is not None
    assert len(held_out) == pytest.approx(n, abs=5)  # half an image in each of ten classes
    assert set(held_out.y.tolist()) == set(range(10))
    assert not set(images.ids) & set(held_out.ids)
    default = {*load_images("digits", "train").ids, *load_images("digits", "val").ids}
    assert {*images.ids, *held_out.ids} == default
    assert not default & set(load_images("digits", "test").ids)


def test_without_a_validation_split_all_but_the_test_images_are_trained_on() -> None:
    images, held_out = training_splits("digits", val="none")
    assert held_out is None
    assert len(images) == 1797 - len(load_images("digits", "test"))
    assert images.split == "train"


@pytest.mark.parametrize("val", [None, 100, "none"])
def test_fewer_training_images_are_the_first_of_each_class_and_the_held_out_ones_stay(val: float | str | None) -> None:
    everything, held_out = training_splits("digits", val=val)
    images, held_out_too = training_splits("digits", val=val, train_n=500)
    assert (len(images), images.split) == (500, "train")
    assert [one for one in everything.ids if one in set(images.ids)] == list(images.ids)
    for label in range(10):
        everyone, chosen = (
            [one for one, of in zip(some.ids, some.y.tolist(), strict=True) if of == label]
            for some in (everything, images)
        )
        assert abs(len(chosen) - 500 * len(everyone) / len(everything)) <= 1
        assert chosen == everyone[: len(chosen)]
    assert (held_out_too and held_out_too.digest) == (held_out and held_out.digest)


def test_as_many_of_each_class_where_classes_are_equal(dataset: str) -> None:
    """72 images of three classes."""
    images, _ = training_splits(dataset, train_n=30)
    assert images.y.bincount().tolist() == [10, 10, 10]


def test_more_training_images_than_there_are_are_refused() -> None:
    with pytest.raises(BadInput, match=r"data\.train_n=1079: digits has 1078 training images"):
        training_splits("digits", train_n=1079)


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "2.5", "some"])
def test_a_size_that_means_nothing_is_refused(value: str, dataset: str) -> None:
    with pytest.raises(BadInput, match=r"data\.val"):
        tiny(dataset, **{"data.val": value})


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_measuring_less_often_changes_neither_weights_nor_figures(dataset: str, tmp_path: Path) -> None:
    often = train(tiny(dataset, epochs=5), tmp_path / "often", "cpu")
    seldom = train(tiny(dataset, epochs=5, **{"measure.every": 2}), tmp_path / "seldom", "cpu")
    assert [row.epoch for row in seldom.history if row.val is not None] == [1, 3, 4]
    for one, other in zip(often.history, seldom.history, strict=True):
        assert other == (one.model_copy(update={"val": None}) if other.epoch in (0, 2) else one)
    measured = [row for row in often.history if row.epoch in (1, 3, 4)]
    best = max(measured, key=lambda row: (row.val.figures["robust"], row.val.figures["clean"], -row.epoch))
    assert seldom.best_epoch == best.epoch


def test_patience_waits_for_a_measurement(dataset: str, tmp_path: Path) -> None:
    """At a learning rate of nothing the first measurement is the best; the third epoch after it is measured."""
    still = {"optimizer.lr": 1e-30, "measure.every": 3, "stop.patience": 2, "optimizer.weight_decay": 0}
    trained = train(tiny(dataset, epochs=12, model="mlp", **still), tmp_path, "cpu")
    assert (trained.best_epoch, trained.last_epoch) == (2, 5)


def test_a_run_without_validation_keeps_its_last_weights_and_says_so(dataset: str, tmp_path: Path) -> None:
    words = ["train", "--dataset", dataset, "--out", str(tmp_path), "--device", "cpu", "--epochs", "2"]
    words += ["--set", "data.val=none", "--set", "method.steps=1", "--set", "model.width=4"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "no validation split: nothing was measured, and the best epoch is the last one" in done.output
    assert not any(FIGURES & row.keys() for row in rows_of(tmp_path))
    found = contents(tmp_path)
    assert found["best.safetensors"] == found["last.safetensors"]
    with pytest.raises(BadInput, match="was trained without a validation split; use --split test"):
        evaluate(str(tmp_path), tmp_path / "eval", "fgsm", eps=0.1, split="val", device="cpu")


def test_a_network_is_measured_on_no_image_it_was_trained_on(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(dataset, **{"data.val": 9, "data.train_n": 30, "epochs": 1}), tmp_path / "run", "cpu")
    images, held_out = training_splits(dataset, val=9, train_n=30)
    assert held_out is not None
    run = evaluate(str(tmp_path / "run"), tmp_path / "val", "fgsm", eps=0.1, split="val", device="cpu")
    assert set(run.records["sample_id"]) == set(held_out.ids)
    seen = evaluate(str(tmp_path / "run"), tmp_path / "train", "fgsm", eps=0.1, split="train", device="cpu")
    assert set(seen.records["sample_id"]) == set(images.ids)
    file = Path(dataset.removeprefix("npz:"))
    monkeypatch.chdir(file.parent)
    other = evaluate(str(tmp_path / "run"), tmp_path / "t", "fgsm", eps=0.1, dataset=f"npz:./{file.name}", device="cpu")
    assert other.manifest.data.split == "test"


@contextmanager
def precisions() -> Iterator[set[torch.dtype]]:
    """What linear layers give in eval mode, in which this network is only measured and attacked."""
    seen: set[torch.dtype] = set()

    def note(module: nn.Module, given: object, out: Tensor) -> None:
        if isinstance(module, nn.Linear) and not module.training:
            seen.add(out.dtype)

    hook = register_module_forward_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("precision", "method", "wanted"),
    [
        ("float32", "standard", {torch.float32}),
        ("bf16", "standard", {torch.bfloat16}),
        ("bf16-attack", "pgd_at", {torch.bfloat16, torch.float32}),
    ],
)
def test_measurements_are_in_the_precision_of_the_run(
    precision: str, method: str, wanted: set[torch.dtype], dataset: str, tmp_path: Path
) -> None:
    with precisions() as seen:
        train(tiny(dataset, method=method, epochs=1, **{"speed.precision": precision}), tmp_path, "cpu")
    assert seen == wanted


def test_the_share_of_measuring_is_shown_and_kept_out_of_the_log(dataset: str, tmp_path: Path) -> None:
    shown: list[str] = []
    trained = train(tiny(dataset), tmp_path, "cpu", progress=lambda done, total, what: shown.append(what))
    assert any("measuring" in what for what in shown)
    assert "of the time" in shown[-1]
    assert trained.times == read_times(tmp_path)
    assert [row.epoch for row in trained.times] == [0, 1]
    for row in trained.times:
        assert row.seconds > 0
        assert row.measuring_seconds > 0
        assert row.images_per_second == pytest.approx(72 / row.seconds, rel=0.1)
    assert not {"seconds", "images_per_second", "measuring_seconds"} & {key for row in rows_of(tmp_path) for key in row}
