"""Study files: what they may say, which jobs they become, and workers that share them in any number and order."""

import collections
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from refusals import refusal
from rich.console import Console
from tiny_training import contents, tiny, write_rows
from typer.testing import CliRunner

from satbench import EvaluationSpec, evaluate
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.strict_yaml import shipped
from satbench.evaluation import make_request
from satbench.recipes import RECIPES
from satbench.reporting.page import write_report
from satbench.results.store import read_run, write_manifest
from satbench.specs.study import Study, read_study
from satbench.study import Jobs, jobs_of, pilot, run_study
from satbench.study.folder import HIDDEN, STUDY, Status, StudyFolder, read_jobs
from satbench.study.jobs import job_name, run_name
from satbench.study.live import at, drawing, shown
from satbench.study.results import study_results
from satbench.study.watch import Watch
from satbench.study.worker import work
from satbench.training import train
from satbench.training.stages import passes_of

SCRATCH = ("times.jsonl", "timing.parquet", "manifest.json", "state.safetensors")


def jobs_in(text: str, folder: Path) -> Jobs:
    """The jobs of a study file of this text."""
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return jobs_of(read_study(file), str(file))


def worked(jobs: Jobs, out: Path, session: str = "one") -> StudyFolder:
    """The folder after a worker in this process has found nothing left to do."""
    folder = StudyFolder(out, jobs, session)
    work(str(out), folder.write_jobs(), session, "cpu", None)
    return StudyFolder(out, jobs, session)


def results(out: Path) -> dict[str, bytes]:
    """What equal studies share to the byte."""
    files = [file for file in out.rglob("[!.]*") if file.is_file() and HIDDEN not in file.parts]
    kept = [file for file in files if file.name not in SCRATCH and "parts" not in file.parts and file.name != STUDY]
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in kept}


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are predicted from times measured for a moment."""
    monkeypatch.setattr(pilot, "WINDOW", 0.02)
    monkeypatch.setattr(pilot, "SECONDS", 0.1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of one epoch on noise images."""
    folder = tmp_path_factory.mktemp("small")
    config = tiny(write_rows(folder / "rows.npz"), epochs=1)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def text(small: Path) -> str:
    return f"""
title: Two <activations>
notes: [On noise.]
trainings:
  - recipes: {small / "tiny.yaml"}
    activations: [silu, relu]
    seeds: [3, 4]
evaluations:
  - {{attacks: "pgd:steps=2", threats: ["Linf:0.05", "Linf:0.1"], trust: false}}
  - {{attacks: fgsm, threats: Linf, n: 5, seed: 7, trust: false, of: {{activations: relu, seeds: 4}}}}
"""


