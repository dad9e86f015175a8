"""Methods by activations: which cells there are, what is called separable, and figures that can be computed again."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from satbench.reporting import page, plots
from satbench.reporting.joined import join_runs
from satbench.reporting.method_table import (
    MethodTable,
    accuracies,
    in_words,
    method_differences,
    method_table,
    row_names,
)
from satbench.reporting.reported import reported_lines
from satbench.reporting.results_file import RESULTS_FILE, StudyResults, read_results
from satbench.reporting.trained import Trained, training_lines
from satbench.reporting.verdict import comparisons
from satbench.results.store import Run
from satbench.specs.study import Reported

from .made import EPS, PGD, runs_in

N = 200
RECIPES = {
    "digits-cnn": "pgd_at",
    "digits-cnn [budget.passes=9, method=trades, method.beta=3]": "trades",
    "digits-cnn [budget.passes=9, method=mart]": "mart",
}
# right answers of 200 under attack by recipe and activation: TRADES is 30 points better, MART 1 image, SiLU none or 30
RIGHT = {("pgd_at", "relu"): 80, ("trades", "relu"): 140, ("mart", "relu"): 81} | {
    ("pgd_at", "silu"): 80,
    ("trades", "silu"): 140,
    ("mart", "silu"): 141,
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three seeds that err on other images each, in the places that a fixed seed draws."""
    make_run, runs = runs_in(tmp_path_factory.mktemp("study")), []
    for recipe, method in RECIPES.items():
        for activation in ("relu", "silu"):
            for seed in range(3):
                ranks = np.random.default_rng(seed).permutation(N)
                right = (ranks < RIGHT[method, activation]).tolist()
                names = {"recipe": recipe, "method": method, "family": recipe, "config": f"{recipe} {activation}"}
                digest = f"{recipe} {activation} {seed}"
                outcomes = {(PGD, "Linf", EPS): right}
                runs.append(make_run(activation, (ranks < 190).tolist(), outcomes, seed=seed, digest=digest, **names))
    return runs


@pytest.fixture(scope="module")
def table(study: list[Run]) -> MethodTable:
    found = method_table(join_runs(study), comparisons(join_runs(study), "relu", every=True)[0], "relu")
    assert found is not None
    return found


def test_a_planted_difference_is_separable_and_one_image_is_not(table: MethodTable) -> None:
    assert [row.name for row in table.rows] == ["pgd_at", "mart", "trades beta=3"]
    found = method_differences(table, table.robust).set_index("method")
    assert list(found.columns) == ["silu against relu", "relu, against pgd_at", "silu, against pgd_at"]
    assert found.loc["trades beta=3", "relu, against pgd_at"].startswith("+30.0 [")
    assert found.loc["trades beta=3", "relu, against pgd_at"].endswith(": higher")
    assert found.loc["mart", "relu, against pgd_at"].startswith("+0.5 [")
    assert found.loc["mart", "relu, against pgd_at"].endswith(": inside the noise")
    assert found.loc["mart", "silu against relu"].endswith(": higher")
    assert found.loc["trades beta=3", "silu against relu"].endswith(": inside the noise")
    assert found.loc["pgd_at", "relu, against pgd_at"] == "-"
    said = in_words(table, table.robust)
    assert said[0].startswith(
        "silu against relu, robust accuracy at Linf 8/255 under PGD-50, in points: higher in 1: mart"
    )
    assert "; lower in 0; inside the noise in 2: " in said[0]
    assert "higher in 1: trades beta=3 +30.0 [" in said[1]
    assert all("higher in 0; lower in 0; inside the noise" in one for one in in_words(table, table.clean))


def test_p_values_of_methods_are_corrected_over_a_column_and_those_of_activations_over_a_line(
    table: MethodTable,
) -> None:
    assert {one.together for one in table.robust if one.is_change} == {2}
    assert {one.together for one in table.robust if not one.is_change} == {1}


@pytest.mark.left_out
def test_every_figure_can_be_computed_again_from_the_results(study: list[Run], tmp_path: Path) -> None:
    """By other code: the difference is a mean of differences, and with equal seeds its test is the paired t-test."""
    report = page.write_report(tmp_path / "report", StudyResults("Study", tuple(study), {}))
    bits: dict[tuple[str, str], list[list[bool]]] = {}
    for one in read_results(tmp_path / "report" / RESULTS_FILE).runs:
        model, records = one.manifest.model, one.records.sort_values("sample_id")
        assert len(records) == N
        bits.setdefault((model.method or "", model.activation or ""), []).append((~records["broken"]).tolist())
    assert {key: np.mean(rows) for key, rows in bits.items()} == {key: count / N for key, count in RIGHT.items()}
    text = report.index.read_text()
    assert text.index('id="methods"') < text.index('id="accuracy"')
    gap = np.array(bits["trades", "relu"]).astype(int) - np.array(bits["pgd_at", "relu"])
    assert gap.mean() == pytest.approx(0.3)
    assert ttest_1samp(gap.mean(axis=0), 0).pvalue < 1e-6
    assert "trades beta=3 +30.0 [" in text
    assert {"methods.png", "methods.svg", RESULTS_FILE} <= {path.name for path in report.files}


