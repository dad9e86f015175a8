"""Accuracy under the union of several norms, joined image by image and counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from satbench.cli import app
from satbench.reporting import page, plots
from satbench.reporting.leaderboard import build, check, write
from satbench.reporting.results_file import StudyResults
from satbench.reporting.run_file import Entry, encoded, read_entry
from satbench.reporting.summary import Row, summarise
from satbench.reporting.table_forms import readable, to_markdown
from satbench.reporting.tables import accuracy_table
from satbench.results.metrics import UNION, WORST, wilson
from satbench.specs.attack import ids

from .made import AA, EPS, PGD, MakeRun, first

THREATS = [("L2", 0.5), ("Linf", EPS)]


def unions(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.norm == UNION]


def two_norms(make_run: MakeRun, **more: object) -> list[Row]:
    """Of 50 images, 5..29 stand in Linf and 0..19 in L2: 5..19 stand in both."""
    outcomes = {(PGD, "Linf", EPS): [5 <= i < 30 for i in range(50)], (PGD, "L2", 0.5): first(20, 50)}
    return summarise([make_run("silu", first(40, 50), outcomes, **more)])


def test_an_image_stands_in_the_union_if_it_stands_at_every_threat(make_run: MakeRun) -> None:
    rows = two_norms(make_run)
    (union,) = unions(rows)
    assert (union.n, union.clean_correct, union.robust, union.attack) == (50, 40, 15, PGD)
    assert [(one.norm, one.eps) for one in union.threats] == THREATS
    assert (union.forward, union.backward) == (2 * 40 * 51, 2 * 40 * 50)
    assert [row.robust for row in rows if row.norm != UNION] == [20, 25]


def test_every_attack_of_every_threat_counts_on_the_images_that_met_all(make_run: MakeRun) -> None:
    """AutoAttack in Linf alone, on the first 30 images, leaves the even ones: 6, 8, ... 18 stand everywhere."""
    outcomes = {(PGD, "Linf", EPS): [5 <= i < 30 for i in range(50)], (PGD, "L2", 0.5): first(20, 50)}
    stronger = {(AA, "Linf", EPS): [i % 2 == 0 for i in range(30)]}
    runs = [make_run("silu", first(40, 50), outcomes), make_run("silu", first(30, 30), stronger)]
    (union,) = unions(summarise(runs))
    assert (union.n, union.robust, union.attack, ids(union.attacks)) == (30, 7, WORST, (AA, PGD))


@pytest.mark.parametrize(
    "threats",
    [[("Linf", EPS)], [("Linf", EPS), ("Linf", 2 * EPS)], [("L2", 0.5), ("Linf", EPS), ("Linf", 2 * EPS)]],
)
def test_one_norm_and_several_radii_of_a_norm_have_no_union(
    make_run: MakeRun, threats: list[tuple[str, float]]
) -> None:
    run = make_run("silu", first(9, 10), {(PGD, norm, eps): first(5, 10) for norm, eps in threats})
    assert unions(summarise([run])) == []


def test_norms_of_different_runs_are_not_joined(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(9, 10), {(PGD, norm, eps): first(5, 10)}) for norm, eps in THREATS]
    assert unions(summarise(runs)) == []


def test_images_that_no_threat_shares_have_no_union(make_run: MakeRun) -> None:
    run = make_run("silu", first(9, 10), {(PGD, norm, eps): first(5, 10) for norm, eps in THREATS})
    is_early, is_l2 = run.records["sample_id"] < "test/00005", run.records["norm"] == "L2"
    assert len(unions(summarise([run]))) == 1
    assert unions(summarise([replace(run, records=run.records[is_early == is_l2])])) == []


def test_tables_show_the_union_with_n_and_interval_over_seeds(make_run: MakeRun) -> None:
    rows = [row for seed in range(2) for row in two_norms(make_run, seed=seed)]
    text = readable(accuracy_table(rows))
    assert text["threat"].tolist() == ["L2 0.5", "Linf 8/255", "union of L2 0.5, Linf 8/255"]
    union = text.iloc[2]
    low, high = wilson(15, 50)
    assert (union["robust %"].split()[0], union["n"], union["seeds"]) == ("30.0", "50", "2")
    bounds = [float(part.strip("[],")) / 100 for part in union["robust %"].split()[1:]]
    assert bounds == pytest.approx([low, high], abs=0.001)
    assert "against every attack at each of the threats" in to_markdown(accuracy_table(rows))
    assert "union" not in to_markdown(accuracy_table([row for row in rows if row.norm != UNION]))


def test_the_page_has_the_union_in_its_headline_and_no_curve_of_it(make_run: MakeRun, tmp_path: Path) -> None:
    outcomes = {(PGD, "Linf", EPS): first(30, 50), (PGD, "L2", 0.5): first(20, 50)}
    run = make_run("silu", first(40, 50), outcomes)
    text = page.write_report(tmp_path / "r", StudyResults("T", (run,), {})).index.read_text()
    headline = text[text.index('class="headline"') :].partition("</p>")[0]
    assert "40.0% [27.6, 53.9] at union of L2 0.5, Linf 8/255" in headline
    assert len(plots.robustness_curves(summarise([run])).axes) == 2
    assert len(plots.clean_against_robust(summarise([run])).axes) == 1


def test_a_union_has_a_leaderboard_of_its_own(make_run: MakeRun, tmp_path: Path) -> None:
    rows = two_norms(make_run)
    (tmp_path / "counts.txt").write_text(encoded(Entry(rows=tuple(rows))))
    assert list(read_entry(tmp_path / "counts.txt").rows) == rows
    write(tmp_path, build(rows))
    stored = json.loads((tmp_path / "digits-union-of-L2-0.5-Linf-8-255.json").read_text())
    assert stored["title"] == "digits, union of L2 0.5, Linf 8/255"
    assert [row["robust"] for row in stored["boards"][0]["rows"]] == [0.3]
    assert check(tmp_path, build(rows)) == []
    alone = [row for row in rows if row.norm != UNION]
    assert check(tmp_path, build(alone))
    write(tmp_path, build(alone))
    assert not list(tmp_path.glob("*union*"))


def test_the_report_command_has_the_union(make_run: MakeRun, tmp_path: Path) -> None:
    outcomes = {(PGD, "Linf", EPS): first(30, 50), (PGD, "L2", 0.5): first(20, 50)}
    run = make_run("silu", first(40, 50), outcomes)
    done = CliRunner().invoke(app, ["report", str(run.path), "--out", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    assert "union of L2 0.5, Linf 8/255" in (tmp_path / "report" / "table.md").read_text()
