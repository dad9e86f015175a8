import csv
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.reporting.details import Detail, packed
from satbench.reporting.examples import EACH
from satbench.reporting.leaderboard import build, check, write
from satbench.reporting.pictures import small
from satbench.reporting.published import PublishedLine
from satbench.reporting.ranking import headline, rankings
from satbench.reporting.summary import Row, Trusted, summarise
from satbench.reporting.tables import accuracy_table
from satbench.results.metrics import WORST

from .made import AA, EPS, PGD, MakeRun, first, known, picture, trust


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


def test_each_evaluation_has_a_list_with_the_ranks_that_intervals_leave_open(rows: list[Row]) -> None:
    files = build(rows)
    stems = ("digits-L2-0.5", "digits-Linf-8-255")
    pages = ["digits.html", "index.html"]
    assert sorted(files) == sorted([*(f"{s}.{e}" for s in stems for e in ("csv", "json", "md")), *pages])
    strong, weak, val = json.loads(files["digits-Linf-8-255.json"])["boards"]
    lists = [(one["split"], one["evaluation"]) for one in (strong, weak, val)]
    assert lists == [("test", "AutoAttack"), ("test", "PGD"), ("val", "PGD")]
    assert ranked(strong) == [(1, 2, "silu"), (1, 2, "gelu"), (3, 3, "relu")]
    assert ranked(weak) == [(1, 1, "elu"), (2, 3, "silu"), (2, 3, "gelu"), (4, 4, "relu")]
    assert strong["rows"][0]["attack"] == "worst case of AutoAttack standard, PGD-50"
    assert (strong["rows"][0]["robust"], strong["rows"][0]["seeds"], strong["rows"][0]["n"]) == (441 / 800, 2, 400)
    assert "55.1,50.2,60.0" in files["digits-Linf-8-255.csv"]
    assert "| 1-2 | digits-cnn | silu |" in files["digits-Linf-8-255.md"]
    for name in ("digits-Linf-8-255.md", "index.html", "digits.html"):
        assert "55.1 [50.2, 60.0]" in re.sub("</?(?:b|span)[^>]*>", "", files[name])


def ranked(board: dict[str, Any]) -> list[tuple[int, int, str]]:
    return [(row["rank"], row["rank_to"], row["activation"]) for row in board["rows"]]


def counted(place: int, robust: int) -> Row:
    """A row of 10,000 images; equal rows of different places are different models."""
    return Row(
        label=f"recipe-{place} relu",
        activation="relu",
        method="pgd-at",
        recipe=f"recipe-{place}",
        seed=0,
        trained_for=None,
        config=f"config-{place}",
        model_digest=f"sha256:{place}",
        dataset="digits",
        split="test",
        norm="Linf",
        eps=EPS,
        attack=AA,
        attacks=(known(AA),),
        n=10_000,
        clean_correct=9_000,
        robust=robust,
        violations=0,
        trust=Trusted(verdict="pass"),
        eval_seeds=(0,),
        data_digests=("sha256:data",),
        versions={"satbench": "0.1.0"},
        revision=None,
    )


def test_ranks_leave_open_what_intervals_do_not_separate() -> None:
    """Of chained intervals, the middle one overlaps both ends, and these do not overlap each other."""
    made = [counted(place, robust=count) for place, count in enumerate((5000, 4850, 4700, 1000))]
    (found,) = rankings(accuracy_table(made))
    assert [place.rank for place in found.places] == ["1-2", "1-3", "2-3", "4"]


def test_the_headline_says_who_is_ahead_only_where_it_is_separable() -> None:
    def said(*counts: int) -> str:
        (found,) = rankings(accuracy_table([counted(place, robust=one) for place, one in enumerate(counts)]))
        return headline(found)

    assert said(5000, 4000, 3000).startswith(
        "recipe-0 relu is ahead: robust accuracy 50.0% [49.0, 51.0] on 10000 images"
    )
    assert "its 95% interval lies above those of the other 2 models" in said(5000, 4000, 3000)
    assert said(5000, 4950, 3000).startswith("No model is separably ahead: recipe-0 relu has the highest")
    assert "overlaps with those of 1 of the 2 other models" in said(5000, 4950, 3000)
    assert "is the only ranked model" in said(5000)


def test_the_page_of_a_data_set_loads_nothing_and_stays_small(rows: list[Row]) -> None:
    """Everything is in the file, so no element names an address that a browser would load."""
    page = build(rows)["digits.html"]
    assert len(page.encode()) < 1_500_000
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"<(?:link|img|iframe)|\ssrc=|@import|url\((?!#)", markup)
    assert "default-src 'none'" in markup


def test_published_figures_stand_apart(rows: list[Row]) -> None:
    theirs = PublishedLine(
        "digits", "test", "Linf", "8/255", "theirs", 96.0, 60.0, "PGD-20", "a paper", "not measured here"
    )
    alone = PublishedLine("cifar10", "test", "L2", "0.5", "other", 90.0, None, "", "a paper", "not measured here")
    files = build(rows, (), [theirs, alone])
    table, _, apart = files["digits.html"].partition('<table class="published">')
    assert "theirs" not in re.sub(r"<script.*?</script>", "", table, flags=re.DOTALL)
    assert "published robust %" in apart
    assert "not measured here" in apart
    assert "theirs" not in files["digits-Linf-8-255.json"]
    assert "No model was measured here" in files["cifar10.html"]
    assert "cifar10-L2-0.5.json" not in files


