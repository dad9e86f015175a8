"""Reports in a browser: no cell of a table is cut, on a screen, on a phone and on paper; charts follow dark mode."""

from collections.abc import Callable
from pathlib import Path

import pytest
from reporting.made import AA, EPS, PGD, first, runs_in, trust

from satbench.reporting import page
from satbench.reporting.results_file import StudyResults

from .conftest import Opened

Visit = Callable[..., Opened]
A4 = 718  # pixels between margins of 10 mm
OPEN = "document.querySelectorAll('details').forEach(one => one.open = true)"
CELLS = """() => [...document.querySelectorAll('tbody th, tbody td')].map(cell => {
  const at = cell.getBoundingClientRect(), region = cell.closest('.scroll').getBoundingClientRect();
  const isSeen = at.width > 0 && at.height > 0 && at.left >= region.left - 1 && at.right <= region.right + 1;
  return isSeen && region.right <= window.innerWidth ? '' : `${cell.dataset.label}: ${cell.textContent}`;
}).filter(Boolean)"""
FITS = """() => [document.documentElement, ...document.querySelectorAll('.scroll')].every(
  one => one.scrollWidth <= one.clientWidth + 1)"""


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeds of two activations under two attacks at two radii, in doubt: every column there is."""
    folder = tmp_path_factory.mktemp("report")
    make = runs_in(folder / "runs")
    runs = [
        make(
            name,
            first(90, 100),
            {
                (attack, "Linf", radius * EPS): first(60 - 20 * radius + seed, 100)
                for attack in (PGD, AA)
                for radius in (1, 2)
            },
            seed=seed,
            trust=trust("suspicious", "Square < PGD by 4.0 points", "square"),
        )
        for name in ("relu", "parametric_softplus:alpha=3")
        for seed in range(2)
    ]
    changed = {"recipe": "digits-cnn [method=ssl_at,method.temperature=0.1,method.weight=0.25]", "family": "changed"}
    outcomes = {(PGD, "Linf", EPS): first(30, 100)}
    runs += [
        make("relu", first(90, 100), outcomes, seed=seed, config="changed", digest=f"changed-{seed}", **changed)
        for seed in range(2)
    ]
    return page.write_report(folder / "report", StudyResults("Two activations", tuple(runs), {})).index


@pytest.mark.parametrize("width", [1280, 390])
def test_no_cell_is_cut_on_a_screen(visit: Visit, report: Path, width: int) -> None:
    shown = visit(report, width=width).page
    shown.evaluate(OPEN)
    assert shown.evaluate(CELLS) == []
    assert shown.evaluate(FITS)


def test_paper_shows_every_cell_of_open_and_closed_details(visit: Visit, report: Path) -> None:
    shown = visit(report, width=A4).page
    shown.emulate_media(media="print")
    assert shown.locator("details[open]").count() == 0
    assert shown.evaluate(CELLS) == []
    assert shown.evaluate(FITS)


def test_a_stacked_table_remains_a_table_to_a_screen_reader(visit: Visit, report: Path) -> None:
    shown = visit(report, width=390).page
    table = shown.get_by_role("table").first
    assert table.get_by_role("columnheader").count() == len(table.get_by_role("row").nth(1).locator("th, td").all())
    assert table.get_by_role("rowheader").count() == table.get_by_role("row").count() - 1


def test_charts_are_dark_in_dark_mode_and_fit_a_phone(visit: Visit, report: Path) -> None:
    wide, narrow = visit(report).page, visit(report, width=390, scheme="dark").page
    chosen = [one.locator("img.chart-image").first for one in (wide, narrow)]
    assert [one.evaluate("image => getComputedStyle(image).filter") for one in chosen] == [
        "none",
        "invert(0.92) hue-rotate(180deg)",
    ]
    addresses = [one.evaluate("image => image.currentSrc") for one in chosen]
    assert addresses[0] != addresses[1]
    for one in narrow.locator("figure img").all():
        assert one.bounding_box()["x"] + one.bounding_box()["width"] <= 390