@pytest.fixture(scope="module")
def done(text: str, tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    folder = tmp_path_factory.mktemp("done")
    return worked(jobs_in(text, folder), folder / "out")


# the file

GRID = "trainings: [{recipes: digits-sat, %s}]"
EVALUATION = "trainings: [{recipes: digits-sat}]\nevaluations: [{attacks: fgsm, threats: Linf, %s}]"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("training: []", "study.yaml: unknown field 'training'; did you mean trainings?"),
        ("title: nothing", "study.yaml: the study has neither trainings nor models"),
        ("models: digits-relu", "study.yaml: the study has models and no evaluations"),
        (GRID % "seedz: 1", "field 'trainings.0': unknown field 'seedz'; did you mean seeds?"),
        (GRID % "seeds: []", "field 'trainings.0.seeds': the list is empty"),
        (GRID % "seeds: [1, 1]", "field 'trainings.0.seeds': 1 is listed twice"),
        (GRID % "seeds: ['1']", "field 'trainings.0.seeds.0': Input should be a valid integer"),
        (GRID % "overrides: {epochs: []}", "field 'trainings.0.overrides.epochs': the list is empty"),
        (GRID % "overrides: {seed: 1}", "field 'trainings.0.overrides': 'seed' is not an override; give seeds"),
        (GRID % "overrides: {epoch: 1}", "field 'trainings.0': unknown setting 'epoch'; did you mean epochs"),
        (GRID % "overrides: {method.stepz: 1}", "field 'trainings.0': unknown parameter 'stepz' of method 'pgd_at'"),
        (GRID % "overrides: {model.depth: 3}", "field 'trainings.0': unknown parameter 'depth' of model 'cnn-small'"),
        (GRID % "overrides: {epochs: 0}", "field 'trainings.0': the settings, field 'epochs'"),
        (GRID % "activations: silly", "field 'trainings.0': .*'silly'; did you mean silu"),
        ("trainings: [{recipes: digits-sad}]", "field 'trainings.0': unknown recipe 'digits-sad'; did you mean"),
        ("trainings: [{recipes: digits-sat}, {recipes: digits-sat}]", "'trainings.1': training .* is there twice"),
        (GRID % "overrides: {dataset: digit}", "field 'trainings.0': unknown data set 'digit'; did you mean digits"),
        (EVALUATION % "dataset: cifar", "field 'evaluations.0': unknown data set 'cifar'; did you mean cifar10"),
        (EVALUATION % "attackz: 1", "field 'evaluations.0': unknown field 'attackz'; did you mean attacks?"),
        (EVALUATION % "n: many", "field 'evaluations.0.n': give a whole number"),
        (EVALUATION % "model: digits-relu", "field 'evaluations.0.model': this belongs to a network"),
        (EVALUATION % "of: {seeds: 3}", "evaluations.0.of.seeds names 3, which the study has not"),
        (EVALUATION % "of: {}", "field 'evaluations.0', field 'of': no network of the study is meant"),
        ((EVALUATION % "n: 5").replace("Linf", "Linv:1"), "field 'evaluations.0.threats': unknown norm 'Linv'"),
        ((EVALUATION % "n: 5").replace("fgsm", "fgsn"), "field 'evaluations.0': unknown attack 'fgsn'; did you mean"),
        (
            "trainings: [{recipes: digits-sat}]\nreported: [{method: trade, expected: higher, source: a paper}]",
            "field 'reported.0.method': no training has the method 'trade'; known: pgd_at",
        ),
        ((EVALUATION % "n: 5") + "\nevaluations: []", "has 'evaluations' twice"),
        (
            "trainings: [{recipes: digits-sat}]\nevaluations: [{attacks: pgd}, {attacks: ['pgd:steps=10']}]",
            "field 'evaluations.1': evaluation digits-sat-.*/pgd-.* is there twice",
        ),
    ],
)
def test_a_wrong_file_is_one_line_that_names_file_and_field(
    text: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=hint) as raised:
        jobs_in(text, tmp_path)
    assert "study.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)
    done = CliRunner().invoke(app, ["study", "study.yaml", "--out", "out"])
    assert done.exit_code == 2
    refusal(done.stderr)
    assert not (tmp_path / "out").exists()


def test_a_study_may_restrict_seeds_and_attacks_to_some_trainings(tmp_path: Path) -> None:
    """The study of activations on photographs, with a recipe that exists in place of its own."""
    jobs = jobs_in(
        """
trainings:
  - {recipes: cifar10-sat-single-step, name: main, activations: [relu, silu, gelu, softplus, smoothrelu, elu,
     parametric_softplus], seeds: [0, 1, 2, 3, 4]}
  - {recipes: cifar10-sat-single-step, activations: [relu, silu], seeds: [5, 6, 7, 8, 9]}
  - {recipes: [digits-surrogate-none, digits-surrogate-both], seeds: [0, 1, 2, 3, 4]}
  - {recipes: [cifar10-pgd-at, cifar10-standard], activations: [relu, silu], seeds: [0, 1, 2]}
  - {recipes: cifar10-sat-single-step, activations: [relu, silu], seeds: [0, 1, 2], name: wide,
     overrides: {model.width: 32}}
evaluations:
  - {attacks: "pgd:steps=50", threats: ["Linf:2/255", "Linf:8/255"], n: 2000}
  - {attacks: autoattack, threats: "Linf:8/255", n: 1000,
     of: {trainings: main, activations: [relu, silu], seeds: [0, 1, 2, 3, 4]}}
""",
        tmp_path,
    )
    assert len(jobs.trainings) == 35 + 10 + 10 + 12 + 6
    measured = [one.name.rpartition("/")[2].partition("-")[0] for one in jobs.evaluations]
    assert (measured.count("pgd"), measured.count("autoattack")) == (73, 10)
    assert len(set(jobs.names)) == len(jobs.names)
    strongest = [one for one in jobs.evaluations if "/autoattack" in one.name]
    assert {one.spec.seed for one in strongest} == {0, 1, 2, 3, 4}
    assert Jobs.model_validate_json(jobs.model_dump_json()) == jobs


