"""Networks with random predictions in tables: majority votes, weighted accuracy, gradients that were not finite."""

import csv
import io
import json

import numpy as np
import pytest

from satbench.reporting.leaderboard import build
from satbench.reporting.summary import Row, summarise
from satbench.reporting.table_forms import readable, to_csv, to_latex, to_markdown
from satbench.reporting.tables import accuracy_table
from satbench.results.metrics import WORST, wilson

from .made import AA, EPS, PGD, MakeRun, first

FIFTHS = [1.0, 0.8, 0.6, 0.4, 0.0]


def random_rows(make_run: MakeRun, **more: object) -> list[Row]:
    """Five images of which 5, 4, 3, 2 and 0 of 5 passes are right: three stand by majority, 14 of 25 by weight."""
    outcomes = {(PGD, "Linf", EPS): first(3, 5)}
    return summarise([make_run("silu", first(5, 5), outcomes, draws=5, shares=FIFTHS, **more)])


def test_weighted_accuracy_is_the_mean_share_with_an_interval(make_run: MakeRun) -> None:
    table = accuracy_table(random_rows(make_run))
    (line,) = map(vars, table)
    assert line["robust"] == 0.6
    assert line["weighted"] == pytest.approx(14 / 25)  # shares are float32
    assert (line["weighted_lo"], line["weighted_hi"]) == pytest.approx(wilson(14 / 5, 5))
    (cells,) = readable(table).to_dict("records")
    assert cells["weighted robust %"].startswith("56.0 [" if line["weighted"] >= 0.56 else "55.9 [")
    text = to_markdown(table)
    assert "digits-cnn silu: a prediction is the majority of 5 passes." in text
    assert "Weighted robust accuracy" in text
    assert "weighted" in to_latex(table)


def test_the_smallest_share_over_attacks_counts(make_run: MakeRun) -> None:
    other = make_run("silu", first(5, 5), {(AA, "Linf", EPS): first(4, 5)}, draws=5, shares=[0.2, 1.0, 1.0, 0.4, 0.0])
    mine = make_run("silu", first(5, 5), {(PGD, "Linf", EPS): first(3, 5)}, draws=5, shares=FIFTHS)
    (worst,) = [row for row in summarise([mine, other]) if row.attack == WORST]
    assert worst.weighted == pytest.approx((0.2 + 0.8 + 0.6 + 0.4 + 0.0) / 5)


def test_seeds_are_averaged_and_the_column_is_missing_without_votes(make_run: MakeRun) -> None:
    rows = [row for seed in range(2) for row in random_rows(make_run, seed=seed)]
    (line,) = map(vars, accuracy_table(rows))
    assert (line["seeds"], line["weighted"]) == (2, pytest.approx(14 / 25))
    plain = summarise([make_run("relu", first(5, 5), {(PGD, "Linf", EPS): first(3, 5)})])
    assert plain[0].weighted is None
    assert "weighted robust %" not in readable(accuracy_table(plain)).columns
    assert "majority" not in to_markdown(accuracy_table(plain))
    both = accuracy_table([*rows, *plain])
    assert readable(both)["weighted robust %"].tolist()[0] == "-"
    lines = list(csv.DictReader(io.StringIO(to_csv(both))))
    assert [line["weighted_percent"][:2] for line in lines] == ["", lines[1]["weighted_percent"][:2]]
    board = build([*rows, *plain])
    assert [row["weighted"] is None for row in json.loads(board["digits-Linf-8-255.json"])["boards"][0]["rows"]] == [
        row["activation"] == "relu" for row in json.loads(board["digits-Linf-8-255.json"])["boards"][0]["rows"]
    ]
    assert "weighted robust %" in board["digits-Linf-8-255.md"]


def test_the_interval_of_a_mean_share_covers_at_least_95_percent() -> None:
    """Shares of a skewed Beta(0.3, 0.2), mean 0.6; 4,000 samples of 60 have a standard error of 0.34 points."""
    shares = np.random.default_rng(0).beta(0.3, 0.2, size=(4000, 60))
    intervals = [wilson(float(row.sum()), 60) for row in shares]
    covered = np.mean([low <= 0.6 <= high for low, high in intervals])
    assert covered >= 0.95 - 3 * 0.0034


def test_gradients_that_were_not_finite_are_noted_with_their_count(make_run: MakeRun) -> None:
    outcomes = {(PGD, "Linf", EPS): first(3, 5), (AA, "Linf", EPS): first(3, 5)}
    rows = summarise([make_run("silu", first(5, 5), outcomes, bad_gradients=[1, 3])])
    assert {row.attack: row.bad_gradients for row in rows} == {PGD: 2, AA: 2, WORST: 2}
    text = to_markdown(accuracy_table(rows))
    assert "digits-cnn silu, Linf 8/255, PGD-50: a gradient was not finite for 2 images" in text
    plain = summarise([make_run("silu", first(5, 5), outcomes)])
    assert "not finite" not in to_markdown(accuracy_table(plain))
