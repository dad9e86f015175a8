"""One evaluation computed by several workers: in any order, killed at any time, on machines that round differently."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from satbench import EvaluationSpec, evaluate
from satbench.attacks import PGD, fgsm
from satbench.attacks.autoattack import square
from satbench.core.errors import BadInput
from satbench.core.home import CLAIMS, WORKERS, among_workers
from satbench.evaluation import work_on
from satbench.evaluation.joining import Begun
from satbench.evaluation.parts import OUTCOMES, Part, Work
from satbench.evaluation.plan import Job, Plan, Step
from satbench.evaluation.verify import verify
from satbench.numerics.threat import ThreatModel
from satbench.results.store import Run, read_run

SPEC: dict[str, Any] = {
    "model": "digits-relu",
    "attacks": ["pgd:steps=10", "fgsm"],
    "threats": ["Linf:0.05", "Linf:0.1"],
    "n": 40,
    "batch_size": 8,
    "save_examples": True,
}
WORK = f"""import sys, time; from pathlib import Path
from satbench import EvaluationSpec; from satbench.evaluation import work_on
while not work_on(EvaluationSpec(**{SPEC!r}), Path(sys.argv[1]), device="cpu"): time.sleep(0.02)
"""
OTHER_ARITHMETIC = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What one worker computes."""
    return evaluate(EvaluationSpec(**SPEC), tmp_path_factory.mktemp("alone") / "run", device="cpu")


def start(out: Path, **variables: str) -> "subprocess.Popen[str]":
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen([sys.executable, "-c", WORK, str(out)], env=variables, stderr=subprocess.PIPE, text=True)


def ends_well(*workers: "subprocess.Popen[str]") -> None:
    for worker in workers:
        _, said = worker.communicate()
        assert worker.returncode == 0, said


def same(one: Run, out: Path) -> Run:
    other = read_run(out)
    assert (out / "records.parquet").read_bytes() == (one.path / "records.parquet").read_bytes()
    changing = {"seconds", "created", "host", "seal", "command"}
    assert other.manifest.model_dump(exclude=changing) == one.manifest.model_dump(exclude=changing)
    assert not {CLAIMS, WORKERS} & {file.name for file in out.iterdir()}
    return other


def test_a_claim_of_a_killed_worker_is_forgotten(tmp_path: Path) -> None:
    """It was killed after its part was there, so that nobody claims that job again."""
    spec = {**SPEC, "attacks": ["fgsm"], "n": 8, "trust": False}
    evaluate(EvaluationSpec(**spec), tmp_path, device="cpu")
    (tmp_path / CLAIMS).mkdir()
    (tmp_path / CLAIMS / "work-batch").touch()
    evaluate(EvaluationSpec(**{**spec, "n": 16}), tmp_path, device="cpu")
    assert not (tmp_path / CLAIMS).exists()


def parts(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in out.glob("parts/*/[!.]*.parquet")}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5])
def test_several_workers_give_the_bytes_of_one(count: int, alone: Run, tmp_path: Path) -> None:
    ends_well(*(start(tmp_path / "run") for _ in range(count)))
    assert verify(same(alone, tmp_path / "run")).faults == []


@pytest.mark.slow
def test_workers_killed_on_the_way_leave_nothing_behind(alone: Run, tmp_path: Path) -> None:
    seed = time.time_ns()
    draw = random.Random(seed)
    for _ in range(3):
        workers = [start(tmp_path / "run") for _ in range(2)]
        goal = draw.randint(0, len(parts(alone.path)))
        while len(parts(tmp_path / "run")) < goal and any(one.poll() is None for one in workers):
            time.sleep(0.01)
        for one in workers:
            one.send_signal(signal.SIGKILL)
            one.communicate()
    there = parts(tmp_path / "run")
    ends_well(start(tmp_path / "run"))
    same(alone, tmp_path / "run")
    assert there.items() <= parts(tmp_path / "run").items(), f"seed {seed}: a finished part was computed again"


@pytest.mark.left_out
def test_a_worker_leaves_what_others_hold(alone: Run, tmp_path: Path) -> None:
    spec, out = EvaluationSpec(**SPEC), tmp_path / "run"
    first = next(iter(alone.path.glob("parts/*/*.parquet")))
    names = [f"{file.parent.name}-{file.stem}" for file in parts(alone.path)]
    (out / CLAIMS).mkdir(parents=True)
    (out / "parts").mkdir()
    held = [FileLock(out / CLAIMS / name) for name in names]
    for lock in held:
        lock.acquire()
    assert not work_on(spec, out, device="cpu")
    assert parts(out) == {}
    for lock in held:
        lock.release()
    assert work_on(spec, out, device="cpu")
    assert (out / first.relative_to(alone.path)).is_file()
    same(alone, out)


