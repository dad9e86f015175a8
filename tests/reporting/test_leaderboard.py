import csv
import io
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.reporting.claims import claims_with_states
from satbench.reporting.claims_file import read_claims
from satbench.reporting.leaderboard import INSEPARABLE, build, check, write
from satbench.reporting.summary import Row, summarise
from satbench.reporting.summary_file import SUMMARY_VERSION, read_summary
from satbench.results.metrics import WORST

from .made import AA, EPS, PGD, MakeRun, first, trust


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


def some_verdicts(make_run: MakeRun) -> list[Row]:
    """The most robust model fails, the second is in doubt, the third was not checked."""
    verdicts = {
        "gelu": (390, trust("fail", "accuracy stays at 97.0% at eps 1")),
        "silu": (300, trust("suspicious", "Square is stronger than PGD", "square")),
        "relu": (200, None),
    }
    return summarise(
        [
            make_run(name, first(395, 400), {(PGD, "Linf", EPS): first(count, 400)}, trust=one)
            for name, (count, one) in verdicts.items()
        ]
    )


def test_a_fail_has_no_rank_and_a_doubt_is_marked(make_run: MakeRun) -> None:
    files = build(some_verdicts(make_run))
    (board,) = json.loads(files["digits-Linf-8_255.json"])["boards"]
    assert [(row["rank"], row["activation"], row["trust"]) for row in board["rows"]] == [
        (1, "silu", "suspicious"),
        (2, "relu", "not checked"),
    ]
    assert board["rows"][0]["remark"] == "highest"
    (apart,) = board["unranked"]
    assert (apart["rank"], apart["activation"], apart["reasons"]) == (
        None,
        "gelu",
        ["growing eps: accuracy stays at 97.0% at eps 1"],
    )
    lines = list(csv.DictReader(io.StringIO(files["digits-Linf-8_255.csv"])))
    assert [(line["rank"], line["activation"]) for line in lines] == [("1", "silu"), ("2", "relu"), ("", "gelu")]
    assert lines[2]["remark"].startswith("not ranked")
    for name in ("digits-Linf-8_255.md", "index.html"):
        ranked, failed, _ = files[name].partition("Not ranked" if name.endswith("md") else ": not ranked")
        assert "gelu" not in ranked
        assert "suspicious (try square)" in ranked
        assert failed
        assert files[name].count("accuracy stays at 97.0% at eps 1") == 1
        assert files[name].count("Square is stronger than PGD") == 1


def test_what_was_not_checked_keeps_its_rank_and_is_marked_with_the_reason(make_run: MakeRun) -> None:
    """A check without the power to fail is no doubt about the model's other rows, and less than a pass of its own."""
    weak = trust("not checked", "Square needs 900 more passes")
    runs = [
        make_run("silu", first(395, 400), {(PGD, "Linf", EPS): first(300, 400)}, trust=weak),
        make_run("relu", first(395, 400), {(PGD, "Linf", EPS): first(200, 400)}, trust=trust("pass")),
        make_run("gelu", first(395, 400), {(PGD, "Linf", EPS): first(250, 400)}, trust=weak),
        make_run("gelu", first(395, 400), {(AA, "Linf", EPS): first(240, 400)}, trust=trust("pass")),
    ]
    rows = summarise(runs)
    files = build(rows)
    (board,) = json.loads(files["digits-Linf-8_255.json"])["boards"]
    assert [(row["rank"], row["activation"], row["attack"], row["trust"]) for row in board["rows"]] == [
        (1, "gelu", "worst case of AutoAttack standard, PGD-50", "pass"),
        (2, "silu", "PGD-50", "not checked"),
        (3, "relu", "PGD-50", "pass"),
    ]
    single = build([row for row in rows if row.attack != WORST])["digits-Linf-8_255.json"]
    assert json.loads(single)["boards"][0]["rows"][0]["trust"] == "pass"
    assert "- digits-cnn silu, not checked: growing eps: Square needs 900 more passes" in files["digits-Linf-8_255.md"]
    assert files["digits-Linf-8_255.md"].count("not checked (no check was run, or") == 1


