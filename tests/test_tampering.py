"""Edits of a finished run: which of them the seal shows, and which are found although a forger has sealed the run anew.

An edit that leaves the seal is refused by every reader. A forger may compute the seal again, and the digests of example
files and finished batches too; then `verify` must find the edit by computing. Some edits nobody can compute (`SEAL`):
where and when a run was made, what it is called, what was left out. Those show only beside a published seal.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forgery import (
    ATTACKS,
    COMPUTED,
    EDITS,
    EPS,
    EXAMPLE_FILES,
    Draft,
    N,
    broken_by_attack,
    checked,
    measured,
    network,
    stands,
)
from torch import Tensor, nn
from typer.testing import CliRunner

from satbench import evaluate
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.evaluation.fingerprint import numerics_fingerprint
from satbench.evaluation.reattack import _more_than_rounding
from satbench.evaluation.verify import verify
from satbench.models.weights import model_digest
from satbench.results.schema import EXAMPLES, ModelInfo
from satbench.results.store import Run, read_manifest, read_run
from satbench.zoo import Loaded


@pytest.fixture(scope="module")
def model() -> Loaded:
    return network()


@pytest.fixture(scope="module")
def honest(model: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measured(model, tmp_path_factory.mktemp("honest") / "run")


def edited(honest: Run, folder: Path, case: str, seal: bool) -> Path:
    shutil.copytree(honest.path, folder)
    draft = Draft.of(folder)
    EDITS[case][0](draft)
    draft.save(seal)
    return folder


def found(folder: Path, model: Loaded, **options: Any) -> bool:
    try:
        return bool(checked(folder, model, **options).faults)
    except BadInput:
        return True


def test_there_are_at_least_thirty_kinds_that_computing_finds() -> None:
    assert sum(by == COMPUTED for _, by in EDITS.values()) >= 30


@pytest.mark.one_in(9)
@pytest.mark.parametrize("case", EDITS)
def test_no_reader_accepts_an_edit_that_leaves_the_seal(case: str, honest: Run, model: Loaded, tmp_path: Path) -> None:
    folder = edited(honest, tmp_path / "run", case, seal=False)
    if case in EXAMPLE_FILES:
        assert any("is not the file that the run wrote" in fault for fault in checked(folder, model).faults)
    else:
        with pytest.raises(BadInput, match="does not match its seal"):
            read_run(folder)


@pytest.mark.one_in(112)
@pytest.mark.parametrize("case", EDITS)
def test_a_sealed_forgery_is_found_by_computing_or_by_the_published_seal(
    case: str, honest: Run, model: Loaded, tmp_path: Path
) -> None:
    folder = edited(honest, tmp_path / "run", case, seal=True)
    assert read_manifest(folder)["seal"] != honest.manifest.seal
    assert found(folder, model, seal=honest.manifest.seal[:16])
    assert found(folder, model) == (EDITS[case][1] == COMPUTED)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "case",
    [
        "all broken images stand, no examples",
        "PGD-10 is called PGD-100, also in parts",
        "all passes",
        "clean prediction",
    ],
)
def test_gross_forgeries_are_found_where_bits_differ(case: str, honest: Run, model: Loaded, tmp_path: Path) -> None:
    """The manifest names another processor, so no record need be the same to the bit."""
    folder = edited(honest, tmp_path / "run", case, seal=True)
    draft = Draft.of(folder)
    draft.manifest["numerics"] = "another"
    draft.save(seal=True)
    assert found(folder, model)


@pytest.mark.parametrize("command", [("report",), ("leaderboard", "add", "--dir", "boards"), ("compare", "honest")])
def test_commands_that_read_runs_refuse_an_edited_one(
    command: tuple[str, ...], honest: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(honest.path, tmp_path / "honest")
    edited(honest, tmp_path / "run", "one broken image stands", seal=False)
    assert CliRunner().invoke(app, ["leaderboard", "init", "boards"]).exit_code == 0
    result = CliRunner().invoke(app, [*command, "run"])
    assert result.exit_code == 2
    assert "run does not match its seal" in result.stderr


# honest runs


@pytest.mark.left_out
def test_an_honest_run_verifies_again_and_again(honest: Run, model: Loaded) -> None:
    for _ in range(3):
        seen = checked(honest.path, model, seal=honest.manifest.seal)
        given = honest.records["forward"] > 0
        assert (seen.faults, seen.skipped, seen.differing) == ([], [], 0)
        assert (seen.clean, seen.attacked, seen.exact) == (N, given.sum(), given.sum())
        assert seen.broken == broken_by_attack(honest.records).sum() > 0


@pytest.mark.left_out
def test_a_small_sample_is_whole_batches(honest: Run, model: Loaded) -> None:
    """PGD's images are attacked 16 at a time, APGD's all together."""
    for _ in range(3):
        seen = checked(honest.path, model, sample=5)
        assert seen.faults == []
        assert seen.exact == seen.attacked < (honest.records["forward"] > 0).sum()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_run_that_was_enlarged_verifies(attack: str, model: Loaded, tmp_path: Path) -> None:
    """Its batches are not those of a run that was made at once."""
    for n, eps in ((30, "0.1"), (N, "0.1"), (N, EPS)):
        run = measured(model, tmp_path, attack=attack, n=n, eps=eps)
    assert checked(run.path, model).faults == []


@pytest.mark.left_out
@pytest.mark.parametrize("seed", range(4))
def test_batches_of_a_smaller_run_prove_nothing_of_records_that_come_from_others(
    seed: int, model: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second stage attacked what stood of the first 20 images alone, and later together with what stood of more."""
    right = measured(model, tmp_path / "all", attack="fgsm").records
    last = right.index[right["clean_prediction"] == right["label"]][19]
    for n in (int(last) + 1, N):
        run = measured(
            model,
            tmp_path / "run",
            attack="autoattack:version=custom,components=apgd-ce+square,unit=20",
            n=n,
            eps="0.1",
        )
    stood = run.records["stage"] != run.records["stage"].iloc[0]
    assert stood.any()
    monkeypatch.setattr("satbench.evaluation.reattack.random.SystemRandom", lambda: random.Random(seed))
    seen = checked(run.path, model, sample=1)
    assert (seen.faults, seen.exact) == ([], 0)


