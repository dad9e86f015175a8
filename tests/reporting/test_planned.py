"""What a study planned to test, and what its page says of everything else."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from satbench.core.errors import BadInput
from satbench.core.parsing import parsed
from satbench.core.strict_yaml import read_mapping
from satbench.reporting.ablation import ablation_table
from satbench.reporting.claims_file import Plan, read_claims
from satbench.reporting.comparison import Comparison
from satbench.reporting.differences import difference_cell, difference_table, main_question
from satbench.reporting.joined import attacks_of, join_runs
from satbench.reporting.page import write_report
from satbench.reporting.planned import PLAN_NOTE, with_roles
from satbench.reporting.results_file import StudyResults
from satbench.reporting.verdict import comparisons
from satbench.results.store import Run

from .made import AA, EPS, PGD, MakeRun, first, runs_in

N = 400
WEAK = PGD.replace("steps=50", "steps=10")
ATTACKER = "digits-cnn [surrogate.attacker=True]"
PLAN = {"threat": {"norm": "Linf", "eps": "8/255"}, "primary": "pgd:steps=50", "secondary": ["clean", "autoattack"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """AutoAttack has more comparisons than PGD-50, which was planned as the primary attack."""
    make_run: MakeRun = runs_in(tmp_path_factory.mktemp("runs"))
    found = []
    for place, (name, recipe) in enumerate(
        [("relu", "digits-cnn"), ("silu", "digits-cnn"), ("gelu", "digits-cnn"), ("relu", ATTACKER)]
    ):
        about = {"recipe": recipe, "family": recipe, "config": f"{recipe} {name}"}
        for seed in range(2):
            robust = first(100 + 20 * place + seed, N)
            outcomes = {(AA, "Linf", EPS): robust, (WEAK, "Linf", EPS): robust, (PGD, "Linf", EPS / 2): robust}
            outcomes |= {} if name == "gelu" else {(PGD, "Linf", EPS): robust}
            found.append(make_run(name, first(300, N), outcomes, seed=seed, digest=f"{name} {recipe} {seed}", **about))
    return found


@pytest.fixture(scope="module")
def marked(runs: list[Run]) -> list[Comparison]:
    found, _ = comparisons(join_runs(runs), "relu", every=True)
    return with_roles(found, parsed(Plan, PLAN, "plan"), attacks_of(runs))


def test_the_plan_decides_what_is_tested(marked: list[Comparison]) -> None:
    roles = {(one.activation, one.quantity.removeprefix("robust accuracy at ")): one.role for one in marked}
    changed = "relu [surrogate.attacker=True]"
    assert {key: role for key, role in roles.items() if role != "described"} == {
        ("silu", "Linf 8/255 under PGD-50"): "primary",
        (changed, "Linf 8/255 under PGD-50"): "secondary",
        ("silu", "clean accuracy"): "secondary",
        ("gelu", "clean accuracy"): "secondary",
        ("silu", "Linf 8/255 under AutoAttack standard"): "secondary",
        ("gelu", "Linf 8/255 under AutoAttack standard"): "secondary",
    }
    assert len(roles) > 6
    assert [one.role for one in marked] == sorted(
        (one.role for one in marked), key=["primary", "secondary", "described"].index
    )


def test_the_primary_attack_is_the_main_question(runs: list[Run], marked: list[Comparison]) -> None:
    asked = main_question(marked)
    assert {(one.activation, one.quantity) for one in asked} == {("silu", "robust accuracy at Linf 8/255 under PGD-50")}
    unplanned = main_question(comparisons(join_runs(runs), "relu", every=True)[0])
    assert {one.quantity for one in unplanned} == {"robust accuracy at Linf 8/255 under AutoAttack standard"}


def test_what_was_not_planned_has_no_p_value(marked: list[Comparison]) -> None:
    table = difference_table(marked)
    described = table["planned as"] == "described"
    assert set(table["p"][described]) == set(table["verdict"][described]) == {"-"}
    assert not set(table["p"][~described]) & {"-"}
    one = next(one for one in marked if one.role == "described")
    assert "p =" not in difference_cell(one)
    assert one.verdict == "described"
    (_, line) = ablation_table(marked, main_question(marked)).to_dict("records")
    assert "p =" in line["difference in robust"]
    assert "p =" not in line["difference in clean"]


@pytest.mark.left_out
def test_a_page_of_a_planned_study_tests_what_was_planned(runs: list[Run], tmp_path: Path) -> None:
    title = "Smooth activations against ReLU on photographs"
    pages = {
        name: write_report(tmp_path / str(place), StudyResults(name, tuple(runs), {})).index.read_text()
        for place, name in enumerate((title, "another"))
    }
    assert PLAN_NOTE in pages[title]
    assert PLAN_NOTE not in pages["another"]
    assert "worst case of AutoAttack" in pages["another"]
    assert "Criteria that were fixed in advance" in pages[title]
    assert "Criteria" not in pages["another"]
    assert "an upper bound. Trust battery" in pages[title]
    assert "an upper bound. Trust battery" not in pages["another"]  # where AutoAttack is the main question
    tested = pages[title].split("Which activation is better?")[1].split("All differences")[0]
    headings = re.findall("<h3>(.*)</h3>", tested)
    robust = "Robust accuracy at Linf 8/255 under "
    assert headings == [f"{robust}PGD-50", "Clean accuracy", f"{robust}PGD-10", f"{robust}AutoAttack standard"]
    assert "<li>silu against relu is higher: " in tested.partition("Clean accuracy")[0]
    assert "<li>gelu against relu is higher: " in tested.partition("under PGD-10")[2]
    assert "worst case" not in tested
    assert "Linf 4/255" not in tested


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan | {"primary": "pgdd"}, "unknown attack 'pgdd'"),
        (lambda plan: plan | {"primary": "clean"}, "unknown attack 'clean'"),
        (lambda plan: plan | {"secondary": ["pgd:step=3"]}, "step"),
        (lambda plan: plan | {"tertiary": []}, "unknown field"),
    ],
)
def test_a_wrong_plan_is_named(change: Callable[[dict[str, object]], dict[str, object]], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        parsed(Plan, change(PLAN), "plan")


def test_a_part_of_a_planned_study_with_changed_recipes_alone_has_a_page(runs: list[Run], tmp_path: Path) -> None:
    part = tuple(run for run in runs if run.manifest.model.recipe == ATTACKER)
    page = write_report(tmp_path / "part", StudyResults("Smooth activations against ReLU on photographs", part, {}))
    assert "not yet measured" in page.index.read_text()


def test_planned_studies_are_known_by_the_titles_of_their_files() -> None:
    studies = Path(__file__).parents[2] / "studies"
    for name, study in read_claims().studies.items():
        assert read_mapping(studies / f"{name}.yaml")["title"] == study.title