def test_one_failed_seed_or_run_takes_the_rank_of_the_model(make_run: MakeRun) -> None:
    outcomes = {attack: {(attack, "Linf", EPS): first(200, 400)} for attack in (PGD, AA)}
    seeds = [make_run("silu", first(395, 400), outcomes[PGD], seed=s, trust=trust("pass")) for s in range(2)]
    seeds.append(make_run("silu", first(395, 400), outcomes[PGD], seed=2, trust=trust("fail", "NaN")))
    stronger = make_run("silu", first(395, 400), outcomes[AA], trust=trust("pass"))
    for runs in (seeds, [*seeds, stronger]):
        (board,) = json.loads(build(summarise(runs))["digits-Linf-8_255.json"])["boards"]
        assert board["rows"] == []
        assert [row["reasons"] for row in board["unranked"]] == [["growing eps: NaN"]]
    assert "No run to rank" in build(summarise(seeds))["digits-Linf-8_255.md"]
    (board,) = json.loads(build(summarise(seeds[:2]))["digits-Linf-8_255.json"])["boards"]
    assert [row["rank"] for row in board["rows"]] == [1]


def test_a_fail_of_a_weaker_line_is_not_lost_behind_the_strongest(make_run: MakeRun) -> None:
    """A fail is a fault of the network; a doubt is about one number, and a stronger evaluation answers it."""
    for verdict, ranks in (("fail", []), ("suspicious", [1])):
        runs = [
            make_run("silu", first(9, 10), {(PGD, "Linf", EPS): first(5, 10)}, seed=1, trust=trust(verdict, "NaN")),
            make_run("silu", first(9, 10), {(AA, "Linf", EPS): first(4, 10)}, trust=trust("pass")),
        ]
        (board,) = json.loads(build(summarise(runs))["digits-Linf-8_255.json"])["boards"]
        assert [row["rank"] for row in board["rows"]] == ranks
        assert [row["trust"] for row in board["rows"]] == ["pass"] * len(ranks)


def test_stronger_words_come_first(make_run: MakeRun) -> None:
    attacks = {
        "gelu": f"Transfer(attack={AA}, source='b@01')",
        "relu": PGD,
        "elu": "AutoAttackComponent(name='apgd-t', unit=250)",
        "silu": "Rapid()",
        "softplus": "Cascade(unit=250)",
    }
    runs = [
        make_run(name, first(400, 400), {(attack, "Linf", EPS): first(350 - 10 * place, 400)})
        for place, (name, attack) in enumerate(attacks.items())
    ]
    (board,) = json.loads(build(summarise(runs))["digits-Linf-8_255.json"])["boards"]
    assert [row["activation"] for row in board["rows"]] == list(attacks)[::-1]
    assert all(row["remark"].startswith("weaker evaluation") for row in board["rows"][1:])


def test_the_command_says_which_added_run_gets_no_rank(make_run: MakeRun, tmp_path: Path) -> None:
    outcomes = {(PGD, "Linf", EPS): first(2, 4)}
    failed = make_run("silu", first(3, 4), outcomes, trust=trust("fail", "NaN"))
    passed = make_run("relu", first(3, 4), outcomes, trust=trust("pass"))
    words = ["leaderboard", "--dir", str(tmp_path / "boards")]
    done = CliRunner().invoke(app, [*words, "--add", str(failed.path), "--add", str(passed.path)])
    assert done.exit_code == 0, done.output
    assert done.stderr == "digits-cnn silu seed 0: listed without a rank, because its trust verdict is fail\n"
    (board,) = json.loads((tmp_path / "boards" / "digits-Linf-8_255.json").read_text())["boards"]
    assert [len(board[part]) for part in ("rows", "unranked")] == [1, 1]
    assert CliRunner().invoke(app, [*words, "--check"]).exit_code == 0


def test_the_committed_summary_is_of_this_version_and_its_pages_agree() -> None:
    folder = Path(__file__).parents[2] / "leaderboards"
    assert json.loads((folder / "runs.json").read_text())["schema_version"] == SUMMARY_VERSION
    claims = claims_with_states(read_claims(folder / "claims.yaml"), folder.parent / "reports")
    assert check(folder, read_summary(folder / "runs.json"), claims) == []