@pytest.mark.left_out
def test_a_run_without_examples_verifies_by_attacking_again(model: Loaded, tmp_path: Path) -> None:
    run = measured(model, tmp_path, save_examples=False)
    seen = checked(run.path, model)
    assert (seen.faults, seen.broken) == ([], 0)
    assert "kept no examples" in " ".join(seen.skipped)
    draft = Draft(run.path, run.manifest.model_dump(mode="json"), run.records, pd.DataFrame(), pd.DataFrame())
    draft.timing = pd.read_parquet(run.path / "timing.parquet")
    stands(draft.records, broken_by_attack(draft.records) & (draft.records["eps"] == 0.2))
    draft.examples = pd.DataFrame(columns=EXAMPLES.names)
    draft.save(seal=True)
    assert found(run.path, model)


@pytest.mark.slow
def test_an_honest_run_of_another_processor_verifies(tmp_path: Path) -> None:
    """As a processor without vector instructions computes."""
    words = "--model digits-silu --attack pgd:steps=10 --attack foolbox:LinfPGD,steps=5 --eps 0.1,0.2 --n 40"
    command = [sys.executable, "-m", "satbench", "eval", *words.split(), "--device", "cpu", "--save-examples"]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([*command, "--out", str(tmp_path / "run")], check=True, env=variables, capture_output=True)
    run, seen = read_run(tmp_path / "run"), verify(tmp_path / "run", device="cpu")
    assert seen.faults == []
    assert seen.attacked > 60
    if run.manifest.numerics != numerics_fingerprint():
        assert seen.exact == 0
        again = evaluate("digits-silu", tmp_path / "here", "pgd:steps=10", eps="0.1", n=40, device="cpu", trust=False)
        assert (run.records["margin"].head(40) != again.records["margin"]).any(), "the processors computed the same"


@pytest.mark.left_out
def test_an_honest_run_on_more_threads_verifies(model: Loaded, tmp_path: Path) -> None:
    run = measured(model, tmp_path, attack=ATTACKS[0], threads=2)
    seen = checked(run.path, model)
    assert (run.manifest.threads, seen.faults) == (2, [])
    assert seen.exact == seen.attacked > 0
    assert torch.get_num_threads() == 1


def test_a_run_verifies_elsewhere_but_not_with_another_network(honest: Run, model: Loaded, tmp_path: Path) -> None:
    shutil.copytree(honest.path, tmp_path / "moved")
    assert checked(tmp_path / "moved", model).faults == []
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    info = model.info.model_copy(update={"digest": model_digest(other)})
    with pytest.raises(BadInput, match="name the one that was measured with --model"):
        checked(honest.path, Loaded(other, info))


