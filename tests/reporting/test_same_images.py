"""Every attack on the images that met the strongest one."""

from pathlib import Path

import pandas as pd
import pytest

from satbench.reporting.differences import main_question
from satbench.reporting.joined import attacks_of, join_runs
from satbench.reporting.page import write_report
from satbench.reporting.results_file import StudyResults
from satbench.reporting.same_images import on_same_images
from satbench.reporting.verdict import comparisons
from satbench.results.store import Run

from .made import AA, EPS, PGD, MakeRun, first

ALL, FEW = 400, 100
EVEN = [place % 2 == 0 for place in range(ALL)]


def study(make_run: MakeRun, few: int = FEW, weak_seeds: int = 3) -> list[Run]:
    """PGD breaks every second image of ReLU, and of SiLU all but the first 60; AutoAttack met the first `few`."""
    found = []
    for name, under_pgd, right in (("relu", EVEN, 30), ("silu", first(60, ALL), 40)):
        for seed in range(weak_seeds):
            found.append(make_run(name, first(ALL, ALL), {(PGD, "Linf", EPS): under_pgd}, seed=seed))
        for seed in range(2):
            found.append(make_run(name, first(few, few), {(AA, "Linf", EPS): first(right, few)}, seed=seed))
    return found


def table_of(runs: list[Run]) -> pd.DataFrame:
    networks = join_runs(runs)
    found, _ = comparisons(networks, "relu", every=True)
    return on_same_images(networks, "relu", found, ("Linf", EPS), attacks_of(runs))


def test_a_weak_attack_is_limited_to_the_images_and_networks_of_the_strongest(make_run: MakeRun) -> None:
    runs = study(make_run)
    (asked,) = main_question(comparisons(join_runs(runs), "relu", every=True)[0])
    assert asked.attacks == (AA,)
    table = table_of(runs)
    assert list(table["quantity"]) == [
        "clean accuracy",
        "robust accuracy at Linf 8/255 under PGD-50",
        "robust accuracy at Linf 8/255 under AutoAttack standard",
    ]
    assert set(table["n"]) == {"100"}
    assert set(table["seeds"]) == {"2"}
    assert list(table["accuracy %"]) == ["100.0", "60.0", "40.0"]
    assert list(table["of reference %"]) == ["100.0", "50.0", "30.0"]  # on all images 50% against 15%
    assert table["difference"].str.partition(" [")[0].tolist() == ["0.0", "+10.0", "+10.0"]
    assert not {"p", "verdict"} & set(table)


def test_fewer_networks_are_reason_enough_and_the_same_of_both_is_none(make_run: MakeRun) -> None:
    assert len(table_of(study(make_run, few=ALL))) == 3
    assert not len(table_of(study(make_run, few=ALL, weak_seeds=2)))


@pytest.mark.left_out
def test_the_page_shows_it(make_run: MakeRun, tmp_path: Path) -> None:
    report = write_report(tmp_path / "few", StudyResults("T", tuple(study(make_run)), {}))
    assert "Every attack on the same images" in report.index.read_text()
    same = study(make_run, few=ALL, weak_seeds=2)
    assert (
        "Every attack on the same"
        not in write_report(tmp_path / "all", StudyResults("T", tuple(same), {})).index.read_text()
    )
