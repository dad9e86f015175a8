import base64
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from satbench.core.errors import BadInput
from satbench.reporting import page
from satbench.reporting.background import Background
from satbench.reporting.results_file import StudyResults
from satbench.reporting.summary import summarise
from satbench.reporting.table_forms import readable
from satbench.reporting.tables import accuracy_table
from satbench.results.store import Run
from satbench.results.training_log import Epoch, Validated

from .made import AA, EPS, PGD, MakeRun, first, runs_in, trust

CURVES = {
    f"digits-cnn {name} seed {seed}": [
        Epoch(
            epoch=e,
            lr=0.1,
            train_loss=2 / e,
            val=Validated(n=10, figures={"clean": 0.9, "fgsm": 0.5, "robust": 0.4}, alone=1),
        )
        for e in range(1, 4)
    ]
    for name in ("relu", "silu")
    for seed in range(2)
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    make_run = runs_in(tmp_path_factory.mktemp("runs"))
    return [
        make_run(
            name,
            first(38, 40),
            {(attack, "Linf", e * EPS): first(int(20 / e) + seed, 40) for attack in (PGD, AA) for e in (0.5, 1, 2)},
            seed=seed,
        )
        for name in ("relu", "silu")
        for seed in range(2)
    ]


def written(folder: Path, runs: list[Run]) -> page.Report:
    return page.write_report(folder, StudyResults("A <b>title</b>", tuple(runs), CURVES, ("A note & more.",)))


@pytest.fixture(scope="module")
def report(runs: list[Run], tmp_path_factory: pytest.TempPathFactory) -> page.Report:
    return written(tmp_path_factory.mktemp("page") / "report", runs)


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]
        self.images += [dict(attrs)] if tag == "img" else []

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


def test_the_page_is_whole_and_loads_nothing_from_elsewhere(runs: list[Run], report: page.Report) -> None:
    assert all(path.is_file() for path in report.files)
    assert report.index in report.files
    assert {path.name for path in report.files} == {path.name for path in report.index.parent.iterdir()}
    text = report.index.read_text()
    parsed = Links()
    parsed.feed(text)
    for link in parsed.links:
        assert link.startswith("data:image/svg+xml;base64,") or (report.index.parent / link).is_file()
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert len(parsed.images) == 4
    assert all(image["alt"] for image in parsed.images)
    for cell in readable(accuracy_table(summarise(runs)))["robust %"]:
        assert cell in parsed.cells
    assert "A &lt;b&gt;title" in text
    assert "A note &amp; more." in text
    assert PGD.replace("'", "&#39;") in text
    assert "abc1234" in text
    assert "sha256:data" in text
    svg = base64.b64decode(parsed.images[0]["src"].partition(",")[2]).decode()  # type: ignore[union-attr]
    assert svg.startswith("<?xml")
    assert "<dc:date>" not in svg


@pytest.mark.left_out
def test_equal_runs_give_equal_bytes(runs: list[Run], report: page.Report, tmp_path: Path) -> None:
    again = written(tmp_path, runs[::-1])
    for left, right in zip(report.files, again.files, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name


def test_a_page_without_curves_or_comparison(make_run: MakeRun, report: page.Report, tmp_path: Path) -> None:
    run = make_run(None, first(3, 4), {(PGD, "L2", 0.5): first(2, 4)}, seed=None, method=None, trained_for=None)
    folder = shutil.copytree(report.index.parent, tmp_path / "r")
    (folder / "mine.png").touch()
    smaller = page.write_report(folder, StudyResults("T", (run,), {}))
    text = smaller.index.read_text()
    assert "Which activation is better?" not in text
    assert "L2 0.5" in text
    assert set(folder.iterdir()) == {*smaller.files, folder / "mine.png"}
    assert len(smaller.files) < len(report.files)


@pytest.mark.left_out
def test_the_page_shows_verdicts_with_their_reasons(make_run: MakeRun, tmp_path: Path) -> None:
    doubt = trust("suspicious", "Square < PGD by 4.0 points", "square")
    outcomes = {(PGD, "Linf", EPS): first(2, 4)}
    runs = [make_run("silu", first(3, 4), outcomes, trust=doubt), make_run("relu", first(3, 4), outcomes)]
    parsed = Links()
    parsed.feed(page.write_report(tmp_path / "r", StudyResults("T", tuple(runs), {})).index.read_text())
    assert parsed.cells.count("suspicious (try square)") == 2  # in the first table, and in that of all columns
    assert "not checked" in parsed.cells
    assert "digits-cnn silu, suspicious (try square): growing eps: Square < PGD by 4.0 points" in parsed.cells
    assert "30 + 20" in parsed.cells
    assert "growing eps: Square < PGD by 4.0 points" in parsed.cells  # of the run, in the table of trust batteries


def test_the_sections_of_a_plan_stand_apart_in_any_order(make_run: MakeRun, tmp_path: Path) -> None:
    plan = "# Plan\nAim.\n\n## Computed so far\nOne\npart.\n\n## Analysis\nA test.\n\n## Departures\n- None.\n"
    runs = (make_run("relu", first(38, 40), {(PGD, "Linf", EPS): first(20, 40)}),)
    results = StudyResults("T", runs, {}, background=Background(plan))
    shown = page.write_report(tmp_path / "page", results).index.read_text()
    assert "<p>Computed so far: One part.</p>" in shown
    assert "<ul>\n<li>None.</li>\n</ul>" in shown
    assert "<h3>Plan</h3>\n<p>Aim.</p>\n<h4>Analysis</h4>\n<p>A test.</p>" in shown


def test_no_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no records"):
        page.write_report(tmp_path / "r", StudyResults("T", (), {}))