class Random(nn.Module):
    """Adds Gaussian noise of deviation `sigma` to its images at every pass."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.inner, self.sigma = network().model, sigma

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x + self.sigma * torch.randn_like(x))
        return logits


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("sigma", "votes"), [(0.1, True), (1e-6, False)])
def test_an_honest_run_of_a_random_network_verifies(sigma: float, votes: bool, tmp_path: Path) -> None:
    """Also where the noise is below what is taken for rounding, so that one pass judges."""
    net = Random(sigma).eval()
    random = Loaded(net, ModelInfo(ref="random", digest=model_digest(net), label="random"))
    run = measured(random, tmp_path, attack="pgd:steps=10", eps="0.1")
    assert (run.manifest.draws > 1) is votes
    seen = checked(run.path, random)
    assert (seen.faults, seen.clean) == ([], 0 if votes else N)
    assert any("draws random numbers" in sentence for sentence in seen.skipped) is votes


# finished batches


def test_an_edited_batch_is_not_used_again(honest: Run, model: Loaded, tmp_path: Path) -> None:
    shutil.copytree(honest.path, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    expected = (honest.path / "records.parquet").read_bytes()
    for file in (tmp_path / "run").glob("parts/*/*.parquet"):
        table = pq.read_table(file)
        stand = pa.array([False] * len(table))
        edited = table.set_column(table.schema.get_field_index("broken"), "broken", stand)
        pq.write_table(edited.replace_schema_metadata(table.schema.metadata), file)
    measured(model, tmp_path / "run")
    assert (tmp_path / "run" / "records.parquet").read_bytes() == expected


def test_a_batch_of_another_attack_is_not_used(model: Loaded, tmp_path: Path) -> None:
    """A weak attack's batches are copied to where those of a stronger one are looked for."""

    def run(name: str, attack: str) -> Run:
        return measured(model, tmp_path / name, attack=attack, trust=False, eps="0.1", save_examples=False)

    weak, strong = run("weak", "pgd:steps=1"), run("strong", "pgd:steps=20")
    assert weak.records["forward"].sum() < strong.records["forward"].sum()
    clean = {one.name for one in weak.path.glob("parts/*")} & {one.name for one in strong.path.glob("parts/*")}
    (there,), (here,) = ([one for one in run.path.glob("parts/*") if one.name not in clean] for run in (weak, strong))
    for file in there.glob("*.parquet"):
        assert (here / file.name).is_file()
        shutil.copy(file, here)
    (strong.path / "manifest.json").unlink()
    pd.testing.assert_frame_equal(run("strong", "pgd:steps=20").records, strong.records)


# the command


def test_the_command_prints_faults_and_compares_the_published_seal(tmp_path: Path) -> None:
    words = [
        "--model",
        "digits-silu",
        "--attack",
        "pgd:steps=5",
        "--eps",
        "0.1",
        "--n",
        "12",
        "--device",
        "cpu",
        "--no-trust",
        "--save-examples",
        "--name",
        "mine",
    ]
    done = CliRunner().invoke(app, ["eval", *words, "--out", str(tmp_path / "run")])
    seal = read_run(tmp_path / "run").manifest.seal
    assert f"seal: {seal[:16]}" in done.stdout.splitlines()
    check = ["verify", str(tmp_path / "run"), "--device", "cpu"]
    assert CliRunner().invoke(app, [*check, "--seal", seal[:16]]).exit_code == 0
    other = CliRunner().invoke(app, [*check, "--seal", "0" * 16])
    assert other.exit_code == 1
    assert f"FAULT the seal is {seal}, expected {'0' * 16}" in other.stderr
    for wrong, hint in ((["--seal", "0f"], "at least 16 characters"), (["--sample", "0"], "--sample 0")):
        refused = CliRunner().invoke(app, [*check, *wrong])
        assert refused.exit_code == 2
        assert hint in refused.stderr


@pytest.mark.parametrize(("flipped", "accused"), [(0, False), (2, False), (5, True), (12, True)])
def test_more_flips_than_rounding_explains_are_found(flipped: int, accused: bool) -> None:
    """Of 32 images attacked again where bits cannot be compared; P(X >= 5) is 4e-4 at 2%, P(X >= 2) is 0.13."""
    assert bool(_more_than_rounding(flipped, 32, 1e-3, "PGD")) is accused
