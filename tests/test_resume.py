"""A run that is killed, repeated, enlarged, starved of memory or searched elsewhere."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from satbench import evaluate, load_model
from satbench.attacks import PGD
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.evaluation import search as evaluation_search
from satbench.evaluation.verify import verify
from satbench.models import search_copy
from satbench.numerics.seeding import Randomness, integer
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import TIMING
from satbench.results.store import Run, read_run, write_manifest

MODEL = "digits-silu"
PAIR = "test_resume:Pair"
PGD20 = "pgd:steps=20"
COMMAND = f"--model {MODEL} --attack {PGD20} --attack {PAIR} --eps 0.1,0.2 --n 40 --batch-size 8".split()
COMMAND += ["--save-examples", "--no-trust", "--device", "cpu"]


@dataclass(frozen=True)
class Together:
    """PGD whose starts are drawn for eight images at once, as packages do."""

    steps: int
    unit: int = 8

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        assert len(x) <= self.unit
        shared = torch.Generator().manual_seed(integer(randomness))
        return PGD(steps=self.steps)(model, x, y, threat, shared)


@dataclass(frozen=True)
class Pair:
    """A short attack, and a longer one for what it leaves."""

    @property
    def stages(self) -> tuple[Together, ...]:
        return Together(3), Together(30)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        raise AssertionError("the harness runs the stages")


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """`PAIR` is found in the current folder."""
    before = Path.cwd()
    os.chdir(Path(__file__).parent)
    yield
    os.chdir(before)


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "satbench", "eval", *COMMAND, "--out", str(out)]


def whole(out: Path, **options: object) -> Run:
    """The same as `COMMAND`, in this process."""
    settings: dict[str, object] = {"eps": "0.1,0.2", "n": 40, "batch_size": 8, "save_examples": True}
    settings |= {"trust": False, "device": "cpu", "attack": [PGD20, PAIR]} | options
    return evaluate(MODEL, out, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return whole(tmp_path_factory.mktemp("reference") / "run")


def parts(out: Path) -> int:
    return len(list(out.glob("parts/*/*.parquet")))


@pytest.mark.slow
def test_a_run_stopped_after_any_batch_ends_byte_identical(reference: Run, tmp_path: Path) -> None:
    total = parts(reference.path)
    assert total >= 16
    out = tmp_path / "run"

    def stop(done: int, total: int, what: str) -> None:
        if parts(out) == goal:
            raise KeyboardInterrupt

    clean = 40 // 8  # parts that are there before any attack, at which no progress is told
    for goal in (clean + 1, total // 2, total - 1):
        with pytest.raises(KeyboardInterrupt):
            whole(out, progress=stop)
        assert parts(out) == goal
    there = {file: file.stat().st_mtime_ns for file in out.glob("parts/*/[!.]*.parquet")}
    again = whole(out)
    assert (out / "records.parquet").read_bytes() == (reference.path / "records.parquet").read_bytes()
    assert again.manifest.attacks == reference.manifest.attacks
    assert all(file.stat().st_mtime_ns == written for file, written in there.items()), "a finished batch was done again"
    assert verify(again).faults == []


@pytest.mark.slow
def test_a_run_killed_at_random_points_ends_byte_identical(reference: Run, tmp_path: Path) -> None:
    out, seed = tmp_path / "run", time.time_ns()
    draw = random.Random(seed)
    total = parts(reference.path)
    assert total >= 16
    for _ in range(2):
        goal = draw.randint(parts(out), total - 2)
        process = subprocess.Popen(command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while parts(out) < goal and process.poll() is None:
            time.sleep(0.002)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), f"seed {seed}: {said}"
    there = {file: file.stat().st_mtime_ns for file in out.glob("parts/*/[!.]*.parquet")}
    again = whole(out)
    assert (out / "records.parquet").read_bytes() == (reference.path / "records.parquet").read_bytes(), f"seed {seed}"
    assert again.manifest.attacks == reference.manifest.attacks
    assert all(file.stat().st_mtime_ns == written for file, written in there.items()), "a finished batch was done again"
    assert verify(again).faults == []


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each call of an attack was given."""
    given: list[int] = []
    attack = PGD.__call__

    def count(self: PGD, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        given.append(len(x))
        return attack(self, model, x, y, threat, randomness)

    monkeypatch.setattr(PGD, "__call__", count)
    return given


def test_a_finished_run_is_only_read(passes: list[int], tmp_path: Path) -> None:
    one = whole(tmp_path, attack=[PGD20])
    assert passes
    passes.clear()
    two = whole(tmp_path, attack=[PGD20])
    assert not passes
    assert two.manifest == one.manifest


@pytest.mark.slow
def test_an_enlarged_run_computes_only_what_is_new(passes: list[int], tmp_path: Path) -> None:
    small = whole(tmp_path / "grown", attack=[PGD20], eps="0.1")
    clean = int((small.records["clean_prediction"] == small.records["label"]).sum())
    assert sum(passes) == clean
    passes.clear()
    more = whole(tmp_path / "grown", attack=[PGD20], eps="0.1", n=60)
    new = more.records.iloc[40:]
    assert sum(passes) == int((new["clean_prediction"] == new["label"]).sum())
    passes.clear()
    farther = whole(tmp_path / "grown", attack=[PGD20], eps="0.1,0.2", n=60)
    standing = ~more.records["broken"]
    assert sum(passes) == int(standing.sum())
    passes.clear()
    whole(tmp_path / "grown", attack=[PGD20, "fgsm"], eps="0.1,0.2", n=60)
    assert passes
    fresh = whole(tmp_path / "fresh", attack=[PGD20], eps="0.1,0.2", n=60)
    pd.testing.assert_frame_equal(farther.records, fresh.records, rtol=1e-4, atol=1e-5)


@pytest.mark.left_out
def test_units_are_reused_where_they_are_the_same(reference: Run, tmp_path: Path) -> None:
    whole(tmp_path, n=24, attack=[PAIR])
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("parts/*/[!.]*.parquet")}
    grown = whole(tmp_path, attack=[PAIR])
    expected = reference.records[reference.records["attack"] == grown.manifest.attacks[0].id].reset_index(drop=True)
    pd.testing.assert_frame_equal(grown.records, expected)
    assert all(file.stat().st_mtime_ns == written for file, written in before.items())


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"seed": 1}, "seed 0, asked for is 1"),
        ({"split": "val"}, "data set digits test 8, asked for is digits val 8"),
        ({"search": "plain"}, "search folded, asked for is plain"),
    ],
)
def test_another_run_in_the_folder_is_never_overwritten(change: dict[str, object], hint: str, tmp_path: Path) -> None:
    whole(tmp_path, attack=["fgsm"])
    before = (tmp_path / "records.parquet").read_bytes()
    with pytest.raises(BadInput, match=hint):
        whole(tmp_path, **({"attack": ["fgsm"]} | change))
    assert (tmp_path / "records.parquet").read_bytes() == before


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "change", [lambda x, y: (x[::-1].copy(), y), lambda x, y: (x, (y + 1) % 10)], ids=["pixels", "labels"]
)
@pytest.mark.parametrize("n", [6, 8])
def test_a_run_on_arrays_is_not_replaced_by_one_on_others(
    change: Callable[[np.ndarray, np.ndarray], object], n: int, tmp_path: Path
) -> None:
    digits = load_images("digits", "test").head(8).in_memory()
    x, y = digits.x.numpy(), digits.y.numpy()
    setting: dict[str, Any] = {"attack": "fgsm", "eps": 0.1, "trust": False, "device": "cpu", "out": tmp_path}
    evaluate(MODEL, dataset=(x, y), n=6, **setting)
    before = (tmp_path / "records.parquet").read_bytes()
    assert evaluate(MODEL, dataset=(x.copy(), y), n=6, **setting).reused
    with pytest.raises(BadInput, match="holds a run on other images or labels that are also called arrays all 8"):
        evaluate(MODEL, dataset=change(x, y), n=n, **setting)
    assert (tmp_path / "records.parquet").read_bytes() == before


