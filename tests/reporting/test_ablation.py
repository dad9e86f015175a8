"""The table of smooth derivatives behind ReLU."""

from satbench.reporting.ablation import ablation_table
from satbench.reporting.differences import main_question
from satbench.reporting.joined import join_runs
from satbench.reporting.method_table import MethodTable, method_table
from satbench.reporting.verdict import comparisons

from .made import MakeRun
from .test_claims import ATTACKER, OPTIMIZER, changed, study

BOTH = f"{ATTACKER}, {OPTIMIZER}"


def test_each_variant_has_its_accuracies_and_differences(make_run: MakeRun) -> None:
    runs = [*study(make_run, {"silu": 60}), *changed(make_run, {ATTACKER: 40, OPTIMIZER: 50, BOTH: 60, "epochs=2": 9})]
    found, _ = comparisons(join_runs(runs), "relu", every=True)
    table = ablation_table(found, main_question(found))
    assert sorted(table["smooth derivative for"]) == ["attacker", "attacker and optimizer", "none", "optimizer"]
    by_name = table.set_index("smooth derivative for")
    assert by_name.loc["attacker", "robust %"] == "46.8"  # 140 and 141 of 300
    assert by_name.loc["optimizer", "robust %"] == "50.1"  # 150 and 151
    assert by_name.loc["none", "difference in robust"] == "-"
    assert by_name.loc["attacker", "difference in robust"].startswith("+13.3 [")
    assert by_name.loc["attacker", "difference in robust"].endswith(": higher")
    assert by_name.loc["optimizer", "difference in clean"].startswith("0.0 [")
    assert set(by_name["n"]) == {"300"}


def test_without_variants_there_is_no_table(make_run: MakeRun) -> None:
    found, _ = comparisons(join_runs(study(make_run, {"silu": 60})), "relu", every=True)
    assert not len(ablation_table(found, main_question(found)))


def test_variants_are_no_methods(make_run: MakeRun) -> None:
    def table_of(changes: dict[str, int]) -> MethodTable | None:
        networks = join_runs([*study(make_run, {"silu": 60}), *changed(make_run, changes)])
        return method_table(networks, comparisons(networks, "relu", every=True)[0], "relu")

    assert table_of({ATTACKER: 40, BOTH: 60}) is None
    table = table_of({ATTACKER: 40, "method.steps=1": 20})
    assert table is not None
    assert ["steps=1" in row.name for row in table.rows] == [False, True]
    assert {one.activation for one in (*table.robust, *table.clean)} == {"silu", "relu [method.steps=1]"}
