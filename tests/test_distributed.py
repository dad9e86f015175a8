"""Two processes train what one trains, at one all-reduce of the gradients an update, and go on when one dies."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from many_processes import SHARED, work
from safetensors.torch import load_file
from tiny_training import BATCHES, WAYS, contents, tiny, write_rows

from satbench.methods import METHODS
from satbench.recipes import RECIPES
from satbench.training.checkpoint import open_folder

pytestmark = [pytest.mark.numeric, pytest.mark.slow]

HERE = Path(__file__).parent
SOME_WAYS = ("awp", "free", "ema", "sglr", "te", "ssl_at", "sglr with extra data")  # all of them in the slow test
# TRADES' attack starts where its gradient is all but zero, so that rounding decides signs
TRADES = ("trades", "awp around trades", "sglr on trades", "self-adaptive", "te on trades", "adr on trades")
LOOSE = {**dict.fromkeys(TRADES, 1e-3), "bf16": 1e-2}


def run(out: Path, dataset: str, *jobs: str, restarts: int = 0) -> None:
    """Two processes do these jobs."""
    path = f"{HERE.parent}{os.pathsep}{HERE}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": path}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    words = [sys.executable, *launch, str(HERE / "many_processes.py"), str(out), dataset]
    out.mkdir(exist_ok=True)
    done = subprocess.run([*words, *jobs], env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


def assert_equal_trainings(one: Path, two: Path, way: str) -> None:
    """The same training up to the order of sums."""
    weights, others = (load_file(folder / "last.safetensors") for folder in (one, two))
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name], tensor, rtol=0, atol=LOOSE.get(way, 1e-6), msg=f"{way} {name}")
    logs = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (one, two)]
    assert logs[0].pop("train_loss") == pytest.approx(logs[1].pop("train_loss"), abs=LOOSE.get(way, 1e-6))
    assert without_votes(logs[0]) == without_votes(logs[1]) or way in LOOSE


def without_votes(row: dict[str, Any]) -> dict[str, Any]:
    """A line of a log without accuracies of a kNN under attack: where gradients are near 0, rounding decides signs."""
    kept = {key: without_votes(value) if isinstance(value, dict) else value for key, value in row.items()}
    return {key: value for key, value in kept.items() if not key.endswith("knn_robust")}


@pytest.fixture(scope="module")
def two(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave of these trainings, and how often they met."""
    out = tmp_path_factory.mktemp("two")
    run(out, dataset, *SOME_WAYS, "counting", "tracked", "synced", "in quarters", "refused")
    return out


def test_two_processes_train_what_one_trains(two: Path, dataset: str, tmp_path: Path) -> None:
    work(tmp_path, dataset, [*SOME_WAYS, "synced", "in quarters"])
    for way in ("pgd_at", "trades", "awp", "free", "adr", "checkpointed"):
        assert_equal_trainings(tmp_path / f"quarters-{way}", two / f"quarters-{way}", way)
    for way in ("pgd_at", "awp", "on a copy"):
        assert_equal_trainings(tmp_path / f"synced-{way}", two / f"synced-{way}", way)
    assert_equal_trainings(tmp_path / "synced-bf16", two / "synced-bf16", "bf16")
    for way in SOME_WAYS:
        assert_equal_trainings(tmp_path / way, two / way, way)
        assert {file.name for file in (two / way).glob("[!.]*")} == {
            "config.json",
            "metrics.jsonl",
            "times.jsonl",
            "best.safetensors",
            "last.safetensors",
            "state.safetensors",
        }


def test_no_thread_outlives_its_group(two: Path) -> None:
    """One that does may abort the process at its end, also after a refusal."""
    assert [(two / f"threads-{rank}").read_text() for rank in (0, 1)] == ["", ""]