def test_a_worker_with_other_settings_is_refused_while_one_is_at_work(tmp_path: Path) -> None:
    with (
        among_workers(tmp_path, "eval", "0123456789abcdef"),
        pytest.raises(BadInput, match="with other settings, of another version or on another machine is at work there"),
    ):
        evaluate("digits-relu", tmp_path, "fgsm", n=8, trust=False, device="cpu")
    assert not (tmp_path / WORKERS).exists()
    assert evaluate("digits-relu", tmp_path, "fgsm", n=8, trust=False, device="cpu").records["broken"].notna().all()


def test_a_folder_deleted_during_the_work_is_made_again(tmp_path: Path) -> None:
    def lose(done: int, total: int, what: str) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    run = evaluate("digits-relu", tmp_path / "run", "fgsm", n=8, trust=False, device="cpu", progress=lose)
    assert len(run.records) == 8


def test_lock_files_of_killed_workers_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "run" / WORKERS).mkdir(parents=True)
    (tmp_path / "run" / "parts").mkdir()

    def die(done: int, total: int, what: str) -> None:
        (tmp_path / "run" / WORKERS / "0123456789abcdef-1-00000000").touch()

    evaluate("digits-relu", tmp_path / "run", "fgsm", n=8, trust=False, device="cpu", progress=die)
    assert not (tmp_path / "run" / WORKERS).exists()


# machines that round differently


