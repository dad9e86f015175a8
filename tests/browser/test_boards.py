"""The pages of a leaderboard as readers meet them: in a browser, from a file, without a network."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reporting.made import EPS, PGD, runs_in

from satbench.reporting import board_page, leaderboard
from satbench.reporting.details import Detail
from satbench.reporting.summary import summarise
from satbench.results.metrics import mcnemar, paired_interval

from .conftest import GELU, SILU, Opened

Visit = Callable[..., Opened]
ROWS = ".list:not([hidden]) table.board tbody tr"


@pytest.fixture
def board(site: Path) -> Path:
    return site / "digits.html"


def shows(page: Any, *names: str) -> None:
    """The rows come to have these activations: a table may be drawn again some time after an event."""
    from playwright.sync_api import expect

    expect(page.locator(f"{ROWS} td:nth-of-type(2)")).to_have_text(list(names))


def test_first_the_chart_then_who_is_ahead_then_the_table(visit: Visit, board: Path) -> None:
    page = visit(board).page
    places = [page.locator(f".list:not([hidden]) {part}").bounding_box()["y"] for part in (".chart", ".lead", ".board")]
    assert places == sorted(places)
    assert places[2] < 900
    lead = page.locator(".list:not([hidden]) .lead").inner_text()
    assert lead.startswith("No model is separably ahead: digits-cnn silu has the highest robust accuracy, 55.0% [50.1")
    assert "interval overlaps with those of 1 of the 2 other models" in lead
    ranks = [row.locator("td").first.inner_text() for row in page.locator(ROWS).all()]
    assert ranks == ["1-2", "1-2", "3", "-"]


def test_the_chart_names_a_point_with_its_intervals_and_opens_its_card(visit: Visit, board: Path) -> None:
    page = visit(board).page
    marks = page.locator(".list:not([hidden]) .chart .mark-symbol.role-mark path")
    assert marks.count() == 4 + 1  # four models, the failing one too, and the published figure
    assert page.locator(".list:not([hidden]) .chart path[fill='url(#hatch)']").count() == 1
    highest = min(marks.all(), key=lambda mark: mark.bounding_box()["y"])
    highest.hover()
    tip = page.locator("#tip")
    tip.wait_for()
    assert "digits-cnn softplus, pgd-at" in tip.inner_text()
    assert re.search(r"robust 97\.5 \[95\.4, 98\.7\]", tip.inner_text())
    highest.click()
    assert page.locator("dialog h2").inner_text() == "digits-cnn softplus"


def test_colour_by_method(visit: Visit, board: Path) -> None:
    page = visit(board).page
    legend = page.locator(".list:not([hidden]) .chart .role-legend-label text")
    assert set(legend.all_text_contents()) == {"silu", "gelu", "relu", "softplus"}
    page.select_option("#by", "method")
    legend.get_by_text("pgd-at").wait_for()
    assert set(legend.all_text_contents()) == {"pgd-at"}


def test_sort_search_and_filter(visit: Visit, board: Path) -> None:
    page = visit(board).page
    head = page.locator(".list:not([hidden]) thead th", has_text="robust %").first
    head.click()
    shows(page, "softplus", "silu", "gelu", "relu")
    head.locator("[tabindex='0']").press("Enter")
    shows(page, "relu", "gelu", "silu", "softplus")
    page.select_option("#activation", "gelu")
    shows(page, "gelu")
    page.select_option("#activation", "")
    page.fill("#q", "relu")
    shows(page, "relu")
    page.fill("#q", "nothing")
    assert "No model fits the filters" in page.locator(ROWS).inner_text()


CLEAR = """names => {
    const marks = [...document.querySelectorAll(".list:not([hidden]) .chart .mark-symbol.role-mark path")];
    const clear = marks.filter((mark) => Number(mark.getAttribute("opacity") ?? 1) > 0.5);
    return clear.map((mark) => mark.__data__.datum.activation).sort().join() === names.sort().join();
}"""


@pytest.mark.left_out
def test_the_chart_dims_the_models_that_the_filters_hide(visit: Visit, board: Path) -> None:
    published = ""  # a published figure has no activation, and no row that could be hidden
    page = visit(board).page
    page.wait_for_function(CLEAR, arg=["silu", "gelu", "relu", "softplus", published])
    page.select_option("#activation", "gelu")
    page.wait_for_function(CLEAR, arg=["gelu", published])
    again = visit(board, address="#" + page.url.partition("#")[2]).page
    again.wait_for_function(CLEAR, arg=["gelu", published])
    page.select_option("#activation", "")
    page.wait_for_function(CLEAR, arg=["silu", "gelu", "relu", "softplus", published])
    page.fill("#q", "relu")
    page.wait_for_function(CLEAR, arg=["relu", published])
    page.select_option("#list", label="Linf 8/255, PGD (digits/test)")
    page.wait_for_function(CLEAR, arg=["elu", "silu", "gelu", "relu", published])


def test_each_evaluation_is_a_list_of_its_own(visit: Visit, board: Path) -> None:
    page = visit(board).page
    page.select_option("#list", label="Linf 8/255, PGD (digits/test)")
    shows(page, "elu", "silu", "gelu", "relu")
    assert (
        page.locator(".list:not([hidden]) .lead").inner_text().endswith("PGD bounds robust accuracy only from above.")
    )
    assert page.locator(".list:not([hidden])").count() == 1
    page.select_option("#activation", "elu")
    shows(page, "elu")


@pytest.mark.left_out
def test_columns_are_chosen_and_a_link_keeps_everything(visit: Visit, board: Path) -> None:
    page = visit(board).page
    page.get_by_text("Columns", exact=True).first.click()
    page.get_by_label("violations").check()
    page.get_by_label("seeds", exact=True).uncheck()
    page.get_by_text("Columns", exact=True).first.click()
    page.locator(".list:not([hidden]) thead th", has_text="clean %").first.click()
    page.select_option("#by", "method")
    page.select_option("#method", "pgd-at")
    page.fill("#q", "lu")
    boxes = page.locator(".pick")
    boxes.nth(0).check()
    boxes.nth(1).check()
    address = "#" + page.url.partition("#")[2]
    seen = page.locator(".list:not([hidden]) table.board").inner_text()
    assert "violations" in seen
    assert "seeds" not in seen
    again = visit(board, address=address).page
    assert again.locator(".list:not([hidden]) table.board").inner_text() == seen
    assert (again.input_value("#q"), again.input_value("#method")) == ("lu", "pgd-at")
    assert again.locator(".pick:checked").count() == 2
    assert "#" + again.url.partition("#")[2] == address


def test_a_row_opens_its_card_by_keyboard_and_a_link_keeps_it(visit: Visit, board: Path) -> None:
    page = visit(board).page
    page.locator(f"{ROWS} th a").first.focus()
    page.keyboard.press("Enter")
    card = page.locator("dialog[open]")
    card.wait_for()
    text = card.inner_text()
    for part in ("Robust accuracy over eps", "Every attack", "By class, Linf 8/255", "What the trust battery saw"):
        assert part in text
    for part in ("Training", "Provenance", "satbench eval --model x", "sha256:silu-0", "abc1234", "75.0 [59.8, 85.9]"):
        assert part in text
    assert card.locator("a", has_text="records").count() == 1
    assert card.locator("a", has_text="records").get_attribute("href") == "runs/records.parquet"
    assert card.locator("a").count() == 1
    assert "bad: javascript:alert(1)" in text
    assert card.locator(".small svg").count() == 2
    again = visit(board, address="#" + page.url.partition("#")[2]).page
    assert again.locator("dialog[open] h2").inner_text() == "digits-cnn silu"
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert "card=" not in page.url


def test_a_card_has_pictures_with_both_predictions(visit: Visit, board: Path) -> None:
    page = visit(board).page
    page.locator(f"{ROWS} th a").first.click()
    pictures = page.locator("dialog[open] .pictures")
    assert pictures.count() == 2
    for one, side in ((pictures.nth(0), 8), (pictures.nth(1), 45)):  # the second shows one in five of 224 pixels
        images = one.locator("img").all()
        assert [image.evaluate("i => [i.naturalWidth, i.naturalHeight]") for image in images] == [[side, side]] * 3
        assert len({image.get_attribute("alt") for image in images}) == 3
        assert one.locator("figcaption").all_inner_texts() == [
            "original: predicted cat",
            "perturbation magnified, largest entry 8.0/255",
            "attacked: predicted dog",
        ]
    captions = page.locator("dialog[open] figure:has(.pictures) > figcaption").all_inner_texts()
    assert captions[0] == "test/00000, cat, under PGD-50 at Linf 8/255"
    assert captions[1] == f"{captions[0]}; one in 5 pixels of each direction is shown"
    assert "The first 3 examples of the run's strongest attack" in page.locator("dialog[open]").inner_text()


def test_a_page_without_room_says_where_details_and_outcomes_are(
    visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_page, "MOST_BYTES", 0)
    run = runs_in(tmp_path / "runs")("silu", SILU, {(PGD, "Linf", EPS): SILU})
    detail = Detail("sha256:silu-0", "digits", "test", evidence=("seen",), downloads=(("run file", "runs/a.json"),))
    leaderboard.write(tmp_path, leaderboard.build(summarise([run]), details=[detail]))
    page = visit(tmp_path / "digits.html").page
    page.locator(f"{ROWS} th a").first.click()
    card = page.locator("dialog[open]")
    assert "Classes, evidence, training and commands are in the run file. This page has room for" in card.inner_text()
    assert "seen" not in card.inner_text()
    assert card.locator("a", has_text="run file").get_attribute("href") == "runs/a.json"


def test_a_card_leaves_out_what_is_not_known(visit: Visit, board: Path) -> None:
    page = visit(board).page
    page.locator(f"{ROWS} th a").nth(2).click()
    text = page.locator("dialog[open]").inner_text()
    assert "digits-cnn relu" in text
    for part in ("By class", "Training\n", "Downloads", "over eps", "undefined"):
        assert part not in text


@pytest.mark.left_out
def test_two_models_are_compared_as_the_tables_compare_them(visit: Visit, board: Path) -> None:
    page = visit(board).page
    boxes = page.locator(".pick")
    assert page.locator("#compare").is_disabled()
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.click("#compare")
    cells = page.locator("dialog[open] table").nth(1).locator("tbody tr td").all_inner_texts()
    pair = mcnemar(SILU, GELU)
    low, high = paired_interval(pair)
    assert cells[0] == "inside the noise"
    assert cells[2:5] == ["400", str(pair.only_a), str(pair.only_b)]
    difference, bottom, top = map(float, re.findall(r"-?[\d.]+", cells[1]))
    assert (difference, bottom, top) == pytest.approx((100 * pair.difference, 100 * low, 100 * high), abs=0.1)
    assert bottom <= 100 * low <= 100 * high <= top
    assert float(cells[5]) == pytest.approx(pair.p_value, rel=0.05)
    again = visit(board, address="#" + page.url.partition("#")[2]).page
    assert again.locator("dialog[open] table").nth(1).locator("tbody tr td").all_inner_texts() == cells


def test_a_link_opened_in_the_same_tab_replaces_the_whole_view(visit: Visit, board: Path) -> None:
    page = visit(board).page
    first = ("silu", "gelu", "relu", "softplus")
    shows(page, *first)
    page.locator(".list:not([hidden]) thead th", has_text="robust %").first.click()
    shows(page, "softplus", "silu", "gelu", "relu")
    page.locator(f"{ROWS} th a").first.click()
    there = re.search(r"list=([^&]+)", page.url)[1]  # type: ignore[index]
    slug = re.search(r"card=([^&]+)", page.url)[1]  # type: ignore[index]
    page.evaluate("address => { location.hash = address; }", f"#list={there}")
    page.wait_for_function("!document.querySelector('dialog').open")
    shows(page, *first)
    page.evaluate("address => { location.hash = address; }", f"#list={there}&card={slug}")
    page.locator("dialog[open]").wait_for()
    shown = page.locator("dialog[open] h2").inner_text()
    page.locator("dialog[open] button", has_text="Close").click()
    page.locator(f"{ROWS} th a").last.click()
    page.evaluate("address => { location.hash = address; }", f"#list={there}&card={slug}")
    page.wait_for_function("name => document.querySelector('dialog h2').textContent === name", arg=shown)
    page.evaluate("address => { location.hash = address; }", "#list=nowhere")
    page.locator("#unknown").wait_for()
    assert "asks for the list nowhere" in page.locator("#unknown").inner_text()


def test_without_outcomes_the_page_says_why_there_is_no_comparison(visit: Visit, board: Path) -> None:
    page = visit(board).page
    page.locator(".pick").nth(0).check()
    page.locator(".pick").nth(2).check()
    page.click("#compare")
    assert "no outcomes image by image of digits-cnn relu" in page.locator("dialog[open]").inner_text()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", ["index.html", "digits.html"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways_and_robust_accuracy_is_seen(visit: Visit, site: Path, name: str, width: int) -> None:
    page = visit(site / name, width=width).page
    assert page.evaluate("document.documentElement.scrollWidth") == width
    rate = page.locator("td b", has_text="55.0").locator("visible=true").first.bounding_box()
    assert 0 <= rate["x"] <= width - rate["width"]
    if name == "digits.html":
        assert page.evaluate(
            "(d => d.scrollWidth <= d.clientWidth)(document.querySelector('.list:not([hidden]) .wide'))"
        )
        page.locator(f"{ROWS} th a").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("(d => d.scrollWidth <= d.clientWidth)(document.querySelector('dialog'))")


def test_without_scripts_every_table_is_there(visit: Visit, board: Path) -> None:
    page = visit(board, script=False).page
    tables = page.locator("table.board")
    assert tables.count() == 3
    assert all(table.is_visible() for table in tables.all())
    assert "55.0 [50.1" in tables.first.inner_text() + tables.nth(1).inner_text()
    for table in tables.all():
        assert table.locator("caption").count() == 1
        assert table.locator("thead th:not([scope=col])").count() == 0
        assert table.locator("tbody th[scope=row]").count() == table.locator("tbody tr").count()


def test_paper_has_every_first_column(visit: Visit, board: Path) -> None:
    page = visit(board).page
    document = page.pdf(format="A4")
    assert document.startswith(b"%PDF")
    page.set_viewport_size({"width": 703, "height": 1000})  # A4 less its margins, at 96 dots an inch
    page.emulate_media(media="print")
    heads = page.locator(".list:not([hidden]) thead th").locator("visible=true")
    assert [head.split("\n")[0] for head in heads.all_inner_texts()] == [
        *("rank", "model", "activation", "method", "robust %", "clean %", "n", "seeds", "trust"),
    ]
    assert page.evaluate("document.documentElement.scrollWidth") == 703
    last = page.locator(".list:not([hidden]) tbody tr").first.locator("td").nth(7).bounding_box()
    assert last["x"] + last["width"] <= 703
    assert page.locator(".controls").locator("visible=true").count() == 0


@pytest.mark.network
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", "digits.html", "card", "comparison"])
def test_axe_finds_nothing(visit: Visit, site: Path, axe: str, name: str, scheme: str) -> None:
    page = visit(site / (name if name == "index.html" else "digits.html"), scheme=scheme).page
    if name == "card":
        page.locator(f"{ROWS} th a").first.click()
    if name == "comparison":
        page.locator(".pick").nth(0).check()
        page.locator(".pick").nth(1).check()
        page.click("#compare")
    page.evaluate(axe)
    found = page.evaluate("axe.run()")
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found["violations"]] == []
    assert any(one["id"] == "color-contrast" for one in found["passes"])