def test_the_first_process_alone_logs_and_tracks(two: Path) -> None:
    assert (two / "rows-0").read_text() == str(2 * BATCHES + 2)
    assert (two / "rows-1").read_text() == "0"
    rows = [json.loads(line) for line in (two / "tracked" / "steps.jsonl").read_text().splitlines()]
    assert [row["update"] for row in rows] == list(range(2 * BATCHES))
    assert sorted(file.name for file in (two / "tracked" / "epochs").iterdir()) == [
        "0001.safetensors",
        "0002.safetensors",
    ]


def test_two_processes_train_what_one_trains_in_every_way(dataset: str, tmp_path: Path) -> None:
    work(tmp_path / "1", dataset, list(WAYS))
    run(tmp_path / "2", dataset, *WAYS)
    for way in WAYS:
        assert_equal_trainings(tmp_path / "1" / way, tmp_path / "2" / way, way)


def test_a_dead_process_is_restarted_and_leaves_no_trace(dataset: str, tmp_path: Path) -> None:
    run(tmp_path, dataset, "pgd_at", "dying", restarts=1)
    assert contents(tmp_path / "dying") == contents(tmp_path / "pgd_at")


def test_what_one_process_refuses_is_reported_by_that_one_alone(two: Path) -> None:
    assert (two / "raised-1").read_text() == "BadInput: its disk is gone"
    assert (two / "raised-0").read_text().startswith("ReportedElsewhere: ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["digits-sat", "--seed", "1"], "holds a run with another seed"),  # which the first process alone sees
        (["digits-saat"], "unknown recipe 'digits-saat'; did you mean "),
        (["digits-sat", "--set", "method.steps=0"], "steps of an attack is 0; give a whole number from 1"),
    ],
)
def test_a_refusal_is_one_line_of_one_process(words: list[str], line: str, tmp_path: Path) -> None:
    open_folder(tmp_path / "run", RECIPES["digits-sat"](), {}, 1, METHODS["pgd_at"]())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "satbench", "train"]
    words = [sys.executable, *launch, *words, "--device", "cpu", "--out", str(tmp_path / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    ours, _, launcher = done.stderr.partition("torch.distributed.elastic.multiprocessing.errors.ChildFailedError")
    assert len([one for one in ours.splitlines() if one.startswith("satbench: ") and line in one]) == 1, done.stderr
    assert ours.count("satbench: ") == 1
    assert ours.count("Traceback") == 1  # the launcher's own
    assert "exitcode  : 2" in launcher
    assert "exitcode  : 1" not in launcher


def test_an_update_costs_one_all_reduce_of_gradients_however_many_steps_and_parts_it_takes(two: Path) -> None:
    """Beside it one of a few numbers an update: the loss, whether to stop, and batch norm's running statistics."""
    for rank in (0, 1):
        few, many, accumulated = map(int, (two / f"all-reduces-{rank}").read_text().split())
        assert few == many == accumulated
        updates = 2 * BATCHES
        assert 2 * updates <= few <= 2 * updates + 8  # and a few at the ends of epochs


def test_stages_and_given_weights_are_trained_by_the_command(dataset: str, tmp_path: Path) -> None:
    """`satbench train` alone and under torchrun: a run of three stages, then one that begins with its weights."""
    changes = {**SHARED, **WAYS["stages"], "epochs": 2}
    (tmp_path / "stages.json").write_text(tiny(dataset, **changes).model_dump_json())
    (tmp_path / "plain.json").write_text(tiny(dataset, **SHARED, epochs=1).model_dump_json())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, how in (("one", []), ("two", launch)):
        out = tmp_path / name
        train = [sys.executable, *how, "-m", "satbench", "train"]
        first = [str(tmp_path / "stages.json"), "--out", str(out / "stages")]
        then = [str(tmp_path / "plain.json"), "--out", str(out / "begun"), "--set", f"init_from={out / 'stages'}"]
        for words in (first, then):
            done = subprocess.run(
                [*train, *words, "--device", "cpu"], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
    for job in ("stages", "begun"):
        assert_equal_trainings(tmp_path / "one" / job, tmp_path / "two" / job, job)