@pytest.mark.left_out
def test_a_machine_of_other_arithmetic_joins_a_run(alone: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(EvaluationSpec(**SPEC), out, device="cpu", progress=stop)
    there = parts(out)
    assert there
    ends_well(start(out, **OTHER_ARITHMETIC))
    run = read_run(out)
    if run.manifest.numerics == alone.manifest.numerics:
        pytest.skip("this processor computes the same bits without its vector instructions")
    assert run.manifest.other_numerics == [alone.manifest.numerics]
    assert run.manifest.fingerprint == alone.manifest.fingerprint
    assert there.items() <= parts(out).items(), "what the first machine computed is used"
    moved = run.records["broken"] != alone.records["broken"]
    assert moved.mean() <= 0.02, "rounding decides where a margin is next to zero alone"
    assert verify(run).faults == []


@pytest.mark.parametrize(("changed", "joins"), [(1 + 1e-5, True), (1.01, False)])
def test_a_network_that_changed_never_joins(changed: float, joins: bool) -> None:
    logits, slopes = [1.0, -3.0, 2.0], [0.5, 0.25]
    one = Begun("a", "code", "here", logits, slopes)
    other = Begun("b", "code", "there", [changed * value for value in logits], slopes)
    assert one.joins(other) is joins
    assert not one.joins(Begun("b", "other code", "there", logits, slopes))
    assert not one.joins(Begun("b", "code", "here", logits, slopes)), "one machine repeats its bits"
    assert not one.joins(Begun("b", "code", "there", logits, []))


@pytest.mark.left_out
def test_a_damaged_note_of_who_began_is_of_no_consequence(alone: Run, tmp_path: Path) -> None:
    evaluate(EvaluationSpec(**SPEC), tmp_path, device="cpu")
    for damage in ("{", "[]", '{"fingerprint": 3}'):
        (tmp_path / "parts" / "begun.json").write_text(damage)
        (tmp_path / "manifest.json").unlink(missing_ok=True)
        before = parts(tmp_path)
        evaluate(EvaluationSpec(**SPEC), tmp_path, device="cpu")
        assert parts(tmp_path) == before
    same(alone, tmp_path)


# the trust battery is a job too


@pytest.mark.left_out
def test_an_edited_verdict_is_computed_again(alone: Run, tmp_path: Path) -> None:
    evaluate(EvaluationSpec(**SPEC), tmp_path, device="cpu")
    (file,) = tmp_path.glob("parts/trust-*.json")
    held = json.loads(file.read_text())
    held["trust"]["verdict"] = "fail"
    file.write_text(json.dumps(held))
    (tmp_path / "manifest.json").unlink()
    evaluate(EvaluationSpec(**SPEC), tmp_path, device="cpu")
    same(alone, tmp_path)


# what waits for what


N = 20


def part(job: Job, keys: list[tuple[str, str, int]], falls: set[int]) -> Part:
    """A part in which the images `falls` are broken."""
    columns: dict[str, Any] = {
        field.name: np.zeros(len(job.rows), field.type.to_pandas_dtype())
        for field in OUTCOMES
        if field.type != "string"
    }
    for position, name in enumerate(("sample_id", "sample_hash", "label")):
        columns[name] = np.array([keys[row][position] for row in job.rows])
    for name in ("violation", "example_file"):
        columns[name] = np.full(len(job.rows), "", object)
    columns["broken"] = np.array([row in falls for row in job.rows])
    return Part(columns, 0.0, ())


def plan() -> tuple[Plan, list[tuple[str, str, int]]]:
    keys = [(f"image{row}", "", 0) for row in range(N)]
    threats = [ThreatModel("Linf", eps) for eps in (0.2, 0.1)]
    attacks = [PGD(steps=3), square(unit=6)]
    return Plan(keys, attacks, threats, lambda attack: (attack,), 5, lambda step: Work(None, str(step), False)), keys


def finish(job: Job, keys: list[tuple[str, str, int]], falls: set[int]) -> None:
    job.work.by_batch[job.name] = part(job, keys, falls)


def rows(jobs: list[Job], step: Step) -> list[list[int]]:
    return [job.rows for job in jobs if job.step == step]


def test_a_step_begins_before_the_one_before_has_ended() -> None:
    made, keys = plan()
    first = list(made.jobs())
    assert [job.rows for job in first] == [list(range(start, start + 5)) for start in range(0, N, 5)]
    assert all(job.step.attack is None for job in first)
    finish(first[1], keys, set())
    assert [job.rows[0] for job in made.jobs()] == [0, 10, 15], "later images wait for earlier ones"
    finish(first[0], keys, {3})
    small, drawn = made.steps[0, 1][0].step, made.steps[1, 1][0].step
    assert small.threat == ThreatModel("Linf", 0.1), "the smaller radius is first"
    jobs = list(made.jobs())
    assert rows(jobs, small) == [[0, 1, 2, 4, 5]], "a batch is whole or the last one"
    assert rows(jobs, drawn) == [[0, 1, 2, 4, 5, 6]], "units are of the attack's size"
    assert not made.ended


def test_every_worker_cuts_the_same_batches_in_whatever_order_parts_arrive() -> None:
    falls = {2, 3, 5, 7, 11, 13, 17}

    def run(seed: int) -> list[tuple[str, list[int]]]:
        made, keys = plan()
        draw, seen = random.Random(seed), []
        while jobs := list(made.jobs()):
            job = draw.choice(jobs)
            seen.append((str(job.step), job.rows))
            finish(job, keys, falls if job.step.threat == ThreatModel("Linf", 0.1) else set())
        assert made.ended
        assert made.done == (4 * N, 4 * N)
        return sorted(seen)

    assert run(0) == run(1) == run(2)
    larger = [given for step, given in run(0) if "eps=0.2" in step]
    assert sorted(row for given in larger for row in given) == sorted(2 * [row for row in range(N) if row not in falls])


def test_steps_are_ordered_as_one_worker_goes_through_them() -> None:
    made, _ = plan()
    said = [(stream.step.attack, stream.step.threat and stream.step.threat.eps) for stream in made.streams]
    assert said == [(None, None), *((attack, eps) for attack in (PGD(steps=3), square(unit=6)) for eps in (0.1, 0.2))]


def test_a_grown_run_takes_known_images_out_of_any_batch(tmp_path: Path) -> None:
    spec: dict[str, Any] = SPEC | {"attacks": [fgsm()], "trust": False, "save_examples": False}
    small = evaluate(EvaluationSpec(**(spec | {"n": 12, "attacks": ["fgsm"]})), tmp_path / "a", device="cpu")
    whole = evaluate(EvaluationSpec(**(spec | {"n": 20, "attacks": ["fgsm"]})), tmp_path / "a", device="cpu")
    fresh = evaluate(EvaluationSpec(**(spec | {"n": 20, "attacks": ["fgsm"]})), tmp_path / "b", device="cpu")
    assert len(small.records) < len(whole.records)
    pd.testing.assert_frame_equal(whole.records, fresh.records, rtol=1e-4, atol=1e-5)