def test_outcomes_of_images_are_joined_over_attacks_and_packed() -> None:
    outcomes = {("Linf 8/255", "a"): (True, True, False, None), ("Linf 8/255", "b"): (True, False, True, True)}
    detail = Detail(network="sha256:x", dataset="digits", split="test", outcomes=outcomes)
    joined = detail.standing("Linf 8/255", ["a", "b"])
    assert joined == (True, False, False, None)
    assert packed(joined) == {"stands": "gA==", "met": "4A=="}  # 1000 0000 and 1110 0000
    assert detail.standing("Linf 8/255", ["a", "c"]) is None
    assert detail.standing("Linf 4/255", ["a"]) is None


def models_of(page: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(re.findall('id="data">(.*?)</script>', page)[0])["models"]
    return found


@pytest.mark.left_out
def test_a_page_has_room_for_the_details_and_pictures_of_its_first_models() -> None:
    """1,000 models with evidence of 5 MB and pictures of 30 MB: the cards of the others say where these are."""
    examples = tuple(small(picture(32, 3, seed)) for seed in range(EACH))
    made = [counted(place, robust=5000 - place) for place in range(1000)]
    files = (("run file a", "runs/a"),)
    details = [
        Detail(one.model_digest, one.dataset, one.split, evidence=("x" * 5000,), examples=examples, downloads=files)
        for one in made
    ]
    page = build(made, details=details)["digits.html"]
    assert 2_500_000 < len(page.encode()) < 3_000_000
    shown = [model["details"][0] for model in models_of(page)]
    for part, least in (("examples", 5), ("evidence", 40)):
        has = [part in one for one in shown]
        assert has == sorted(has, reverse=True)
        assert least < sum(has) < 300
    assert [one.get("left_out") for one in shown] == [
        None if "examples" in one else "pictures" if "evidence" in one else "details" for one in shown
    ]
    assert all(one["downloads"] == [["run file a", "runs/a"]] for one in shown)


def test_a_page_of_few_models_has_everything() -> None:
    examples = tuple(small(picture(224, 3, seed)) for seed in range(EACH))
    made = [counted(place, robust=5000 - place) for place in range(5)]
    details = [Detail(one.model_digest, one.dataset, one.split, evidence=("x",), examples=examples) for one in made]
    shown = [model["details"][0] for model in models_of(build(made, details=details)["digits.html"])]
    assert [(len(one["examples"]), "left_out" in one) for one in shown] == [(EACH, False)] * 5


def test_a_page_of_another_program_is_kept(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("by hand")
    write(tmp_path, build(rows))
    assert (tmp_path / "notes.html").read_text() == "by hand"
    (tmp_path / "digits.html").write_text("by hand")
    with pytest.raises(BadInput, match=r"digits\.html is not a page of this satbench"):
        write(tmp_path, build(rows))
    assert (tmp_path / "digits.html").read_text() == "by hand"


def test_the_order_of_the_rows_does_not_matter(rows: list[Row]) -> None:
    expected = build(rows)
    for seed in range(5):
        random.Random(seed).shuffle(rows)
        assert build(rows) == expected


def test_check_names_changed_missing_and_stale_files(rows: list[Row], tmp_path: Path) -> None:
    assert len(check(tmp_path / "none", build(rows))) == len(build(rows))
    for name in ("baselines.yaml", "claims.yaml", "runs.json", "README.md"):
        (tmp_path / name).write_text("by hand")
    write(tmp_path, build(rows))
    assert check(tmp_path, build(rows)) == []
    board = tmp_path / "digits-Linf-8-255.csv"
    board.write_bytes(board.read_bytes().replace(b"gelu", b"gelv", 1))
    (tmp_path / "index.html").unlink()
    (tmp_path / "digits-L1-12.json").write_text("{}")
    assert check(tmp_path, build(rows)) == ["digits-L1-12.json", "digits-Linf-8-255.csv", "index.html"]
    write(tmp_path, build(rows))
    assert check(tmp_path, build(rows)) == []
    assert not (tmp_path / "digits-L1-12.json").exists()
    assert (tmp_path / "runs.json").read_text() == (tmp_path / "baselines.yaml").read_text() == "by hand"


def test_no_rows_give_an_index_alone() -> None:
    assert list(build([])) == ["index.html"]
    assert "No results yet" in build([])["index.html"]


def test_data_sets_that_would_share_a_file_are_refused(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, dataset=d) for d in ("npz:a", "npz-a")]
    with pytest.raises(BadInput, match="npz-a-Linf-8-255"):
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
    (board,) = json.loads(files["digits-Linf-8-255.json"])["boards"]
    assert [(row["rank"], row["activation"], row["trust"]) for row in board["rows"]] == [
        (1, "silu", "suspicious"),
        (2, "relu", "not checked"),
    ]
    (apart,) = board["unranked"]
    assert (apart["activation"], apart["reasons"]) == ("gelu", ["growing eps: accuracy stays at 97.0% at eps 1"])
    lines = list(csv.DictReader(io.StringIO(files["digits-Linf-8-255.csv"])))
    assert [(line["rank"], line["activation"]) for line in lines] == [("1", "silu"), ("2", "relu"), ("", "gelu")]
    ranked, failed, _ = files["digits-Linf-8-255.md"].partition("Not ranked")
    assert "gelu" not in ranked
    assert "suspicious (try square)" in ranked
    assert failed
    page = re.sub(r"<script.*?</script>", "", files["digits.html"], flags=re.DOTALL)
    assert '<td data-order="2">-</td><th scope="row"><a href="#test-Linf-8-255-PGD">digits-cnn</a><small>gelu' in page
    for text in (files["digits-Linf-8-255.md"], page):
        assert text.count("accuracy stays at 97.0% at eps 1") == 1
        assert text.count("Square is stronger than PGD") == 1


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
    strong, weak = json.loads(files["digits-Linf-8-255.json"])["boards"]
    assert [(row["rank"], row["activation"], row["trust"]) for row in strong["rows"]] == [(1, "gelu", "pass")]
    assert [(row["rank"], row["activation"], row["trust"]) for row in weak["rows"]] == [
        (1, "silu", "not checked"),
        (2, "gelu", "not checked"),
        (3, "relu", "pass"),
    ]
    single = build([row for row in rows if row.attack != WORST])["digits-Linf-8-255.json"]
    assert json.loads(single)["boards"][0]["rows"][0]["trust"] == "pass"
    assert "- digits-cnn silu, not checked: growing eps: Square needs 900 more passes" in files["digits-Linf-8-255.md"]
    assert files["digits-Linf-8-255.md"].count("not checked (no check was run, or") == 1


@pytest.mark.left_out
def test_one_failed_seed_or_run_takes_the_rank_of_the_model(make_run: MakeRun) -> None:
    outcomes = {attack: {(attack, "Linf", EPS): first(200, 400)} for attack in (PGD, AA)}
    seeds = [make_run("silu", first(395, 400), outcomes[PGD], seed=s, trust=trust("pass")) for s in range(2)]
    seeds.append(make_run("silu", first(395, 400), outcomes[PGD], seed=2, trust=trust("fail", "NaN")))
    stronger = make_run("silu", first(395, 400), outcomes[AA], trust=trust("pass"))
    for runs in (seeds, [*seeds, stronger]):
        for board in json.loads(build(summarise(runs))["digits-Linf-8-255.json"])["boards"]:
            assert board["rows"] == []
            assert [row["reasons"] for row in board["unranked"]] == [["growing eps: NaN"]]
    assert "No model has a rank" in build(summarise(seeds))["digits-Linf-8-255.md"]
    (board,) = json.loads(build(summarise(seeds[:2]))["digits-Linf-8-255.json"])["boards"]
    assert [row["rank"] for row in board["rows"]] == [1]


def test_a_fail_of_a_weaker_line_is_not_lost_behind_the_strongest(make_run: MakeRun) -> None:
    """A fail is a fault of the network; a doubt is about one number, and a stronger evaluation answers it."""
    for verdict, ranks in (("fail", []), ("suspicious", [1])):
        runs = [
            make_run("silu", first(9, 10), {(PGD, "Linf", EPS): first(5, 10)}, seed=1, trust=trust(verdict, "NaN")),
            make_run("silu", first(9, 10), {(AA, "Linf", EPS): first(4, 10)}, trust=trust("pass")),
        ]
        board = json.loads(build(summarise(runs))["digits-Linf-8-255.json"])["boards"][0]
        assert board["evaluation"] == "AutoAttack"
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
    boards = json.loads(build(summarise(runs))["digits-Linf-8-255.json"])["boards"]
    assert [row["activation"] for board in boards for row in board["rows"]] == list(attacks)[::-1]
    assert [len(board["rows"]) for board in boards] == [1] * 5
    assert all("bounds robust accuracy only from above" in board["headline"] for board in boards[1:])


def test_the_command_says_which_added_run_gets_no_rank(make_run: MakeRun, tmp_path: Path) -> None:
    outcomes = {(PGD, "Linf", EPS): first(2, 4)}
    failed = make_run("silu", first(3, 4), outcomes, trust=trust("fail", "NaN"))
    passed = make_run("relu", first(3, 4), outcomes, trust=trust("pass"))
    board = tmp_path / "boards"
    for words in (["init", board], ["add", failed.path, passed.path, "--dir", board], ["build", "--dir", board]):
        done = CliRunner().invoke(app, ["leaderboard", *map(str, words)])
        assert done.exit_code == 0, done.output
        if words[0] == "add":
            assert done.stderr.count("\n") == 1
            assert done.stderr.endswith(": listed without a rank, because its trust verdict is fail\n")
    (part,) = json.loads((board / "digits-Linf-8-255.json").read_text())["boards"]
    assert [len(part[name]) for name in ("rows", "unranked")] == [1, 1]