@pytest.mark.parametrize(
    ("title", "order"),
    [("Study", ["methods", "verdicts"]), ("Smooth activations against ReLU on photographs", ["verdicts", "methods"])],
    ids=["more methods than activations", "a plan that compares activations"],
)
def test_the_main_question_comes_first_and_is_not_folded(
    study: list[Run], title: str, order: list[str], tmp_path: Path
) -> None:
    text = page.write_report(tmp_path / "report", StudyResults(title, tuple(study), {})).index.read_text()
    assert sorted(order, key=lambda name: text.index(f'id="{name}"')) == order
    assert ("<summary>Each comparison in words" in text) == (order[0] == "methods")


def test_a_cell_holds_the_mean_over_seeds_and_a_missing_one_a_dash(study: list[Run]) -> None:
    runs = study[:-3]  # MART has no SiLU
    table = method_table(join_runs(runs), comparisons(join_runs(runs), "relu", every=True)[0], "relu")
    assert table is not None
    shown = accuracies(table, {"digits-cnn [budget.passes=9, method=mart]": "reconstruction"}).set_index("method")
    assert list(shown.columns) == ["follows", "relu robust %", "relu clean %", "silu robust %", "silu clean %"]
    assert shown.loc["mart", "silu robust %"] == shown.loc["pgd_at", "follows"] == "-"
    assert shown.loc["mart", "follows"] == "reconstruction"
    assert shown.loc["trades beta=3", "relu robust %"].startswith("70.0 [")
    robust, _ = plots.methods(table).axes
    assert [label.get_text() for label in robust.get_yticklabels()] == ["pgd_at", "mart", "trades beta=3"]
    drawn = sorted(container[0].get_xdata()[0] for container in robust.containers)
    assert drawn == pytest.approx([40, 40, 40.5, 70, 70])


def test_what_a_source_reports_shows_or_does_not(table: MethodTable) -> None:
    given = [Reported(method=method, expected="higher", source="a paper") for method in ("trades", "mart")]
    given.append(Reported(method="mart", accuracy="clean", expected="not lower", source="elsewhere"))
    given.append(Reported(method="trades", expected="lower", source="elsewhere"))
    lines = reported_lines(given, table)
    assert lines["method"].tolist() == ["trades beta=3", "mart", "mart", "trades beta=3"]
    assert lines["reported"].tolist()[2] == "clean accuracy not lower than that of pgd_at"
    relu = [cell.rpartition(": ")[2] for cell in lines["relu"]]
    assert relu == ["shows", "does not show, inside the noise", "not contradicted", "does not show, higher"]
    assert lines["relu"][0].startswith("+30.0 [")


def test_recipes_that_are_no_changes_of_one_keep_their_names() -> None:
    assert row_names({"a": "pgd_at", "b [method=mart]": "mart"}) == {"a": "a", "b [method=mart]": "b [method=mart]"}
    same = {"a": "pgd_at", "a [optimizer.lr=1]": "pgd_at"}
    assert row_names(same) == {"a": "pgd_at", "a [optimizer.lr=1]": "pgd_at optimizer.lr=1"}
    length = {"a": "pgd_at", "a [epochs=9]": "pgd_at"}
    assert row_names(length) == {recipe: recipe for recipe in length}


def test_one_recipe_makes_no_such_table(study: list[Run]) -> None:
    assert method_table(join_runs(study[:6]), comparisons(join_runs(study[:6]), "relu", every=True)[0], "relu") is None


def test_passes_stand_beside_the_budget() -> None:
    free, other = (Trained("free", "Shafahi", "authors' code", 27, 440, 432.0, taken) for taken in (432.0, 430.4))
    base = Trained("base", "", "", 20, None, None, None)
    lines = training_lines([free, other, base], {"base": "pgd_at", "free": "free", "gone": "gone"})
    assert lines.to_dict("records") == [
        dict(zip(lines.columns, ("pgd_at", "-", "-", "20", "-", "-", "-"), strict=True)),
        dict(zip(lines.columns, ("free", "Shafahi", "authors' code", "27", "440", "432", "430 to 432"), strict=True)),
    ]
