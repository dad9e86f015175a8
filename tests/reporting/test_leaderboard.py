import json
import random
from pathlib import Path

import pytest

from satbench.errors import BadInput
from satbench.reporting.leaderboard import INSEPARABLE, build, check, write
from satbench.reporting.summary import Row, summarise

from .made import AA, EPS, PGD, MakeRun, first


@pytest.fixture
def rows(make_run: MakeRun) -> list[Row]:
    both = {"relu": 100, "silu": 220, "gelu": 210}
    runs = [
        make_run(name, first(380, 400), {(a, "Linf", EPS): first(count + s, 400) for a in (PGD, AA)}, seed=s)
        for name, count in both.items()
        for s in range(2)
    ]
    runs.append(make_run("elu", first(380, 400), {(PGD, "Linf", EPS): first(300, 400)}))
    runs.append(make_run("elu", first(380, 400), {(PGD, "Linf", EPS): first(300, 400)}, split="val"))
    runs.append(make_run("relu", first(380, 400), {(PGD, "L2", 0.5): first(300, 400)}))
    return summarise(runs)


def test_ranks_evaluations_and_remarks(rows: list[Row]) -> None:
    files = build(rows)
    stems = ("digits-L2-0.5", "digits-Linf-8_255")
    assert sorted(files) == sorted([*(f"{s}.{e}" for s in stems for e in ("csv", "json", "md")), "index.html"])
    test, val = json.loads(files["digits-Linf-8_255.json"])["boards"]
    assert (test["split"], val["split"]) == ("test", "val")
    placed = [(row["rank"], row["activation"], row["remark"]) for row in test["rows"]]
    assert placed[:3] == [(1, "silu", "highest"), (2, "gelu", INSEPARABLE), (3, "relu", "")]
    assert placed[3][:2] == (4, "elu")
    assert placed[3][2].startswith("weaker evaluation")
    assert test["rows"][0]["evaluation"] == "worst case, AutoAttack included"
    assert test["rows"][3]["evaluation"] == "PGD"
    assert (test["rows"][0]["robust"], test["rows"][0]["seeds"], test["rows"][0]["n"]) == (441 / 800, 2, 400)
    assert "55.1,50.2,60.0" in files["digits-Linf-8_255.csv"]
    for name in ("digits-Linf-8_255.md", "index.html"):
        assert "55.1 [50.2, 60.0]" in files[name]
        assert INSEPARABLE in files[name]


def test_the_order_of_the_rows_does_not_matter(rows: list[Row]) -> None:
    expected = build(rows)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert build(rows) == expected


def test_check_names_changed_missing_and_stale_files(rows: list[Row], tmp_path: Path) -> None:
    assert len(check(tmp_path / "none", rows)) == len(build(rows))
    for name in ("baselines.yaml", "claims.yaml", "runs.json", "README.md"):
        (tmp_path / name).write_text("by hand")
    write(tmp_path, rows)
    assert check(tmp_path, rows) == []
    board = tmp_path / "digits-Linf-8_255.csv"
    board.write_bytes(board.read_bytes().replace(b"gelu", b"gelv", 1))
    (tmp_path / "index.html").unlink()
    (tmp_path / "digits-L1-12.json").write_text("{}")
    assert check(tmp_path, rows) == ["digits-L1-12.json", "digits-Linf-8_255.csv", "index.html"]
    write(tmp_path, rows)
    assert check(tmp_path, rows) == []
    assert not (tmp_path / "digits-L1-12.json").exists()
    assert (tmp_path / "runs.json").read_text() == (tmp_path / "baselines.yaml").read_text() == "by hand"


def test_no_rows_give_an_index_alone() -> None:
    assert list(build([])) == ["index.html"]
    assert "No results yet" in build([])["index.html"]


def test_data_sets_that_would_share_a_file_are_refused(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, dataset=d) for d in ("npz:a", "npz_a")]
    with pytest.raises(BadInput, match="npz_a-Linf-8_255"):
        build(summarise(runs))