@pytest.mark.left_out
def test_a_copy_described_in_other_words_is_no_other_search(
    passes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = search_copy.search_copy

    def rephrased(*given: Any) -> search_copy.SearchCopy:
        return replace(made(*given), how="rephrased")

    whole(tmp_path, attack=[PGD20], n=20)
    passes.clear()
    monkeypatch.setattr(evaluation_search, "search_copy", rephrased)
    assert whole(tmp_path, attack=[PGD20], n=20).reused
    (tmp_path / "manifest.json").unlink()
    again = whole(tmp_path, attack=[PGD20], n=20)
    assert (sum(passes), again.manifest.search.note) == (0, "rephrased"), "finished batches are found"
    assert verify(again).faults == []


def test_a_copy_of_another_form_is_another_search(tmp_path: Path) -> None:
    """As where a batch norm could not be folded, for want of memory."""
    run = whole(tmp_path, attack=["fgsm"])
    other = run.manifest.search.model_copy(update={"folded": 0})
    write_manifest(tmp_path, run.manifest.model_copy(update={"search": other}))
    again = whole(tmp_path, attack=["fgsm"])
    assert not again.reused
    pd.testing.assert_frame_equal(again.records, run.records)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("smaller", "hint"),
    [({"n": 20}, "40 images"), ({"eps": "0.1"}, r"Linf eps 0\.2"), ({"attack": ["fgsm"]}, r"PGD\(steps=20")],
)
def test_a_smaller_command_drops_nothing(smaller: dict[str, object], hint: str, tmp_path: Path) -> None:
    whole(tmp_path, attack=[PGD20])
    before = (tmp_path / "records.parquet").read_bytes()
    with pytest.raises(BadInput, match=hint):
        whole(tmp_path, **({"attack": [PGD20]} | smaller))
    assert (tmp_path / "records.parquet").read_bytes() == before


