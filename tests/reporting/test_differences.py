"""The result of a study in one sentence, one figure and a table."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from satbench.reporting import page, plots
from satbench.reporting.class_table import class_table
from satbench.reporting.comparison import Comparison
from satbench.reporting.differences import difference_table, main_question
from satbench.reporting.joined import join_runs
from satbench.reporting.opening import of_differences
from satbench.reporting.results_file import StudyResults
from satbench.reporting.verdict import comparisons
from satbench.results.metrics import wilson
from satbench.results.store import Run

from .made import AA, EPS, FGSM, PGD, first, runs_in

N = 400
CORRECT = {"relu": (200, 210), "silu": (240, 250), "gelu": (150, 161), "elu": (203, 205)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two seeds of four activations under PGD-50 and FGSM; AutoAttack on ReLU and SiLU alone; a changed recipe."""
    make_run = runs_in(tmp_path_factory.mktemp("study"))
    runs = [
        make_run(
            name,
            first(300, N),
            {(PGD, "Linf", EPS): first(count, N), (FGSM, "Linf", EPS): first(count + 5, N)},
            seed=seed,
        )
        for name, counts in CORRECT.items()
        for seed, count in enumerate(counts)
    ]
    runs += [
        make_run(name, first(100, 100), {(AA, "Linf", EPS): first(40, 100)}, seed=seed)
        for name in ("relu", "silu")
        for seed in range(2)
    ]
    changed = {"recipe": "digits-cnn [method.steps=1]", "family": "changed", "config": "changed"}
    for seed in range(2):
        outcomes = {(PGD, "Linf", EPS): first(100 + seed, N)}
        runs.append(make_run("relu", first(300, N), outcomes, seed=seed, digest=f"changed-{seed}", **changed))
    return runs


@pytest.fixture(scope="module")
def found(study: list[Run]) -> list[Comparison]:
    return comparisons(join_runs(study), "relu", every=True)[0]


def test_the_main_question_is_the_strongest_attack_that_compares_most(found: list[Comparison]) -> None:
    asked = main_question(found)
    assert [one.activation for one in asked] == ["elu", "gelu", "silu"]
    assert {one.quantity for one in asked} == {"robust accuracy at Linf 8/255 under PGD-50"}
    assert main_question([one for one in found if not one.threat]) == []
    changes = main_question([one for one in found if one.is_change])
    assert [(one.activation, one.of, one.against) for one in changes] == [
        ("relu [method.steps=1]", ("digits-cnn [method.steps=1]", "relu"), ("digits-cnn", "relu"))
    ]


def test_the_answer_names_every_comparison_with_its_interval(found: list[Comparison]) -> None:
    asked = main_question(found)
    silu = next(one for one in asked if one.activation == "silu")
    said = of_differences(asked)
    assert said.startswith("Robust accuracy at Linf 8/255 under PGD-50 is higher with silu (+10.0 points [")
    assert ") and lower with gelu (-12.3 points [" in said
    assert ") than with relu; with elu (-0.2 points [" in said
    assert said.endswith("]) the difference is not decided (n = 400 images, 2 seeds each).")
    changed = of_differences(main_question([one for one in found if one.is_change]))
    assert "is lower with relu [method.steps=1] (-26.1 points [" in changed
    open_ = of_differences([one for one in asked if one.activation == "elu"])
    assert open_.startswith(
        "No difference to relu in robust accuracy at Linf 8/255 under PGD-50 is decided: elu (-0.2 points ["
    )
    assert f"[{silu.low * 100:.0f}" in said


def test_the_answer_gives_the_range_of_many_open_differences(found: list[Comparison]) -> None:
    (elu,) = (one for one in main_question(found) if one.activation == "elu")
    many = [replace(elu, activation=name, difference=place / 100) for place, name in enumerate("abcde")]
    said = of_differences(many)
    assert re.search(
        r"is decided: from e \(\+4\.0 points \[[^]]*\]\) to a \(0\.0 points \[[^]]*\]\), 5 in all \(n = ", said
    )
    silu = next(one for one in main_question(found) if one.activation == "silu")
    assert "; with 5 others, from e (+4.0 points [" in of_differences([*many, silu])


def test_the_table_has_a_line_for_each_difference(found: list[Comparison]) -> None:
    table = difference_table(found)
    assert len(table) == len(found) == 3 * 3 + 1 + 2
    under_pgd = table[(table["activation"] == "silu") & table["quantity"].str.endswith("under PGD-50")].iloc[0]
    assert (under_pgd["accuracy %"], under_pgd["of reference %"]) == ("61.2", "51.2")
    assert (under_pgd["seeds"], under_pgd["n"], under_pgd["verdict"]) == ("2", "400", "higher")
    assert under_pgd["bootstrap"].startswith("[")


def test_the_figure_shows_each_difference_and_its_interval(found: list[Comparison]) -> None:
    asked = main_question(found)
    (axes,) = plots.differences(asked).axes
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == [
        "elu - relu\nn = 400, 2 seeds",
        "gelu - relu\nn = 400, 2 seeds",
    ]
    for one, drawn in zip(asked, axes.containers, strict=True):
        points, _, (bars,) = drawn
        assert points.get_xdata()[0] == pytest.approx(one.difference * 100)
        assert bars.get_segments()[0][:, 0] == pytest.approx([one.low * 100, one.high * 100])


def test_classes_are_means_over_seeds_of_the_models_that_met_the_attack(
    study: list[Run], found: list[Comparison]
) -> None:
    """All images of these runs have the label 1."""
    first = main_question(found)[0]
    assert first.threat is not None
    table = class_table(join_runs(study), first.images, first.threat, first.attacks)
    assert list(table.columns) == ["model", "activation", "seeds", "class 1, n = 400"]
    assert table["activation"].tolist() == ["elu", "gelu", "relu", "silu", "relu"]
    assert table["model"].tolist() == [*["digits-cnn"] * 4, "digits-cnn [method.steps=1]"]
    low, high = wilson(205, N)
    shown = f"51.2 [{math.floor(low * 1000) / 10}, {math.ceil(high * 1000) / 10}]"
    assert table["class 1, n = 400"].tolist()[2] == shown


def test_only_seeds_that_were_measured_at_a_radius_are_compared_at_it(tmp_path: Path) -> None:
    make_run = runs_in(tmp_path)
    runs = [
        make_run(a, first(300, N), {(PGD, "Linf", EPS): first(200, N)}, seed=s)
        for a in ("relu", "silu")
        for s in range(3)
    ]
    runs += [
        make_run(a, first(300, N), {(PGD, "Linf", 0.1): first(9, N)}, seed=s) for a in ("relu", "silu") for s in (0, 2)
    ]
    assert {one.threat: one.seeds for one in comparisons(join_runs(runs), "relu", every=True)[0] if one.threat} == {
        ("Linf", EPS): (0, 1, 2),
        ("Linf", 0.1): (0, 2),
    }


@pytest.mark.left_out
def test_the_page_begins_with_the_result(study: list[Run], tmp_path: Path) -> None:
    report = page.write_report(tmp_path / "report", StudyResults("Study", tuple(study), {}))
    text = report.index.read_text()
    assert text.index("under PGD-50 is higher with silu") < text.index("<img") < text.index('id="accuracy"')
    assert {"differences.png", "differences.svg"} <= {path.name for path in report.files}
    assert "All differences (12 lines)" in text
    alone = page.write_report(tmp_path / "alone", StudyResults("Study", tuple(study[:2]), {}))
    assert 'class="headline">Robust accuracy at Linf 8/255 under' not in alone.index.read_text()
