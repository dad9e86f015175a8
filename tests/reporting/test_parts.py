"""One page of a study that was computed in parts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.reporting.background import Background
from satbench.reporting.page import write_report
from satbench.reporting.parts import joined
from satbench.reporting.results_file import RESULTS_FILE, StudyResults, encoded, read_results
from satbench.reporting.trained import Trained
from satbench.results.store import Run

from .made import EPS, PGD, MakeRun, first, runs_in
from .test_page import CURVES
from .test_results_file import PICTURE

NAMES = ("relu", "silu")
REPORTS = Path(__file__).parents[2] / "reports"


def whole(make_run: MakeRun) -> StudyResults:
    """Two seeds of two activations, with curves, times, a plan and a command."""
    runs = tuple(
        make_run(name, first(38, 40), {(PGD, "Linf", EPS): first(20 + 9 * place + seed, 40)}, seed=seed)
        for place, name in enumerate(NAMES)
        for seed in range(2)
    )
    seconds = {name: 60.0 * place for place, name in enumerate(CURVES, 1)}
    background = Background("Plan", ("satbench study x.yaml",), seconds, (PICTURE,))
    trained = (Trained("digits-cnn", "a paper", "the paper", 2, None, 4.0, 4.0),)
    return StudyResults("T", runs, CURVES, ("N",), trained=trained, background=background)


def parts_of(study: StudyResults) -> list[StudyResults]:
    """A part for each seed."""
    return [
        replace(
            study,
            runs=tuple(run for run in study.runs if run.manifest.model.seed == seed),
            curves={name: rows for name, rows in CURVES.items() if name.endswith(f"seed {seed}")},
            background=replace(
                study.background,
                seconds={name: s for name, s in study.background.seconds.items() if name.endswith(f"seed {seed}")},
                pictures=study.background.pictures[seed:],
            ),
        )
        for seed in range(2)
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return whole(runs_in(tmp_path_factory.mktemp("runs")))


def stored(parts: list[StudyResults], folder: Path) -> list[str]:
    files = [folder / f"seed-{place}.json.gz" for place in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_bytes(encoded(part))
    return list(map(str, files))


@pytest.mark.left_out
def test_the_page_of_the_parts_is_that_of_the_whole(
    study: StudyResults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = write_report(tmp_path / "whole", study)
    files = stored(parts_of(study), tmp_path)
    for given in (files, files[::-1], [*files, files[0]]):
        done = CliRunner().invoke(app, ["report", *given, "--out", str(tmp_path / "page")])
        assert done.exit_code == 0, done.output
        for file in expected.files:
            assert (tmp_path / "page" / file.name).read_bytes() == file.read_bytes(), file.name
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["report", files[0]]).exit_code == 0
    assert (tmp_path / "reports" / "report" / "index.html").is_file()
    assert not (tmp_path / "index.html").exists()
    for file, part in zip(files, parts_of(study), strict=True):
        assert len(read_results(Path(file)).runs) == len(part.runs)  # the parts are only read


@pytest.mark.left_out
def test_files_and_run_folders_make_one_page(study: StudyResults, tmp_path: Path) -> None:
    first_part, second = parts_of(study)
    (file,) = stored([first_part], tmp_path)
    folders = [str(run.path) for run in (*second.runs, first_part.runs[0])]  # the last is in the file too
    out = ["--out", str(tmp_path / "page")]
    refused = CliRunner().invoke(app, ["report", file, *folders, *out])
    assert refused.exit_code == 2
    assert "several titles: 'T' and 'Accuracy and robustness'; give --title" in refused.output
    done = CliRunner().invoke(app, ["report", file, *folders, *out, "--title", "Both", "--made-by", "a command"])
    assert done.exit_code == 0, done.output
    results = read_results(tmp_path / "page" / RESULTS_FILE)
    assert (results.title, len(results.runs), results.background.commands) == ("Both", 4, ("a command",))
    assert results.background.plan == "Plan"
    other = tmp_path / "plan.md"
    other.write_text("Another plan")
    assert CliRunner().invoke(app, ["report", file, *out, "--plan", str(other)]).exit_code == 0
    assert read_results(tmp_path / "page" / RESULTS_FILE).background.plan == "Another plan"


def relabelled(run: Run) -> Run:
    return replace(run, records=run.records.assign(label=run.records["label"] + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda part: replace(part, title="U"), "several titles: 'T' and 'U'; give --title"),
        (lambda part: replace(part, reference="gelu"), "several activations to compare with: 'relu' and 'gelu'"),
        (
            lambda part: replace(part, background=replace(part.background, plan="x" * 60)),
            f"several plans: 'Plan' and '{'x' * 47}...'; give --plan",
        ),
        (
            lambda part: replace(part, curves={"digits-cnn relu seed 0": CURVES["digits-cnn relu seed 0"][:1]}),
            "different training curves of 'digits-cnn relu seed 0'",
        ),
        (
            lambda part: replace(part, background=replace(part.background, seconds={"digits-cnn relu seed 0": 1.0})),
            "different training times of 'digits-cnn relu seed 0'",
        ),
    ],
)
def test_parts_that_differ_are_refused(
    study: StudyResults, change: Callable[[StudyResults], StudyResults], words: str
) -> None:
    one, other = parts_of(study)
    with pytest.raises(BadInput, match=words.replace("...", r"\.\.\.")):
        joined([one, change(other)])


def test_parts_on_other_images_are_refused(study: StudyResults, tmp_path: Path) -> None:
    one, other = (read_results(Path(file)) for file in stored(parts_of(study), tmp_path))
    both = joined([one, replace(other, runs=tuple(map(relabelled, other.runs)))])
    with pytest.raises(BadInput, match="differs between two runs"):
        write_report(tmp_path / "page", both)
    recoded = tuple(
        replace(
            run, manifest=run.manifest.model_copy(update={"data": run.manifest.data.model_copy(update={"digest": "x"})})
        )
        for run in other.runs
    )
    with pytest.raises(BadInput, match="the 40 images of digits/test differ between two runs"):
        write_report(tmp_path / "page", joined([one, replace(other, runs=recoded)]))
    first_run, second, *_ = study.runs
    changed = replace(second, records=second.records.assign(sample_hash="other"))
    with pytest.raises(BadInput, match="differs between two runs"):
        joined([other, replace(study, runs=(first_run, changed))])


@pytest.mark.left_out
@pytest.mark.parametrize("folder", [one.parent for one in sorted(REPORTS.glob("*/parts"))], ids=lambda one: one.name)
def test_the_committed_results_of_a_study_are_those_of_its_parts(folder: Path) -> None:
    results, parts = (
        read_results(folder / RESULTS_FILE),
        [read_results(one) for one in sorted(folder.glob("parts/*.gz"))],
    )
    both = joined(parts)
    assert sum(len(part.runs) for part in parts) == len(both.runs) == len(results.runs)
    assert {outcomes(run) for run in results.runs} == {outcomes(run) for run in both.runs}
    assert (results.title, results.notes, results.curves) == (both.title, both.notes, both.curves)
    assert results.background.seconds == both.background.seconds
    networks = Counter((one.model.recipe, one.model.activation, one.model.seed) for one in both.networks)
    assert set(networks.values()) == {1}
    configs = {(one.model.recipe, one.model.activation, one.model.config) for one in both.networks}
    assert len({one[:2] for one in configs}) == len(configs)


def outcomes(run: Run) -> tuple[str, bytes]:
    """What a file of results holds of a run: its manifest, and which images are classified correctly and broken."""
    table = run.records.sort_values(["sample_id", "attack", "eps"])
    correct = (table["clean_prediction"] == table["label"]).to_numpy(bool)
    return run.manifest.model_dump_json(), np.stack([correct, table["broken"].to_numpy(bool)]).tobytes()
