"""Predicted passes are those that are counted, and what is not measured is said."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from satbench.attacks import build_attack, parse_attack
from satbench.attacks.base import most_passes_of
from satbench.cli.app import app
from satbench.core.errors import BadInput
from satbench.evaluation import EvaluationSpec, Run, evaluate
from satbench.recipes import recipe
from satbench.specs.study import read_study
from satbench.study import jobs_of, pilot
from satbench.study.cost import (
    measured_evaluation,
    measured_training,
    predict_evaluation,
    predict_jobs,
    predict_training,
)
from satbench.training import TrainConfig, train

HARMLESS = "0.001"  # a radius at which digits stand
QUICK = {"epochs": 2, "measure.evaluators": "clean+fgsm+pgd:steps=2"}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are measured for a moment; passes do not depend on them."""
    monkeypatch.setattr(pilot, "WINDOW", 0.02)
    monkeypatch.setattr(pilot, "SECONDS", 0.3)


def spec(**fields: object) -> EvaluationSpec:
    return EvaluationSpec(**{"model": "digits-relu", "attacks": ("pgd:steps=20",), "threats": ("Linf:0.2",)} | fields)


def quick(**values: object) -> TrainConfig:
    return recipe("digits-pgd-at").with_values(QUICK | values)


def counted(run: Run) -> int:
    assert run.manifest.trust is not None
    records = int(run.records[["forward", "backward"]].to_numpy().sum())
    return records + run.manifest.trust.forward + run.manifest.trust.backward


@pytest.mark.parametrize(
    ("text", "norm"),
    [
        ("fgsm", "Linf"),
        ("pgd:steps=5,restarts=2,loss=margin-targeted,n_targets=4,init=zero", "Linf"),
        ("pgd:steps=5,eot=3,loss=kl", "Linf"),
        ("sat-pgd:steps=4", "Linf"),
        ("rapid", "L2"),
        ("apgd-ce", "Linf"),
        pytest.param("apgd-ce", "L1", marks=pytest.mark.slow),
        pytest.param("apgd-ce:version=rand", "Linf", marks=pytest.mark.slow),
        pytest.param("apgd-dlr:version=plus", "Linf", marks=pytest.mark.slow),
        pytest.param("apgd-t", "Linf", marks=pytest.mark.slow),
        pytest.param("apgd-t", "L1", marks=pytest.mark.slow),
        pytest.param("fab", "L2", marks=pytest.mark.slow),
        pytest.param("fab-t", "Linf", marks=pytest.mark.slow),
        pytest.param("square", "Linf", marks=pytest.mark.slow),
    ],
)
def test_an_image_that_stands_takes_the_passes_that_its_attack_says(text: str, norm: str, tmp_path: Path) -> None:
    attack = build_attack(*parse_attack(text))
    run = evaluate("digits-silu", tmp_path, attack, norm, HARMLESS, n=3, trust=False, search="plain")
    stood = run.records[~run.records["broken"]]
    assert len(stood) == 3
    most = most_passes_of(attack, norm, 10)
    assert (stood["forward"].max(), stood["backward"].max()) == (most.forward, most.backward)


def test_an_attack_that_does_not_say_its_passes_is_taken_for_a_gradient_attack_of_its_effort() -> None:
    assert most_passes_of(build_attack("foolbox:LinfPGD", {"steps": 7}), "Linf", 10)[:2] == (8, 7)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("eps", [0.2, 0.35])  # at which about 60% and next to none of the images stand
def test_predicted_passes_of_an_evaluation_are_near_those_counted(eps: float, tmp_path: Path) -> None:
    asked = spec(threats=(f"Linf:{eps}",))
    predicted = predict_evaluation(asked, device="cpu")
    run = evaluate(asked, tmp_path, device="cpu")
    assert predicted.passes == pytest.approx(counted(run), rel=0.3)
    assert predicted.low <= predicted.seconds <= predicted.high
    assert "images stand under PGD-20" in predicted.assumption
    measured = measured_evaluation(tmp_path)
    assert measured.passes == counted(run)
    assert measured.ratio(predicted) == measured.seconds / predicted.seconds


def test_a_finished_run_of_the_network_says_how_many_images_stand(tmp_path: Path) -> None:
    run = evaluate(spec(attacks=("fgsm",)), tmp_path, device="cpu")
    stood = 1 - run.records["broken"].mean()
    predicted = predict_evaluation(spec(), device="cpu", runs=[run])
    assert predicted.assumption == f"{stood:.0%} of the images stand in 1 finished runs of this network"