def test_overrides_are_a_grid_and_a_model_may_be_named_with_its_checkpoint(tmp_path: Path) -> None:
    jobs = jobs_in(
        """
trainings: [{recipes: digits-quick, overrides: {epochs: [1, 2], optimizer.lr: [0.1, 0.2],
             schedule: piecewise, schedule.milestones: "0.5+0.7"}}]
models: [digits-relu, {model: cnn-small, checkpoint: w.safetensors, name: mine}]
evaluations: [{attacks: fgsm, threats: "Linf:0.1"}, {attacks: pgd, threats: "Linf:0.1", of: {models: digits-relu}}]
""",
        tmp_path,
    )
    configs = [one.config for one in jobs.trainings]
    assert [(one.epochs, one.optimizer.lr) for one in configs] == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2)]
    assert configs[0].schedule.params["milestones"] == [0.5, 0.7]
    named = [(one.spec.model, one.spec.checkpoint, one.spec.name) for one in jobs.evaluations if one.training is None]
    assert named == [
        ("digits-relu", None, None),
        ("cnn-small", Path("w.safetensors"), "mine"),
        ("digits-relu", None, None),
    ]


def test_the_schema_knows_every_field_and_needs_no_torch() -> None:
    done = CliRunner().invoke(app, ["study", "--schema"])
    schema = json.loads(done.stdout)
    assert set(schema["properties"]) == set(Study.model_fields)
    own = {"of", "tolerance", "published"}
    assert set(schema["$defs"]["Measurement"]["properties"]) == {*EvaluationSpec.model_fields, *own}
    assert schema["additionalProperties"] is False
    for grid_field, kind in (("recipes", "string"), ("seeds", "integer")):  # one value stands for a list of one
        first = schema["$defs"]["Grid"]["properties"][grid_field]["anyOf"][:2]
        assert [one["type"] for one in first] == [kind, "array"]
    code = "import sys; sys.modules['torch'] = None\nfrom satbench.specs.study import read_study as r, Path as P\n"
    file = shipped("studies/demo.yaml")
    assert subprocess.run([sys.executable, "-c", f"{code}r(P({str(file)!r}))"], check=False).returncode == 0


@pytest.mark.left_out
def test_the_work_of_planning_grows_with_the_jobs(tmp_path: Path) -> None:
    """Python's own calls are counted, which are the same on every machine."""

    def calls(lrs: list[float]) -> tuple[int, int]:
        counts = collections.Counter[str]()
        sys.setprofile(lambda _frame, event, _of: counts.update((event,)))
        try:
            jobs = jobs_in(
                f"""
trainings: [{{recipes: digits-sat, activations: [relu, silu, gelu, elu, smoothrelu], seeds: [0, 1],
             overrides: {{optimizer.lr: {lrs}, method.steps: [3, 5]}}}}]
evaluations: [{{attacks: [pgd, fgsm], threats: "Linf:8/255"}}]
""",
                tmp_path,
            )
        finally:
            sys.setprofile(None)
        return len(set(jobs.names)), counts["call"]

    calls([0.05])  # what is read once
    (few, for_few), (many, for_many) = calls([0.05]), calls([0.05, 0.1, 0.2, 0.3, 0.4])
    assert (few, many) == (40, 200)
    assert for_many < 6 * for_few


