"""`satbench compare`: two runs image by image, against counts by hand and SciPy."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting.made import AA, EPS, PGD, MakeRun, first, known, make_run, trust
from scipy.stats import binomtest
from typer.testing import CliRunner, Result

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.reporting.comparison import NOISE
from satbench.reporting.paired import Comparison, Figure, compare_runs
from satbench.results.metrics import mcnemar, paired_interval, samples_needed, wilson
from satbench.results.store import Run, write_run

__all__ = ["make_run"]
PGD_8 = f"robust accuracy at Linf 8/255 under {'PGD-50'}"


def one(make_run: MakeRun, robust: list[bool], name: str = "relu", clean: list[bool] | None = None, **more: Any) -> Run:
    return make_run(name, clean or first(len(robust), len(robust)), {(PGD, "Linf", EPS): robust}, **more)


def compare(*runs: Run | Path, words: tuple[str, ...] = ()) -> Result:
    paths = [str(run.path if isinstance(run, Run) else run) for run in runs]
    return CliRunner().invoke(app, ["compare", *paths, *words])


def figure(compared: Comparison, quantity: str) -> Figure:
    (found,) = [item for item in compared.figures if item.quantity == quantity]
    return found


def test_a_planted_difference_is_counted_and_called(make_run: MakeRun) -> None:
    """Of 200 images A alone stands on 40..79, B alone on 0..9, both on 10..39."""
    ours = one(make_run, [10 <= i < 80 for i in range(200)], "silu")
    theirs = one(make_run, [i < 40 for i in range(200)])
    found = figure(compare_runs(ours, theirs), PGD_8)
    assert (found.pair.n, found.right_a, found.right_b) == (200, 70, 40)
    assert (found.pair.only_a, found.pair.only_b) == (40, 10)
    assert found.pair.p_value == pytest.approx(binomtest(40, 50).pvalue)
    assert found.verdict == "higher"
    assert found.images_for(0.15) == samples_needed(0.15, 50 / 200)
    back = figure(compare_runs(theirs, ours), PGD_8)
    assert (back.verdict, back.pair.difference) == ("lower", -0.15)
    low, high = found.interval
    assert back.interval == pytest.approx((-high, -low))
    assert 0 < low < 0.15 < high


def test_a_difference_is_noise_unless_the_exact_test_rejects(make_run: MakeRun) -> None:
    """Five images on one side have p = 2 / 2^5, six 2 / 2^6; the score interval excludes 0 for both."""
    theirs = one(make_run, first(50, 100))
    for more, verdict in ((5, NOISE), (6, "higher")):
        found = figure(compare_runs(one(make_run, first(50 + more, 100), "silu"), theirs), PGD_8)
        assert found.pair.p_value == pytest.approx(2 / 2**more)
        assert found.interval[0] > 0
        assert found.verdict == verdict


def test_every_shared_attack_and_their_worst_case_are_compared(make_run: MakeRun) -> None:
    """A second attack breaks images that the first left, so the worst case is below both."""
    other = "AutoAttackComponent(name='fab-t', unit=250)"
    even = [i % 2 == 0 for i in range(40)]
    ours = make_run("silu", first(38, 40), {(PGD, "Linf", EPS): first(30, 40), (AA, "Linf", EPS): even})
    outcomes = {
        (PGD, "Linf", EPS): first(20, 40),
        (AA, "Linf", EPS): even,
        (other, "Linf", EPS): first(1, 40),
        (PGD, "Linf", 2 * EPS): first(1, 40),
    }
    compared = compare_runs(ours, make_run("relu", first(36, 40), outcomes))
    prefix = "robust accuracy at Linf 8/255 under"
    assert [(item.quantity, item.pair.n, item.right_a, item.right_b) for item in compared.figures] == [
        ("clean accuracy", 40, 38, 36),
        (PGD_8, 40, 30, 20),
        (f"{prefix} AutoAttack standard", 40, 20, 20),
        (f"{prefix} worst case of AutoAttack standard, PGD-50", 40, 15, 10),
    ]


def test_only_shared_images_count_and_their_number_is_said(make_run: MakeRun) -> None:
    ours, theirs = one(make_run, first(30, 60), "silu"), one(make_run, [False] * 10 + first(20, 30))
    compared = compare_runs(ours, theirs)
    assert compared.shared == 40
    found = figure(compared, PGD_8)
    assert (found.pair.n, found.right_a, found.right_b) == (40, 30, 20)
    shown = compare(ours, theirs)
    assert "Compared on the 40 images that both have, of 60 in A and 40 in B." in shown.stdout
    whole = compare(ours, one(make_run, first(20, 60), "elu"))
    assert whole.exit_code == 0
    assert "Compared on" not in whole.stdout


def test_an_attack_that_some_images_missed_is_compared_on_the_others(make_run: MakeRun) -> None:
    whole, run = one(make_run, first(30, 40)), one(make_run, first(20, 40), "silu")
    kept = run.records[(run.records["sample_id"] != "test/00000")]
    extra = run.records.assign(attack=AA)
    timing = pd.read_parquet(run.path / "timing.parquet")
    manifest = run.manifest.model_copy(update={"attacks": [*run.manifest.attacks, known(AA)]})
    cut = write_run(run.path, manifest, pd.concat([extra, kept], ignore_index=True), timing)
    compared = compare_runs(whole, cut)
    assert compared.shared == 40
    assert [item.pair.n for item in compared.figures] == [40, 39]


def test_the_printed_table_has_the_counts_intervals_and_words(make_run: MakeRun) -> None:
    ours = one(make_run, [10 <= i < 80 for i in range(200)], "silu", trust=trust("suspicious", "it stays at 12%"))
    theirs = one(make_run, first(40, 200))
    shown = compare(ours, theirs, words=("--points", "2", "--verbose"))
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(
        "A: digits-cnn silu seed 0, 200 images of digits/test, trust suspicious: growing eps: it stays at 12%"
    )
    assert "trust not checked" in lines[2]
    (line,) = [line for line in lines if line.startswith(f"| {PGD_8}")]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[1] == "200"
    for cell, right in ((cells[2], 70), (cells[3], 40)):
        rate, low, high = (float(part.strip("[],")) for part in cell.split())
        expected = wilson(right, 200)
        assert rate == right / 2
        assert 0 <= 100 * expected[0] - low < 0.1
        assert 0 <= high - 100 * expected[1] < 0.1
    low, high = (
        100 * bound for bound in paired_interval(mcnemar([True] * 40 + [False] * 160, [False] * 190 + [True] * 10))
    )
    gap, *bounds = (float(part.strip("[],")) for part in cells[4].split())
    assert gap == 15.0
    assert (bounds[0], bounds[1]) == pytest.approx((low, high), abs=0.1)
    assert cells[5:7] == ["40", "10"]
    assert float(cells[7]) == pytest.approx(binomtest(40, 50).pvalue, rel=0.05)
    assert cells[8:] == ["higher", str(samples_needed(0.15, 0.25))]
    (words,) = [line for line in lines if line.startswith(f"- {PGD_8}: A is higher than B (+15.0 points")]
    assert f"{samples_needed(0.15, 0.25):,} images would settle a difference of this size" in words
    assert words.endswith(f"and {samples_needed(0.02, 0.25):,} images would settle one of 2 points.")
    assert "- clean accuracy: A against B is inside the noise (0.0 points" in shown.stdout
    assert f"; {samples_needed(0.02, 0.02):,} images would settle one of 2 points." in shown.stdout
    assert "there is nothing to settle" in compare(ours, theirs, words=("--verbose",)).stdout
    assert "Tango" in shown.stdout
    assert "Connor 1987" in shown.stdout


def test_runs_that_share_no_attack_are_compared_as_they_are(make_run: MakeRun) -> None:
    other = make_run("silu", first(9, 10), {(PGD, "Linf", 2 * EPS): first(4, 10)})
    shown = compare(one(make_run, first(5, 10)), other)
    assert "share no attack at the same threat" in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("clean accuracy: A against B")


def test_other_pixels_labels_and_names_are_refused_in_one_line(make_run: MakeRun, tmp_path: Path) -> None:
    ours = one(make_run, first(5, 10))
    renamed = ours.records.assign(sample_id=[f"val/{i:05d}" for i in range(10)])
    relabelled = ours.records.assign(label=[2] + [1] * 9)
    timing = pd.read_parquet(ours.path / "timing.parquet")
    others = {
        "different pixels for 10 of 10 images": one(make_run, first(5, 10), "silu", hashed="other", dataset="mnist"),
        "no image in common": write_run(tmp_path / "names", ours.manifest, renamed, timing),
        "different labels for 1 of 10 images of the same name, first test/00000": write_run(
            tmp_path / "labels", ours.manifest, relabelled, timing
        ),
    }
    for hint, other in others.items():
        with pytest.raises(BadInput, match=hint):
            compare_runs(ours, other)
        shown = compare(ours, other)
        assert (shown.exit_code, shown.stdout) == (2, "")
        (line,) = shown.stderr.splitlines()
        assert line.startswith("satbench: ")
        assert "compare runs on the same data" in line


@pytest.mark.parametrize("points", ["0", "-1", "101", "nan"])
def test_bad_points_and_missing_or_equal_runs_are_refused(points: str, make_run: MakeRun, tmp_path: Path) -> None:
    ours = one(make_run, first(5, 10))
    for shown, hint in (
        (compare(ours, ours, words=("--points", points)), "--points"),
        (compare(ours, tmp_path / "nowhere"), "satbench eval"),
        (compare(ours, ours.path / ".." / ours.path.name), "are one run; compare it with another"),
    ):
        assert shown.exit_code == 2, shown.output
        assert hint in shown.stderr.splitlines()[-1]
        assert shown.stderr.count("\n") == 1
