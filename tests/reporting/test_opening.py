"""The first sentence of a report, and what its page shows of models that nothing is compared with."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from satbench.reporting import page
from satbench.reporting.joined import join_runs
from satbench.reporting.method_table import method_table
from satbench.reporting.opening import of_lines, of_methods
from satbench.reporting.results_file import StudyResults
from satbench.reporting.summary import summarise
from satbench.reporting.table_forms import first_columns, readable
from satbench.reporting.tables import Line, accuracy_table
from satbench.reporting.verdict import comparisons
from satbench.results.store import Run

from .made import EPS, PGD, MakeRun, first, trust


def lines(*runs: Run) -> Sequence[Line]:
    return accuracy_table(summarise(runs))


def silu(make_run: MakeRun, radii: Sequence[float] = (1, 2), **about: object) -> Run:
    outcomes = {(PGD, "Linf", radius * EPS): first(int(60 / radius), 100) for radius in radii}
    return make_run("silu", first(90, 100), outcomes, **about)


def test_one_model_is_described_at_each_radius(make_run: MakeRun) -> None:
    """Wilson's intervals of 90, 60 and 30 of 100."""
    said = of_lines(lines(silu(make_run, trust=trust("suspicious", "doubt", "square"))))
    assert said == (
        "digits-cnn silu has a clean accuracy of 90.0% [82.5, 94.5], and a robust accuracy under PGD-50 of "
        "60.0% [50.2, 69.1] at Linf 8/255 and 30.0% [21.8, 39.6] at Linf 16/255 "
        "(n = 100 images of digits/test, 1 seed). Trust: suspicious (try square)."
    )


def test_of_many_radii_the_smallest_and_the_largest_are_named(make_run: MakeRun) -> None:
    said = of_lines(lines(silu(make_run, (0.5, 1, 2, 3, 4, 6))))
    assert "at Linf 4/255 and " in said
    assert "at Linf 48/255 (n" in said
    assert "Linf 16/255" not in said


def test_models_that_were_not_compared_stand_side_by_side(make_run: MakeRun) -> None:
    def only(name: str, right: int) -> Run:
        outcomes = {(PGD, "Linf", EPS): first(right, 100)}
        return make_run(name, first(90, 100), outcomes, seed=None, recipe=None, config=None, label=f"net {name}")

    said = of_lines(lines(only("elu", 30), only("gelu", 60)))
    assert said == (
        "Robust accuracy at Linf 8/255 under PGD-50 is 60.0% [50.2, 69.1] for net gelu gelu and 30.0% [21.8, 39.6] "
        "for net elu elu (n = 100 images of digits/test, 1 seed)."
    )
    many = of_lines(
        lines(*(only(name, 30 + place) for place, name in enumerate(("elu", "gelu", "relu", "mish", "celu"))))
    )
    assert "34.0% [" in many
    assert ", the highest and the lowest of 5 models (" in many


def methods_sentence(make_run: MakeRun, right: dict[tuple[str, str], int]) -> str:
    """Of networks by method and activation, of which so many images of 200 are right under attack."""
    runs = []
    for (method, activation), count in right.items():
        recipe = "digits-cnn" if method == "pgd_at" else f"digits-cnn [method={method}]"
        names = {"recipe": recipe, "method": method, "family": recipe, "config": f"{recipe} {activation}"}
        outcomes = {(PGD, "Linf", EPS): first(count, 200)}
        runs.append(make_run(activation, first(190, 200), outcomes, digest=f"{recipe} {activation}", **names))
    table = method_table(join_runs(runs), comparisons(join_runs(runs), "relu", every=True)[0], "relu")
    assert table is not None
    return of_methods(table)


def test_methods_are_one_sentence(make_run: MakeRun) -> None:
    """TRADES is better with both activations, MART with SiLU alone, in which SiLU is better."""
    right = {("pgd_at", "relu"): 80, ("trades", "relu"): 140, ("mart", "relu"): 81}
    right |= {("pgd_at", "silu"): 80, ("trades", "silu"): 140, ("mart", "silu"): 141}
    assert methods_sentence(make_run, right) == (
        "Of 2 methods, 2 have a higher robust accuracy at Linf 8/255 under PGD-50 than pgd_at (mart with silu; "
        "trades with every activation), none has a lower one; silu is higher than relu in 1 of 3 methods (mart)."
    )


@pytest.mark.parametrize(("silu", "said"), [(150, "higher than relu"), (81, "neither higher nor lower than relu")])
def test_one_method_with_two_activations_is_named(make_run: MakeRun, silu: int, said: str) -> None:
    right = {("pgd_at", "relu"): 80, ("pgd_at", "silu"): silu, ("trades", "relu"): 140}
    assert methods_sentence(make_run, right).endswith(f"; silu is {said} in pgd_at.")


def test_first_columns_leave_out_what_is_equal_in_all_lines(make_run: MakeRun) -> None:
    frame, words = first_columns(lines(silu(make_run, radii=(1,))))
    assert list(frame.columns) == ["model", "activation", "threat", "attack", "n", "clean %", "robust %", "trust"]
    assert words == "method pgd-at, data digits/test, seeds 1, violations 0"
    shown = lines(silu(make_run))
    frame, words = first_columns(shown)
    assert list(frame.columns) == ["threat", "clean %", "robust %"]
    said = "model digits-cnn, activation silu, method pgd-at, data digits/test, attack PGD-50, seeds 1, n 100"
    assert words == f"{said}, violations 0, trust not checked"
    assert set(frame.columns) < set(readable(shown).columns)


@pytest.mark.parametrize(("radii", "is_drawn"), [((1,), False), ((1, 2), True)])
def test_the_page_of_one_run_has_a_sentence_classes_and_curves_over_several_radii(
    make_run: MakeRun, tmp_path: Path, radii: tuple[float, ...], is_drawn: bool
) -> None:
    report = page.write_report(tmp_path / "r", StudyResults("T", (silu(make_run, radii),), {}))
    text = report.index.read_text()
    assert '<p class="headline">digits-cnn silu has a clean accuracy of 90.0%' in text
    assert 'data-label="class 1, n = 100">60.0 [50.2, 69.1]' in text
    assert ("robustness.svg" in {path.name for path in report.files}) is is_drawn
    assert "clean-against-robust.svg" not in {path.name for path in report.files}
    assert "Which activation is better?" not in text
    assert "above" not in "".join(text.split('alt="')[1:2])
    assert "1 seeds" not in text
    assert "1 lines" not in text
    assert "1 runs" not in text