# names


def test_no_two_recipes_of_a_study_share_a_folder() -> None:
    configs = [RECIPES[name]() for name in sorted(RECIPES)]
    names = [job_name(config) for config in configs]
    assert len(set(names)) == len(names) > 20
    for name, config in zip(names, configs, strict=True):
        assert name == Path(name).name
        assert f"-seed{config.seed}-" in name
    start = RECIPES["digits-sat"]()
    variants = [start.with_values(one) for one in ({}, {"seed": 1}, {"epochs": 2}, {"activation": "celu:alpha=2"})]
    assert len({job_name(one) for one in variants}) == 4
    assert job_name(start) == job_name(RECIPES["digits-sat"]())


def test_an_evaluation_is_named_by_what_it_is_and_not_by_its_spelling() -> None:
    asked = [
        EvaluationSpec(attacks="pgd", threats="Linf:0.1"),
        EvaluationSpec(attacks=["pgd:steps=10"], threats=[{"norm": "Linf", "eps": "0.1"}]),
        EvaluationSpec(attacks="pgd", threats="Linf:0.1", n=5),
    ]
    names = [run_name(make_request(spec).spec) for spec in asked]
    assert names[0] == names[1] != names[2]


# workers


def test_a_study_is_what_its_commands_one_by_one_are(done: StudyFolder, tmp_path: Path) -> None:
    jobs = done.jobs
    assert [(one.config.activation, one.config.seed) for one in jobs.trainings] == [
        ("silu", 3),
        ("silu", 4),
        ("relu", 3),
        ("relu", 4),
    ]
    runs = [read_run(done.path / one.name) for one in jobs.evaluations]
    assert [(run.manifest.model.activation, run.manifest.seed, len(run.records)) for run in runs] == [
        ("silu", 3, 60),
        ("silu", 4, 60),
        ("relu", 3, 60),
        ("relu", 4, 60),
        ("relu", 7, 5),
    ]
    last = jobs.trainings[-1]
    train(last.config, tmp_path / "training", device="cpu")
    assert contents(tmp_path / "training") == contents(done.training(last.name))
    spec = EvaluationSpec(model=str(tmp_path / "training"), attacks="fgsm", threats="Linf", n=5, seed=7, trust=False)
    alone = evaluate(spec, tmp_path / "alone", device="cpu")
    assert (alone.path / "records.parquet").read_bytes() == (runs[-1].path / "records.parquet").read_bytes()


def test_what_is_finished_stays_and_what_is_new_is_added(done: StudyFolder, text: str, tmp_path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in done.path.rglob("*.*") if HIDDEN not in file.parts}
    more = jobs_in(text + "  - {attacks: fgsm, threats: 'Linf:0.3', n: 7, trust: false, of: {seeds: 3}}\n", tmp_path)
    assert not done.unfinished()
    folder = worked(more, done.path, "two")
    assert len(more.names) == len(done.jobs.names) + 2
    assert not folder.unfinished()
    assert {file: file.stat().st_mtime_ns for file in before if file.name != STUDY} == {
        file: moment for file, moment in before.items() if file.name != STUDY
    }


def test_a_damaged_run_is_made_again(done: StudyFolder) -> None:
    name = done.jobs.evaluations[0].name
    records = done.path / name / "records.parquet"
    bytes_before = records.read_bytes()
    records.write_bytes(b"damaged")
    left = StudyFolder(done.path, done.jobs, "three").unfinished()
    assert [job.name for job in left] == [name]
    worked(done.jobs, done.path, "three")
    assert records.read_bytes() == bytes_before


def test_a_training_that_fails_stops_the_study_and_is_named(small: Path, tmp_path: Path) -> None:
    jobs = jobs_in(
        f"trainings: [{{recipes: {small / 'tiny.yaml'}, overrides: {{dataset: 'npz:{tmp_path}/none.npz'}}}}]", tmp_path
    )
    with pytest.raises(BadInput, match=rf"training {jobs.trainings[0].name}: no such file: .*none\.npz"):
        worked(jobs, tmp_path / "out")