@pytest.mark.left_out
def test_changed_records_are_put_together_again(tmp_path: Path) -> None:
    whole(tmp_path, attack=[PGD20])
    file = tmp_path / "records.parquet"
    expected = file.read_bytes()
    pd.read_parquet(file).assign(broken=False).to_parquet(file)
    whole(tmp_path, attack=[PGD20])
    assert file.read_bytes() == expected


def spoils_the_images(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
    x += 5 * threat.eps
    y += 1
    return x.clamp_(0, 1)


def spoils_the_network(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
    next(model.parameters()).zero_()
    return x


def test_an_attack_cannot_move_what_the_judge_compares_with(tmp_path: Path) -> None:
    run = whole(tmp_path, attack=["test_resume:spoils_the_images"], search="plain")
    right = run.records["clean_prediction"] == run.records["label"]
    assert (run.records.loc[right, "violation"] != "").all()
    assert not run.records.loc[right, "broken"].any()


@pytest.mark.parametrize("search", ["plain", "folded"])
def test_an_attack_that_changes_the_network_is_refused(search: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="changed the weights or buffers of the network"):
        whole(tmp_path, attack=["test_resume:spoils_the_network"], search=search)


def test_a_threat_that_an_attack_refuses_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="apgd"):
        whole(tmp_path / "run", attack=["fgsm", "pgd:schedule=apgd"], norm="Linf,L1")
    assert not (tmp_path / "run").exists()


def test_what_another_command_finished_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the folder and its lock, where the attack is asked whether it takes the threat."""
    attack, others = PGD.__call__, iter([1])

    def late(self: PGD, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        for seed in others:
            whole(tmp_path, attack=["fgsm"], seed=seed)
        return attack(self, model, x, y, threat, randomness)

    monkeypatch.setattr(PGD, "__call__", late)
    with pytest.raises(BadInput, match="seed 1, asked for is 0"):
        whole(tmp_path, attack=["fgsm"])
    assert read_run(tmp_path).manifest.seed == 1


def test_a_damaged_batch_is_computed_again(reference: Run, tmp_path: Path) -> None:
    whole(tmp_path, attack=[PGD20])
    expected = (tmp_path / "records.parquet").read_bytes()
    (tmp_path / "manifest.json").unlink()
    some = sorted(tmp_path.glob("parts/*/[!.]*.parquet"))
    some[0].write_bytes(b"")
    some[1].write_bytes(some[1].read_bytes()[:-40])
    whole(tmp_path, attack=[PGD20])
    assert (tmp_path / "records.parquet").read_bytes() == expected


def test_times_lie_apart_and_passes_add_up(reference: Run) -> None:
    timing = pd.read_parquet(reference.path / "timing.parquet")
    assert list(timing.columns) == TIMING.names
    assert (timing["seconds"] > 0).all()
    for column in ("forward", "backward"):
        assert timing[column].sum() == reference.records[column].sum() > 0
    assert "seconds" not in reference.records


def test_an_attack_whose_code_changed_is_run_again(
    passes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = "from satbench.attacks import PGD\n\n\ndef mine(model, x, y, threat, randomness):\n"
    code += "    return PGD(steps={})(model, x, y, threat, randomness)\n"
    there = False
    for steps in (2, 2, 3):
        passes.clear()
        (tmp_path / "my_attack.py").write_text(code.format(steps))
        monkeypatch.delitem(sys.modules, "my_attack", raising=False)
        whole(tmp_path / "run", attack=["my_attack:mine"], eps="0.1")
        assert bool(passes) == (steps == 3 or not there), "only the first run and the changed one compute"
        there = True


# sweeps


def test_what_a_smaller_eps_broke_stays_broken_at_no_passes(reference: Run) -> None:
    for _, records in reference.records.groupby("attack"):
        small, large = (records[records["eps"] == eps].reset_index(drop=True) for eps in (0.1, 0.2))
        attacked = small["broken"] & (small["clean_prediction"] == small["label"])
        assert attacked.any()
        assert large.loc[attacked, "broken"].all()
        assert not large.loc[small["broken"], ["forward", "backward"]].to_numpy().any()
        assert (large.loc[attacked, "distance_linf"] <= 0.1 + 1e-6).all()
        assert large["broken"].sum() > small["broken"].sum()


def test_stages_say_which_of_them_broke_an_image(reference: Run) -> None:
    records = reference.records[reference.records["attack"].str.contains("Pair")]
    attacked = records[records["clean_prediction"] == records["label"]]
    named = attacked["stage"].isin([repr(stage) for stage in Pair().stages])
    assert (named == attacked["broken"]).all()
    standing = attacked[~attacked["broken"]]
    assert (standing["forward"] > 4).all()
    assert (standing["forward"] <= 4 + 31).all()
    assert (standing["fell_at"] == -1).all()
    second = attacked[attacked["stage"].str.contains("30") & (attacked["forward"] > 0)]
    assert len(second)
    assert (second["fell_at"] > 4).all()  # passes of the first stage count


# memory


@pytest.mark.left_out
def test_when_memory_runs_out_half_as_many_images_go_through_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(out: Path) -> Run:
        return evaluate(
            Hungry(), out, "pgd", eps="0.1", dataset="digits", n=40, batch_size=40, trust=False, device="cpu"
        )

    plenty = run(tmp_path / "plenty")
    monkeypatch.setattr(Hungry, "most", 11)
    starved = run(tmp_path / "starved")
    assert "memory ran out" in " ".join(starved.manifest.notes)
    pd.testing.assert_frame_equal(starved.records, plenty.records, rtol=1e-4, atol=1e-5)


class Hungry(nn.Module):
    """A network that takes no more than `most` images, after the few of the first look."""

    most = 1000

    def __init__(self) -> None:
        super().__init__()
        self.inner = load_model(MODEL)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most and len(x) != 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: Tensor = self.inner(x)
        return logits


# elsewhere


@pytest.mark.left_out
def test_a_transfer_attack_searches_on_the_other_network_alone(tmp_path: Path) -> None:
    run = whole(tmp_path / "transfer", attack=["pgd:steps=20,keep=last"], source="digits-relu", eps="0.2")
    own = whole(tmp_path / "own", attack=["pgd:steps=20,keep=last"], eps="0.2")
    (name,) = (info.id for info in run.manifest.attacks)
    assert name.startswith("Transfer(attack=PGD(")
    assert "source='cnn-small relu@" in name
    assert run.records["broken"].sum() < own.records["broken"].sum()
    source = load_model("digits-relu")
    images = load_images("digits").in_memory().head(40)
    index = pd.read_parquet(tmp_path / "transfer" / "examples.parquet")
    places = [images.ids.index(str(sample_id)) for sample_id in index["sample_id"]]
    stored = [load_file(tmp_path / "transfer" / file)["x_adv"] for file in index["example_file"]]
    x_adv = torch.stack([file[row] for file, row in zip(stored, index["example_row"], strict=True)])
    loss = torch.nn.functional.cross_entropy
    assert len(places) > 5
    assert loss(source(x_adv), images.y[places]) > loss(source(images.x[places]), images.y[places])


@pytest.mark.left_out
def test_bf16_search_is_labelled_and_judged_in_float32(tmp_path: Path) -> None:
    run = whole(tmp_path, attack=[PGD20], eps="0.2", search="bf16")
    assert run.manifest.attacks[0].id.startswith("Bf16(attack=PGD(")
    assert (run.manifest.search.form, run.manifest.search.precision) == ("bf16", "bf16")
    assert verify(run).faults == []


@pytest.mark.slow
def test_the_way_of_searching_does_not_change_a_flag(tmp_path: Path) -> None:
    folded, plain = (whole(tmp_path / how, attack=[PGD20], search=how, n=200) for how in ("folded", "plain"))
    assert (folded.records["broken"] == plain.records["broken"]).all()
    with pytest.raises(BadInput, match="--search 'fast': Input should be"):
        whole(tmp_path / "fast", search="fast")