@pytest.mark.left_out
def test_images_that_a_smaller_radius_broke_cost_nothing_at_a_larger_one() -> None:
    small, large = (predict_evaluation(spec(threats=(f"Linf:{eps}",), n=200), device="cpu") for eps in (0.3, 0.4))
    both = predict_evaluation(spec(threats=("Linf:0.4", "Linf:0.3"), n=200), device="cpu")
    assert small.passes < both.passes < 0.95 * (small.passes + large.passes)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_cost_is_of_seconds_whatever_number_of_threads_the_process_has(threads: int) -> None:
    """Time of the process and time of the clock on the wall are never subtracted from each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cost = predict_evaluation(spec(n=8, threads=1), device="cpu")
    finally:
        torch.set_num_threads(before)
    assert 0 < cost.low <= cost.seconds <= cost.high < 600


def test_of_a_network_that_is_not_trained_the_prediction_says_what_it_assumes() -> None:
    adversarial = predict_evaluation(spec(model=None, n=40), device="cpu", training=quick())
    clean = predict_evaluation(spec(model=None, n=40), device="cpu", training=quick(method="standard"))
    assert "assumed: 50% (20% to 80%)" in adversarial.assumption
    assert "assumed: 5% (0% to 30%)" in clean.assumption
    assert adversarial.low < adversarial.seconds < adversarial.high
    assert clean.passes < adversarial.passes


@pytest.mark.left_out
def test_passes_of_a_training_are_those_of_its_updates_and_measurements(tmp_path: Path) -> None:
    config = quick()
    predicted = predict_training(config, device="cpu")
    train(config, tmp_path, "cpu")
    measured = measured_training(tmp_path)
    assert 1.0 <= predicted.passes / measured.passes < 1.5  # the log does not count the measurements
    assert measured.seconds > 0


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one training, and an evaluation of each."""
    file = tmp_path_factory.mktemp("study") / "study.yaml"
    file.write_text(
        "trainings: [{recipes: [digits-quick], seeds: [0, 1], overrides: {epochs: [1]}}]\n"
        "evaluations: [{attacks: [fgsm], threats: ['Linf:0.1'], n: 20, trust: false}]\n"
    )
    return file


def test_jobs_that_differ_in_their_seed_are_looked_at_once(study: Path) -> None:
    jobs = jobs_of(read_study(study), str(study))
    costs = predict_jobs(jobs, jobs.names, device="cpu")
    one, two = (costs[training.name] for training in jobs.trainings)
    assert one is two
    one, two = (costs[evaluation.name] for evaluation in jobs.evaluations)
    assert one is two


@pytest.mark.left_out
def test_a_study_is_predicted_and_then_compared(study: Path, tmp_path: Path) -> None:
    for command in (["cost", str(study)], ["study", str(study), "--dry-run"]):
        done = CliRunner().invoke(app, [*command, "--device", "cpu"])
        assert done.exit_code == 0, done.output
        assert done.output.count("passes") == 4
        assert "2 trainings and 2 evaluations: " in done.output
    command = ["study", str(study), "--out", str(tmp_path), "--engine", "local:1", "--device", "cpu"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "trainings: " in done.output
    assert "evaluations: " in done.output
    assert done.output.count("measured by predicted") == 2
    (given,) = (tmp_path / ".study").glob("jobs-*.json")
    cost = tmp_path / ".study" / "cost.json"
    assert given.stat().st_mtime_ns < cost.stat().st_mtime_ns, "the workers need not wait for the prediction"
    said = cost.read_bytes()
    done = CliRunner().invoke(app, command)
    assert done.output.count("measured by predicted") == 2
    assert cost.read_bytes() == said, "what was said at first is kept"


def test_command_predicts_an_evaluation_and_a_training() -> None:
    asked = ["cost", "--model", "digits-relu", "--attack", "fgsm", "--eps", "0.2", "--n", "20", "--device", "cpu"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "passes" in done.output
    assert "core-hours" in done.output
    done = CliRunner().invoke(app, ["cost", "--recipe", "digits-quick", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "train digits-quick" in done.output


def test_command_refuses_a_model_beside_a_recipe() -> None:
    done = CliRunner().invoke(app, ["cost", "--model", "digits-relu", "--recipe", "digits-quick"])
    assert done.exit_code == 2
    assert "give --model" in done.output


def test_a_network_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadInput, match="digits-rleu"):
        predict_evaluation(spec(model="digits-rleu"))
