import json
import random
from pathlib import Path

import pytest

from satbench.errors import BadInput
from satbench.reporting.names import short_name, short_names, strength
from satbench.reporting.rounding import down, inward, outward, up
from satbench.reporting.summary import Row, read_summary, summarise, write_summary
from satbench.results.metrics import WORST

from .made import AA, EPS, FGSM, PGD, MakeRun, first


def row_of(rows: list[Row], attack: str, eps: float = EPS) -> Row:
    (row,) = [row for row in rows if row.attack == attack and row.eps == eps]
    return row


def test_two_runs_of_one_model_are_joined(make_run: MakeRun) -> None:
    pgd = make_run("silu", first(9, 10), {(PGD, "Linf", EPS): first(6, 10)}, violations=[9])
    autoattack = make_run("silu", first(4, 4), {(AA, "Linf", EPS): [True, False, True, False]})
    rows = summarise([pgd, autoattack])
    assert len(rows) == 3
    assert [(row.n, row.clean_correct, row.robust) for row in (row_of(rows, PGD), row_of(rows, AA))] == [
        (10, 9, 6),
        (4, 4, 2),
    ]
    worst = row_of(rows, WORST)
    assert (worst.n, worst.clean_correct, worst.robust, worst.attacks) == (4, 4, 2, (AA, PGD))
    assert (row_of(rows, PGD).violations, worst.violations) == (1, 0)
    assert worst.eval_seeds == (0,)
    assert worst.versions == {"satbench": "0.1.0", "torch": "2.11.0"}
    assert summarise([autoattack, pgd]) == rows


def test_one_attack_has_no_worst_case_and_disjoint_ones_neither(make_run: MakeRun) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4), (AA, "Linf", 2 * EPS): first(1, 4)})
    assert [row.attack for row in summarise([run])] == [PGD, AA]
    halves = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4), (AA, "Linf", EPS): first(1, 4)})
    records = halves.records
    kept = records[(records["attack"] == PGD) == records["sample_id"].isin(["test/00000", "test/00001"])]
    apart = type(halves)(halves.path, halves.manifest, kept)
    assert {row.attack for row in summarise([apart])} == {PGD, AA}


def test_a_sample_with_several_records_is_broken_if_any_of_them_is(make_run: MakeRun) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    assert summarise([run, run]) == summarise([run])
    weaker = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(3, 4)})
    other_way = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): [False, True, True, False]})
    for runs in ([run, weaker], [weaker, run]):
        assert [(row.robust, row.n) for row in summarise(runs)] == [(2, 4)]
    assert [(row.robust, row.n) for row in summarise([run, other_way])] == [(1, 4)]


def test_changed_images_are_refused(make_run: MakeRun) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    other = make_run("silu", first(3, 4), {(AA, "Linf", EPS): first(2, 4)}, hashed="changed")
    with pytest.raises(BadInput, match="different images"):
        summarise([run, other])


def test_equal_weights_with_another_activation_stay_apart(make_run: MakeRun) -> None:
    runs = [make_run(name, first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, digest="same") for name in ("relu", "silu")]
    assert [row.activation for row in summarise(runs)] == ["relu", "silu"]


def test_summary_survives_the_disk_in_any_order(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(s, 4)}, seed=s) for s in range(3)]
    rows = summarise(runs)
    write_summary(tmp_path / "a.json", rows)
    assert read_summary(tmp_path / "a.json") == rows
    random.Random(0).shuffle(rows)
    write_summary(tmp_path / "b.json", rows)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("n", "4", "row 1, field 'n'"),
        ("n", True, "row 1, field 'n'"),
        ("robust", 5, "row 1, field 'counts'"),
        ("eps", -1, "row 1, field 'eps'"),
        ("extra", 1, "row 1, field 'extra'"),
        ("seed", 0, "same as an earlier row"),
    ],
)
def test_a_bad_summary_is_refused_by_row_and_field(
    make_run: MakeRun, tmp_path: Path, field: str, value: object, named: str
) -> None:
    path = tmp_path / "s.json"
    runs = [make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, seed=s, digest="d") for s in range(1)]
    runs += [make_run("silu", first(3, 4), {(PGD, "Linf", 2 * EPS): first(2, 4)}, seed=0, digest="d")]
    write_summary(path, summarise(runs))
    raw = json.loads(path.read_text())
    raw["rows"][1][field] = value
    if field == "seed":
        raw["rows"][1] = raw["rows"][0]
    path.write_text(json.dumps(raw))
    with pytest.raises(BadInput, match=named) as caught:
        read_summary(path)
    assert "s.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_missing_and_newer_summaries_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    with pytest.raises(BadInput, match="missing or damaged"):
        read_summary(path)
    for text, expected in (
        ("{", "damaged"),
        ("[]", "not an object"),
        ('{"schema_version": 9, "rows": []}', "version 9"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=expected):
            read_summary(path)


def test_attack_names() -> None:
    assert short_name(PGD) == "PGD-50"
    assert short_name(PGD.replace("restarts=1", "restarts=5")) == "PGD-50x5"
    assert short_name(FGSM) == "FGSM"
    assert short_name(AA) == "AutoAttack standard"
    assert short_name("AutoAttack(version='custom', components='apgd-ce+square')") == "AutoAttack custom apgd-ce+square"
    assert short_name("not a call (") == "not a call ("
    margin = PGD.replace("'ce'", "'margin'")
    assert short_names([PGD, margin, AA])[margin] == "PGD-50 (loss=margin)"
    assert strength([FGSM]) < strength([PGD]) < strength([FGSM, AA])


def test_rounding_favours_nobody() -> None:
    assert [down(0.58), down(0.7999), up(0.8001), up(1.0), down(0.0)] == ["58.0", "79.9", "80.1", "100.0", "0.0"]
    assert [inward(0.0299), inward(-0.0299), inward(-0.0004), inward(0.0)] == ["+2.9", "-2.9", "0.0", "0.0"]
    assert outward(-0.0121, 0.0121) == "[-1.3, 1.3]"
