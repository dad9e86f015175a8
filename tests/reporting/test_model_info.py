"""RobustBench's model-info JSON: figures of others stay apart, and a row is written in the format."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from satbench.cli import app
from satbench.reporting.leaderboard_folder import read_leaderboard

from .made import AA, EPS, PGD, MakeRun, first, trust

# the fields and the kinds of their values as in RobustBench's folder model_info; the network is made up
THEIRS: dict[str, Any] = {
    "link": "https://example.org/paper",
    "name": "A paper",
    "authors": "First Author, Second Author",
    "additional_data": True,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "Venue 2021",
    "architecture": "WideResNet-28-10",
    "eps": "8/255",
    "clean_acc": "89.50",
    "reported": "60.1",
    "autoattack_acc": "59.75",
    "unreliable": False,
    "footnote": "A footnote.",
}
FORMAT = set(THEIRS) | {"external"}


def call(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["leaderboard", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def board(tmp_path: Path) -> Path:
    assert call("init", tmp_path / "boards")[0] == 0
    return tmp_path / "boards"


FILE = "Author2021Paper.json"


def written(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(json.dumps({key: value for key, value in (THEIRS | changes).items() if value is not None}))
    return path


def test_published_figures_are_shown_with_their_source_and_never_as_measured(board: Path, tmp_path: Path) -> None:
    code, output, _ = call("add", written(tmp_path / "Linf"), "--dir", board)
    assert (code, output) == (0, f"{board / 'published/cifar10/Linf/Author2021Paper.json'}\n")
    assert call("build", "--dir", board)[0] == 0
    assert call("check", "--dir", board)[0] == 0
    assert read_leaderboard(board).rows == []
    page = (board / "cifar10.html").read_text()
    for shown in ("Author2021Paper", "59.75", "89.5", "RobustBench, A paper, First Author, Second Author, Venue 2021"):
        assert shown in page
    assert not list(board.glob("cifar10-*.csv"))  # which hold what was measured
    assert "is there already" in call("add", tmp_path / "Linf" / "Author2021Paper.json", "--dir", board)[2]


def test_an_external_figure_is_the_one_it_ranks_by(board: Path, tmp_path: Path) -> None:
    assert call("add", written(tmp_path / "L2", eps="0.5", external="58.01", reported="---"), "--dir", board)[0] == 0
    (one,) = read_leaderboard(board).published
    assert (str(one.threat), one.info.external) == ("L2 0.5", 58.01)
    assert call("build", "--dir", board)[0] == 0
    assert "58.01" in (board / "cifar10.html").read_text()


@pytest.mark.parametrize(
    ("changes", "folder", "hint"),
    [
        ({}, "elsewhere", "does not state its norm"),
        ({"eps": None}, "Linf", "eps"),
        ({"clean_acc": "189"}, "Linf", "clean_acc"),
        ({"clean_acc": "abc"}, "Linf", "clean_acc"),
        ({"eps": "8/0"}, "Linf", "eps '8/0' is not a number"),
        ({"eps": "900"}, "Linf", "larger than the whole pixel range"),
        ({"dataset": "../x"}, "Linf", "is not a name"),
    ],
)
def test_a_file_that_cannot_be_placed_is_refused(
    changes: dict[str, Any], folder: str, hint: str, board: Path, tmp_path: Path
) -> None:
    code, _, error = call("add", written(tmp_path / folder, **changes), "--dir", board)
    assert (code, error.count("\n")) == (2, 1)
    assert hint in error
    if not changes:
        assert "--norm Foo is unknown" in call("add", tmp_path / folder / FILE, "--norm", "Foo", "--dir", board)[2]
        assert call("add", tmp_path / folder / "Author2021Paper.json", "--norm", "Linf", "--dir", board)[0] == 0


@pytest.mark.left_out
def test_a_row_is_written_in_the_format(board: Path, make_run: MakeRun, tmp_path: Path) -> None:
    """387 of 400 are 96.75% and 201 are 50.25%; of 300 images 200 are 66.66%, rounded down."""
    both = {(AA, "Linf", EPS): first(201, 400), (PGD, "Linf", EPS): [i > 0 for i in first(220, 400)]}
    both[PGD, "Linf", EPS][0] = False
    runs = [
        make_run("silu", first(387, 400), both, trust=trust("suspicious", "a doubt")),
        make_run("relu", first(300, 300), {(AA, "Linf", EPS): first(200, 300), (AA, "L2", 0.5): first(9, 300)}),
        make_run("elu", first(9, 9), {(PGD, "Linf", EPS): first(5, 9)}),
    ]
    for run in runs:
        assert call("add", run.path, "--dir", board)[0] == 0
    code, output, told = call("export", "digits-cnn silu seed 0", "--dir", board)
    assert code == 0
    (row,) = {(row.recipe, row.activation) for row in read_leaderboard(board).rows if row.activation == "silu"}
    assert call("export", " ".join(filter(None, row)), "--dir", board)[1] == output
    said = json.loads(output)
    assert set(said) <= FORMAT
    expected = {
        "dataset": "digits",
        "eps": "8/255",
        "clean_acc": "96.75",
        "autoattack_acc": "50.25",
        "external": "50.00",
        "additional_data": False,
        "number_forward_passes": 1,
        "unreliable": True,
    }
    assert expected.items() <= said.items()
    assert "400 images of digits/test" in said["footnote"]
    assert all(said[field] == "" and field in told for field in ("link", "name", "authors", "venue", "reported"))
    file = tmp_path / "Linf" / "Ours.json"
    words = ("export", "digits-cnn relu seed 0", "--dir", board, "--threat", "Linf:8/255", "--out", file)
    assert call(*words)[0] == 0
    assert json.loads(file.read_text())["autoattack_acc"] == "66.66"
    assert call("add", file, "--dir", board)[0] == 0
    for words, hint in (
        (("export", "digits-cnn elu seed 0"), "did not meet AutoAttack in its standard version"),
        (("export", "digits-cnn relu seed 0"), "give one with --threat: L2:0.5, Linf:8/255"),
        (("export", "digits-cnn gelu"), "no network is called 'digits-cnn gelu'; did you mean"),
        (("export", "digits-cnn relu seed 0", "--threat", "foo"), "--threat 'foo' is not NORM:EPS"),
    ):
        code, _, error = call(*words, "--dir", board)
        assert code == 2
        assert hint in error