@pytest.mark.left_out
def test_a_job_that_another_worker_has_is_left_to_it(text: str, tmp_path: Path) -> None:
    """The first training is claimed; it is released once everything else is finished."""
    jobs = jobs_in(text, tmp_path)
    folder, first = StudyFolder(tmp_path / "out", jobs, "one"), jobs.trainings[0].name
    blocked = [first, *(one.name for one in jobs.evaluations if one.training == first)]
    held = threading.Event()

    def hold() -> None:
        with folder.claimed(jobs.trainings[0]) as mine:
            assert mine
            held.set()
            deadline = time.monotonic() + 60
            while len(seen := [job.name for job in folder.unfinished()]) > len(blocked) and time.monotonic() < deadline:
                time.sleep(0.05)
            left.extend(seen)

    left: list[str] = []
    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    work(str(folder.path), folder.write_jobs(), "one", "cpu", None)
    holder.join()
    assert left == blocked
    assert not StudyFolder(folder.path, jobs, "one").unfinished()


def test_a_network_from_elsewhere_that_changed_is_measured_again(
    done: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tmp_path / "network.safetensors"
    silu, relu = (done.training(done.jobs.trainings[index].name) / "best.safetensors" for index in (0, 2))
    network.write_bytes(silu.read_bytes())
    jobs = jobs_in(
        f"models: {network}\nevaluations: [{{attacks: fgsm, threats: 'Linf:0.1', n: 9, trust: false}}]", tmp_path
    )
    out = tmp_path / "out"
    first = read_run(worked(jobs, out).path / jobs.evaluations[0].name)
    again = read_run(worked(jobs, out, "two").path / jobs.evaluations[0].name)
    assert again.manifest == first.manifest
    network.write_bytes(relu.read_bytes())
    with pytest.raises(BadInput, match=r"holds a run of model .*, asked for is"):
        worked(jobs, out, "three")


def test_workers_of_other_numerics_are_refused_where_the_study_says_so(done: StudyFolder, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, done.jobs, "one")
    folder.refuse_other_numerics("a" * 16)
    folder.refuse_other_numerics("a" * 16)
    with pytest.raises(BadInput, match=r"computes other bits .*same_numerics refuses"):
        folder.refuse_other_numerics("b" * 16)


# what is shown


@pytest.mark.left_out
def test_the_page_of_a_study_has_its_words_runs_and_curves(done: StudyFolder, tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["report", str(done.path), "--out", str(tmp_path)])
    assert made.exit_code == 0, made.output
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<h1>Two &lt;activations&gt;</h1>" in page
    assert "<p>On noise.</p>" in page
    assert (tmp_path / "training.svg").is_file()


def test_a_study_ends_with_comparisons_to_its_own_reference(done: StudyFolder, text: str, tmp_path: Path) -> None:
    shutil.copytree(done.path, tmp_path / "out")
    (tmp_path / "study.yaml").write_text(text + "reference: silu\n", encoding="utf-8")
    ended = CliRunner().invoke(app, ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")])
    assert ended.exit_code == 0, ended.output
    assert "relu against silu" in ended.stdout
    assert re.findall(r"tiny (\w+) \| Linf 0.1 \| PGD", ended.stdout) == ["silu", "relu"]
    assert "no model with" not in ended.stdout


@pytest.mark.slow
def test_the_page_calls_recipes_as_the_configs_say(done: StudyFolder, tmp_path: Path) -> None:
    """An earlier version gave trainings that differ in a default the name of their recipe."""
    copied = Path(shutil.copytree(done.path, tmp_path / "copied"))
    for evaluation in done.jobs.evaluations:
        run = read_run(copied / evaluation.name)
        model = run.manifest.model.model_copy(update={"recipe": "another"})
        write_manifest(run.path, run.manifest.model_copy(update={"model": model}))
    page = write_report(tmp_path / "page", study_results(copied)).index.read_text(encoding="utf-8")
    assert "another" not in page
    assert page == write_report(tmp_path / "page", study_results(done.path)).index.read_text(encoding="utf-8")


@pytest.mark.left_out
def test_the_page_of_results_is_that_of_the_study(done: StudyFolder, tmp_path: Path) -> None:
    (tmp_path / "plan.md").write_text("The plan.\n\n## Departures\nOne.\n", encoding="utf-8")
    words = ["report", str(done.path), "--out", str(tmp_path / "a"), "--plan", str(tmp_path / "plan.md")]
    made = CliRunner().invoke(app, [*words, "--made-by", "satbench study x.yaml"])
    assert made.exit_code == 0, made.output
    again = CliRunner().invoke(app, ["report", str(tmp_path / "a" / "results.json.gz"), "--out", str(tmp_path / "b")])
    assert again.exit_code == 0, again.output
    for file in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes(), file.name
    page = (tmp_path / "b" / "index.html").read_text(encoding="utf-8")
    assert "<p>One.</p>" in page
    assert "<pre>satbench study x.yaml</pre>" in page
    assert re.search(r"role=\"(rowheader|cell)\"[^>]*>trainings<", page)


@pytest.mark.left_out
def test_the_page_of_an_unfinished_study_says_what_is_missing(done: StudyFolder, text: str, tmp_path: Path) -> None:
    more = jobs_in(text + "  - {attacks: fgsm, threats: 'Linf:0.4', n: 7}\n", tmp_path)
    (done.path / STUDY).write_text(more.model_dump_json(), encoding="utf-8")
    try:
        page = write_report(tmp_path / "page", study_results(done.path)).index.read_text(encoding="utf-8")
    finally:
        done.write_jobs()
    assert "4 of its 9 evaluations are missing" in page


def test_a_study_file_whose_jobs_lie_elsewhere_is_refused(done: StudyFolder, tmp_path: Path) -> None:
    changed = json.loads((done.path / STUDY).read_text())
    changed["evaluations"][0]["name"] = "../elsewhere"
    (tmp_path / STUDY).write_text(json.dumps(changed))
    with pytest.raises(BadInput, match=r"evaluations\.0\.name.*'\.\.' is not a name"):
        read_jobs(tmp_path / STUDY)


def test_a_terminal_shows_each_worker_and_a_file_gets_lines(
    done: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("satbench.study.watch.LONGEST", 0)
    first, evaluation = done.jobs.trainings[0], done.jobs.evaluations[0]
    epochs = first.model_copy(update={"config": first.config.model_copy(update={"epochs": 4})})
    jobs = done.jobs.model_copy(update={"trainings": (epochs, *done.jobs.trainings[1:])})
    folder = StudyFolder(tmp_path, jobs, "one")
    status = Status(first.name, 3, 8, "400 images/s", 6.0, 0.5)
    assert at(jobs, status) == "epoch 2 of 4, 400 images/s"
    assert at(jobs, Status(evaluation.name, 30, 60, "FGSM", 1.0, 30.0)) == "FGSM, 30 images/s"
    watch = Watch(folder)
    assert watch.remaining() == len(jobs.names) == 9
    assert not watch.view().is_whole
    folder.write_status(status)
    assert watch.remaining() == 9 - 3 / 8
    assert not watch.view().is_whole  # nothing tells how long an evaluation takes
    only = Watch(StudyFolder(tmp_path, jobs.model_copy(update={"evaluations": ()}), "one"))
    assert only.remaining() == 4 - 3 / 8
    assert only.view().is_whole
    for view in (watch.view(), only.view()):
        assert view.left == pytest.approx(6 / (3 / 8) * (4 - 3 / 8), rel=0.05)
    text = io.StringIO()
    Console(file=text, width=200).print(drawing(jobs, watch.view()))
    assert "0 of 9 jobs" in text.getvalue()
    assert "epoch 2 of 4, 400 images/s" in text.getvalue()
    terminal = io.StringIO()
    with shown(watch, Console(file=terminal, width=200, force_terminal=True)) as update:
        update()
    assert "epoch 2 of 4" in terminal.getvalue()
    folder.write_status(None)
    text = io.StringIO()
    watch = Watch(folder)
    with shown(watch, Console(file=text, width=40)) as update:
        target = folder.training(done.jobs.trainings[1].name)
        target.parent.mkdir(parents=True)
        target.symlink_to(done.training(done.jobs.trainings[1].name), target_is_directory=True)
        assert watch.remaining() == 8
        update()
    assert text.getvalue().startswith("1 of 9 jobs, 0:00:0")
    assert text.getvalue().endswith(f": {done.jobs.trainings[1].name}\n")


@pytest.mark.usefixtures("_short")
def test_a_dry_run_lists_every_job_and_writes_nothing(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = jobs_in(text, tmp_path)
    done = CliRunner().invoke(app, ["study", "study.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert all(f" {name}: " in done.stdout for name in jobs.names)
    assert "4 trainings and 5 evaluations" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


def test_a_folder_of_something_else_is_left_alone(text: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BadInput, match=r"is not empty and holds no study\.json"):
        run_study(jobs_in(text, tmp_path), tmp_path, "local:1", "cpu")
    with pytest.raises(BadInput, match="unknown engine 'lokal'; did you mean local"):
        run_study(jobs_in(text, tmp_path), tmp_path / "out", "lokal", "cpu")
    assert not (tmp_path / "out").exists()


# engines


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["--engine", "local:0"], "", "engine local:0: '0' is not a number of workers"),
        (["--engine", "local:0", "--dry-run"], "", "engine local:0: '0' is not a number of workers"),
        (["--engine", "lokal"], "", "unknown engine 'lokal'; did you mean local"),
        (
            ["--engine", "local:1", "--device", "auto"],
            "resources: {gpus: 64}\n",
            "no machine has the 1 core and 64 GPUs",
        ),
    ],
)
def test_an_engine_that_cannot_work_is_refused_and_leaves_nothing(
    words: list[str], more: str, said: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(text + more)
    done = CliRunner().invoke(app, ["study", "study.yaml", "--out", "out", "--device", "cpu", *words])
    assert done.exit_code == 2, done.output
    assert said in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["study.yaml"]


def test_a_file_in_place_of_the_folder_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(text)
    done = CliRunner().invoke(app, ["study", "study.yaml", "--out", "study.yaml", "--device", "cpu"])
    assert done.exit_code == 2
    assert "is a file; give a folder" in done.output


@pytest.mark.slow
def test_two_studies_on_one_folder_give_the_bytes_of_one_worker(done: StudyFolder, text: str, tmp_path: Path) -> None:
    jobs_in(text, tmp_path)
    words = [sys.executable, "-m", "satbench", "study", str(tmp_path / "study.yaml"), "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--engine", "local:2"]
    studies = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for study in studies:
        output, complaint = study.communicate(timeout=240)
        assert study.returncode == 0, complaint
        assert "5 of 9 jobs" in complaint or "9 of 9 jobs" in complaint
        assert "next: satbench report" in output
    assert results(tmp_path / "out").items() <= results(done.path).items()


@pytest.mark.slow
def test_a_study_at_a_url_gives_the_bytes_of_one_in_a_folder(
    done: StudyFolder, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"file://{tmp_path}/at-url"
    runs = run_study(jobs_in(text, tmp_path), url, "local:2", "cpu")
    assert len(runs) == 5
    assert results(tmp_path / "at-url").items() <= results(done.path).items()
    made = CliRunner().invoke(app, ["report", url])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "reports" / "report" / "index.html").is_file()


@pytest.mark.slow
def test_a_training_on_several_processes_is_started_by_torchrun(small: Path, tmp_path: Path) -> None:
    recipe = f"trainings: [{{recipes: {small / 'tiny.yaml'}, overrides: {{sync_batch_norm: true}}}}]\n"
    alone = worked(jobs_in(recipe, tmp_path), tmp_path / "alone")
    shared = jobs_in(recipe + "resources: {gpus: 2}", tmp_path)
    assert run_study(shared, tmp_path / "shared", "local:1", "cpu") == []
    name = shared.trainings[0].name
    assert (tmp_path / "shared" / HIDDEN / "configs" / f"{name}.log").is_file()
    logs = [folder / name / "training" / "metrics.jsonl" for folder in (tmp_path / "shared", alone.path)]
    there, here = (json.loads(log.read_text(encoding="utf-8")) for log in logs)
    assert there["train_loss"] == pytest.approx(here["train_loss"], rel=1e-3)


@pytest.mark.slow
def test_a_study_on_two_nodes_of_ray_gives_the_bytes_of_one_worker(
    done: StudyFolder, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")
    utils = pytest.importorskip("ray.cluster_utils")
    settings = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = utils.Cluster(initialize_head=True, head_node_args=settings)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        runs = run_study(jobs_in(text, tmp_path), tmp_path / "out", f"ray:{cluster.address}", "cpu")
    finally:
        cluster.shutdown()
    assert len(runs) == 5
    assert results(tmp_path / "out").items() <= results(done.path).items()


@pytest.mark.slow
def test_the_page_of_a_study_of_methods_says_what_is_separable_and_what_the_runs_took(
    small: Path, tmp_path: Path
) -> None:
    """A network that learns nothing is worse; patience that begins after the run changes no bit."""
    learns = {"method.steps": 1, "threat.eps": 0.03, "epochs": 6, "optimizer.lr": 0.2, "measure.every": 6}
    config = tiny(f"npz:{small / 'rows.npz'}").with_values({"recipe": "tiny", **learns})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    grid = f"recipes: {tmp_path / 'tiny.yaml'}, activations: [relu, silu], seeds: [0, 1]"
    jobs = jobs_in(
        f"""
trainings:
  - {{{grid}}}
  - {{{grid}, overrides: {{budget.passes: 25, method: ["pgd_at:steps=1,early_stop=98:1+99:1"]}}}}
  - {{{grid}, overrides: {{budget.passes: 5, method: "free:replays=2", optimizer.lr: 1e-9}}}}
evaluations: [{{attacks: "pgd:steps=2", threats: "Linf:0.03", trust: false}}]
""",
        tmp_path,
    )
    worked(jobs, tmp_path / "out")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
    free, same = "free replays=2", "pgd_at early_stop=[98, 1]+[99, 1]"
    rows = [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, re.DOTALL)
    ]
    found = {name: [row[1:] for row in rows if row and row[0] == name] for name in ("pgd_at", free, same)}
    accuracies, robust, _, training = found[free]
    assert accuracies == ["authors&#39; code", *["33.3 [19.2, 51.3]"] * 4]  # one class of three
    assert all(re.fullmatch(r"-66\.6 \[.*\], p = .*: lower", cell) for cell in robust[1:])
    assert training[2:] == ["1", "5", "4", "4"]  # epochs, budget, passes as stated and as counted
    accuracies, robust, _, training = found[same]
    assert accuracies[1:] == found["pgd_at"][0][1:]
    assert robust[1:] == ["0.0 [-11.4, 11.4], p = 1: inside the noise"] * 2
    assert training[2:] == ["6", "25", "24", "24"]


@pytest.mark.left_out
def test_the_study_of_methods_spends_one_budget_on_each() -> None:
    """No method has passes left for one more epoch; each has every activation and seed."""
    jobs = jobs_of(read_study(shipped("studies/methods-on-digits.yaml")), "the study")
    runs: dict[str, list[tuple[str, int]]] = {}
    for config in (one.config for one in jobs.trainings):
        assert passes_of(config, config.epochs) <= 440 < passes_of(config, config.epochs + 1)
        runs.setdefault(config.recipe, []).append((config.activation, config.seed))
    every = [(activation, seed) for activation in ("relu", "silu", "smoothrelu") for seed in range(3)]
    assert all(found == every for found in runs.values())
    assert len(runs) >= 14
