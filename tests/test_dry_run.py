"""`satbench train --dry-run`: what a run will do and cost, before it does."""

import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_training import tiny, write_rows
from typer.testing import CliRunner

from satbench import train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.methods import METHODS
from satbench.training.dry_run import described, dry_run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("changes", "updates", "images"),
    [({}, 5, 72), ({"drop_last": True}, 4, 64), ({"method": "free", "method.replays": 3}, 15, 216)],
)
def test_it_counts_what_the_run_then_does(
    changes: dict[str, object], updates: int, images: int, dataset: str, tmp_path: Path
) -> None:
    config = tiny(dataset, epochs=3, **changes)
    found = dry_run(config, "cpu")
    assert (found.updates, found.images_an_epoch, found.images, found.val_images) == (updates, images, 72, 18)
    passes = METHODS[config.method.name](**config.method.params).passes
    assert found.stages[0].passes == passes
    assert found.passes() == (passes.forward * 3 * images, passes.backward * 3 * images)
    total = f"{passes.forward * 3 * images:,} forward, {passes.backward * 3 * images:,} backward"
    assert any(total in line for line in described(config, found))
    done: list[int] = []
    trained = train(config, tmp_path / "run", "cpu", progress=lambda one, total, what: done.append(total))
    assert set(done) == {3 * updates}
    weights = load_file(tmp_path / "run" / "last.safetensors")
    learnt = sum(4 * weights[name].numel() for name in weights if name.endswith(("weight", "bias")))
    assert found.parameters == found.optimizer == learnt  # SGD keeps a momentum of every weight
    assert found.peak > 10 * learnt
    assert trained.history[0].forward == passes.forward


def test_its_times_are_those_of_updates(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = METHODS["standard"]

    def slow(*args: object) -> object:
        time.sleep(0.05)
        return args[1].x  # type: ignore[attr-defined]

    monkeypatch.setattr(plain, "perturb", lambda self, model, step: slow(self, step))
    found = dry_run(tiny(dataset, method="standard"), "cpu")
    usual, short, long = found.seconds()
    assert len(found.stages[0].seconds) == 4  # the first of five is not timed
    assert 2 * 5 * 0.05 <= short <= usual <= long


def test_the_command_says_it_all_and_writes_nothing(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "--dataset", dataset, "--epochs", "4", "--device", "cpu", "--dry-run"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    for part in ("learning rate", "updates on 72 images", "passes", "estimated from", "memory: parameters", "peak"):
        assert part in done.stdout
    assert done.stdout.endswith("nothing was written\n")
    assert not list(tmp_path.iterdir())


def test_it_refuses_what_the_run_refuses(dataset: str) -> None:
    with pytest.raises(BadInput, match="not over before the 2 epochs are"):
        dry_run(tiny(dataset, **{"threat.warmup_epochs": 2}), "cpu")


def test_a_recipe_is_shown_with_the_rate_that_it_will_have() -> None:
    shown = CliRunner().invoke(app, ["recipes", "digits-bag-of-tricks"]).stdout
    assert "learning rate over 20 epochs:\n▁▂▃" in shown
    assert "0.002 in epoch 20" in shown
