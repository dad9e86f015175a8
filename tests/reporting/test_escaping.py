"""Names and sentences are shown as text in every table, page and figure, whatever characters they have."""

import csv
import io
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from satbench.core.eps import Threat
from satbench.core.escaping import csv_cell, figure_text, html, latex, markdown, markdown_html, one_line, terminal
from satbench.core.names import NAME, check_name, path_part
from satbench.reporting import leaderboard, page, plots
from satbench.reporting.background import Background
from satbench.reporting.claims_file import ClaimsFile
from satbench.reporting.paired import compare_runs
from satbench.reporting.paired import to_markdown as paired_markdown
from satbench.reporting.published import compare as compare_claims
from satbench.reporting.published import to_markdown as claims_markdown
from satbench.reporting.render import check_page_folder
from satbench.reporting.results_file import StudyResults
from satbench.reporting.summary import Row, summarise
from satbench.reporting.table_forms import to_csv, to_latex, to_markdown
from satbench.reporting.tables import accuracy_table
from satbench.reporting.trust_page import write_trust
from satbench.results.schema import DataInfo, Finding, Trust
from satbench.results.store import Run
from satbench.results.training_log import Epoch

from .made import AA, EPS, PGD, MakeRun, first, trust

ATTACKS = [
    "# heading",
    "- item",
    "1. item",
    "> quote",
    "---",
    "===",
    "[a](http://h.example)",
    "::error title=a::b",
    "##[error]a",
    "%3A, %25",
    "[a]: http://h.example",
    "![i](http://h.example/i.png)",
    "https://h.example",
    "www.h.example",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onclick="x',
    "&lt;b&gt;",
    "{{ 7 * 7 }}",
    "`code`",
    "**bold**",
    "_it_",
    "~~gone~~",
    "$x$",
    "$\\alpha",
    "a|b",
    "\n",
    "\r",
    "\r\n\\immediate\\write18{touch x}\r\n",
    "\u2028",
    "\x1b[2J\x1b]0;title\x07",
    "\x00",
    "\x85",
    "\u202egnp.exe",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "＝1",
    "\\",
    "\\\\",
    "%",
    "^^M",
    "{",
    "}",
    "*[3]",
    '"',
    ",",
    "../../X",
    "/etc/x",
    "_nolegend_",
    "    indented",
]
TEXT = st.lists(
    st.sampled_from(ATTACKS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4
).map("".join)
NAMES = TEXT.filter(lambda text: text.strip() != "")
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
INLINE = {"text", "text_special"}
FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
MANY = settings(max_examples=300, deadline=None, derandomize=True)
UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


# each function


@MANY
@given(TEXT)
def test_one_line_is_printable_and_keeps_what_is(text: str) -> None:
    assert one_line(text).isprintable()
    assert one_line(one_line(text)) == one_line(text)
    if text.isprintable() and not re.search(r"[^\S ]", text):
        assert one_line(text) == text
    if "##[" not in text and not one_line(text).lstrip().startswith("::"):
        assert terminal(f"{one_line(text)}\n{one_line(text)}") == f"{one_line(text)}\n{one_line(text)}"
    assert not UNPRINTABLE.search(terminal(text))


@MANY
@given(TEXT)
def test_markdown_is_read_back_as_the_text(text: str) -> None:
    shown = one_line(text).strip()
    for source in (markdown(text), f"- {markdown(text)}", f"| a |\n| --- |\n| {markdown(text)} |"):
        tokens = MARKDOWN.parse(source)
        assert {token.type for token in tokens} <= {
            f"{kind}_{end}"
            for kind in ("paragraph", "bullet_list", "list_item", "table", "thead", "tbody", "tr", "th", "td")
            for end in ("open", "close")
        } | {"inline"} or shown == "-"
        inner = [child for token in tokens for child in token.children or ()]
        assert {child.type for child in inner} <= INLINE
        if shown and shown != "-":
            assert "".join(child.content for child in inner).endswith(shown)
    assert not re.search(r"(?i)(?:https?|ftp)://|www\.", markdown(text))


class Parsed(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@MANY
@given(TEXT)
def test_html_is_read_back_as_the_text(text: str) -> None:
    parsed = Parsed(f'<p title="{html(text)}">{html(text)}</p>')
    assert parsed.tags == ["p"]
    assert parsed.text == one_line(text)
    assert parsed.attributes == [("title", one_line(text))]


PROSE = {"p", "em", "strong", "code", "pre", "ul", "ol", "li", "blockquote", "hr", "br", "h3", "h4", "h5", "h6"}
PROSE |= {"table", "thead", "tbody", "tr", "th", "td"}


@pytest.mark.left_out
@MANY
@given(st.lists(TEXT | st.just("| a |\n| --- |"), max_size=4).map("\n".join))
def test_html_of_markdown_has_no_links_images_or_tags_of_the_text(text: str) -> None:
    parsed = Parsed(markdown_html(text, deeper=2))
    assert set(parsed.tags) <= PROSE
    assert {key for key, _ in parsed.attributes} <= {"class", "start", "style"}  # of fences, numbers, and columns
    assert not UNPRINTABLE.search(parsed.text)


def test_html_of_markdown_keeps_its_form() -> None:
    assert markdown_html("# A\n- **b** [c](https://d.e) &lt; <i>\n", deeper=1) == (
        "<h2>A</h2>\n<ul>\n<li><strong>b</strong> [c](https://d.e) &amp;lt; &lt;i&gt;</li>\n</ul>\n"
    )


@MANY
@given(TEXT)
def test_a_cell_of_csv_is_no_formula(text: str) -> None:
    cell = csv_cell(text)
    assert not cell.startswith(tuple("=+-@＝＋－＠\t\r\n"))
    assert cell.removeprefix("'") == one_line(text).strip().removeprefix("'")


TEX = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<"}
TEX |= {r"\textgreater{}": ">", r"\textbar{}": "|", "{[}": "[", "{]}": "]", "{*}": "*"}
TEX |= {f"\\{one}": one for one in "&%$#_{}"}
TEX_SOURCE = re.compile("|".join(map(re.escape, TEX)) + r"|[^\\{}$&#^_~%*\[\]\n]")


def read_tex(source: str) -> str:
    """What TeX shows; fails on any character with a meaning."""
    pieces = TEX_SOURCE.findall(source)
    assert "".join(pieces) == source
    return "".join(TEX.get(piece, piece) for piece in pieces)


@MANY
@given(TEXT)
def test_latex_is_read_back_as_the_text(text: str) -> None:
    assert read_tex(latex(text)) == one_line(text)


@MANY
@given(TEXT)
def test_matplotlib_takes_no_text_for_mathematics(text: str) -> None:
    from matplotlib.text import Text

    shown, is_math = Text()._preprocess_math(figure_text(text))
    assert not is_math
    assert shown.strip() == one_line(text).strip()
    assert not figure_text(text).startswith("_")


@pytest.mark.left_out
@MANY
@given(TEXT)
def test_any_text_becomes_a_part_of_a_path(text: str) -> None:
    part = path_part(text)
    assert check_name(part, "part") == part
    assert part in (text, path_part(part))


def test_names_stay_what_they_are() -> None:
    for name in ("resnet50-silu", "a", "8_255", "digits-Linf-8_255", "1e-05", "v1.2+x"):
        assert NAME.fullmatch(name)
        assert path_part(name) == name


# every table and page


def spoilt(run: Run, text: str) -> Run:
    """The run with the text in everything that anyone can name."""
    manifest = run.manifest
    renamed = {one.id: f"{one.id}{text}" for one in manifest.attacks}
    attacks = [one.model_copy(update={"id": renamed[one.id], "label": one.label + text}) for one in manifest.attacks]
    finding = Finding(check=f"check{text}", outcome="suspicious", sentence=text, next_attack=text or None)
    changed = {
        "model": manifest.model.model_copy(
            update={
                "label": text,
                "recipe": None,
                "config": None,
                "group": text or None,
                "method": text,
                "digest": f"{text}{manifest.model.digest}",
            }
        ),
        "data": DataInfo(name=f"data{text}", split=text, n=manifest.data.n, digest=text, loader=text or None),
        "attacks": attacks,
        "trust": Trust(verdict="suspicious", depth="quick", findings=[finding], forward=1, backward=1),
        "notes": [text],
        "versions": {text: text},
        "revision": text,
        "device": text,
        "search": manifest.search.model_copy(update={"note": text}),
    }
    records = run.records.assign(attack=run.records["attack"].map(renamed))
    return Run(run.path, manifest.model_copy(update=changed), records)


@pytest.fixture
def runs(make_run: MakeRun) -> list[Run]:
    outcomes = {(attack, "Linf", EPS): first(10, 20) for attack in (PGD, AA)}
    return [make_run(name, first(18, 20), outcomes, seed=0, trust=trust("fail")) for name in ("relu", "silu")]


def hostile_rows(runs: list[Run], text: str) -> list[Row]:
    rows = summarise([spoilt(runs[0], text), runs[1]])
    return [row.model_copy(update={"activation": text}) for row in rows]


def check_markdown(source: str, headings: int) -> None:
    tokens = MARKDOWN.parse(source)
    types = [token.type for token in tokens]
    assert types.count("heading_open") == headings
    assert not {"html_block", "fence", "code_block", "blockquote_open", "ordered_list_open", "hr"} & set(types)
    assert {child.type for token in tokens for child in token.children or ()} <= INLINE | {"softbreak"}
    assert not UNPRINTABLE.search(source)


@pytest.mark.left_out
@FEW
@given(NAMES)
def test_every_form_of_the_table_shows_names_as_text(runs: list[Run], text: str) -> None:
    lines = accuracy_table(hostile_rows(runs, text))
    check_markdown(to_markdown(lines), headings=0)
    cells = list(csv.reader(io.StringIO(to_csv(lines))))
    assert {len(row) for row in cells} == {len(cells[0])}
    assert len(cells) == len(lines) + 1
    assert not any(cell.startswith(tuple("=+-@")) for row in cells for cell in row)
    tex = to_latex(lines).splitlines()
    code = [line for line in tex if not line.startswith("% ")]
    assert len(code) == len(lines) + 6
    for row in (code[2], *code[4:-2]):
        assert row.endswith(r" \\")
        assert {len(re.split(r"(?<!\\) & ", row))} == {len(code[0].partition("}{")[2].rstrip("}"))}
        for cell in re.split(r"(?<!\\) & ", row.removesuffix(r" \\")):
            read_tex(cell)


@pytest.mark.left_out
@FEW
@given(NAMES)
def test_leaderboards_show_names_as_text_in_files_of_the_folder(runs: list[Run], text: str) -> None:
    files = leaderboard.build(hostile_rows(runs, text))
    for name, content in files.items():
        assert check_name(name, "file") == name
        if name.endswith(".md"):
            check_markdown(content, headings=1 + content.count("\n## "))
        if name.endswith(".html"):
            check_html(content, text)


def check_html(source: str, text: str) -> None:
    scripts = re.findall("<script.*?>(.*?)</script>", source, flags=re.DOTALL)
    assert len(scripts) in (0, 4)  # none, or data, two libraries and our own
    assert not any("<" in script for script in scripts[:1])
    source = re.sub("(<script.*?>).*?</script>", r"\1</script>", source, flags=re.DOTALL)
    parsed = Parsed(source)
    assert set(parsed.tags) <= TAGS
    assert {key for key, _ in parsed.attributes} <= ATTRIBUTES
    for key, value in parsed.attributes:
        if key in ("href", "src"):
            pictures = ("data:image/svg+xml;base64,", "data:image/png;base64,")
            assert value.startswith(pictures) or ADDRESS.fullmatch(value)
    assert one_line(text) in parsed.text
    assert not UNPRINTABLE.search(source)


ADDRESS = re.compile(rf"(?:{NAME.pattern})?(?:#[\w.+=-]+)?")
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "section", "div", "table"),
    *("caption", "thead", "tbody", "tr", "th", "td", "a", "ul", "li", "details", "summary", "figure", "img"),
    *("figcaption", "dl", "dt", "dd", "code", "pre", "strong", "b", "small", "span", "br", "nav", "label", "select"),
    *("option", "svg", "defs", "pattern", "path", "script", "noscript", "dialog", "picture", "source"),
}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "aria-labelledby", "aria-label", "id", "class", "role", "tabindex"),
    *("scope", "href", "src", "alt", "style", "http-equiv", "type", "value", "hidden", "open", "colspan"),
    *("data-order", "data-id", "d", "viewbox", "preserveaspectratio", "width", "height", "patternunits", "stroke"),
    *("patterntransform", "stroke-width", "aria-hidden", "data-label", "media", "srcset"),
}


@pytest.mark.left_out
@FEW
@given(NAMES)
def test_the_page_of_trust_and_tables_of_commands_show_names_as_text(
    runs: list[Run], tmp_path: Path, text: str
) -> None:
    run = spoilt(runs[0], text)
    manifest = run.manifest
    assert manifest.trust is not None
    threat = Threat(norm="Linf", eps=EPS)
    _, index = write_trust(tmp_path / "trust", manifest.trust, manifest.model, manifest.data, threat, 0, {})
    check_html(index.read_text(encoding="utf-8"), text)
    other = Run(runs[1].path, runs[1].manifest, runs[1].records)
    check_markdown(paired_markdown(compare_runs(run, spoilt(other, text))), headings=0)


def test_claims_show_names_as_text(runs: list[Run]) -> None:
    text = "[a](http://h.example)\n# heading"
    claims = ClaimsFile.model_validate(
        {
            "images": {"dataset": "digits", "split": "test", "n": 20},
            "threat": {"norm": "Linf", "eps": EPS},
            "sources": {text: {"where": text, "loader": "torchvision"}},
            "figures": {"m": {text: {"clean": 90.0}}},
        }
    )
    data = runs[0].manifest.data
    compared = compare_claims(claims, "m", "torchvision", 8, data, summarise(runs[:1]))
    assert compared
    check_markdown(claims_markdown(claims, compared), headings=0)


@pytest.mark.left_out
@pytest.mark.parametrize("text", ["_<b>$\\nosuch$", "\x1b[2J](http://h.example)\r\n# $x$"])
def test_reports_and_figures_show_names_as_text(runs: list[Run], tmp_path: Path, text: str) -> None:
    curves = {text: [Epoch(epoch=1, lr=0.1, train_loss=1.0)], "b": [Epoch(epoch=1, lr=0.1, train_loss=2.0)]}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the font has not every script
        warnings.filterwarnings("ignore", message="constrained_layout not applied")  # a name wider than the figure
        aside = Background(text, (text,), {text: 1.0})
        measured = [spoilt(runs[0], text), runs[1]]
        report = page.write_report(
            tmp_path / "page", StudyResults(text, tuple(measured), curves, (text,), background=aside)
        )
    check_html(report.index.read_text(encoding="utf-8"), text)
    check_markdown((tmp_path / "page/table.md").read_text(encoding="utf-8"), headings=0)
    assert {file.name for file in (tmp_path / "page").iterdir()} == {file.name for file in report.files}


# pages of others


@pytest.mark.left_out
def test_a_page_of_someone_else_is_not_overwritten(runs: list[Run], tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<html>my page</html>")
    before = {file: file.read_bytes() for file in folder.iterdir()}
    for write in (
        lambda: page.write_report(folder, StudyResults("T", tuple(runs), {})),
        lambda: leaderboard.write(folder, leaderboard.build(summarise(runs))),
    ):
        with pytest.raises(Exception, match="not a page of this satbench"):
            write()
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    (folder / "index.html").unlink()
    page.write_report(folder, StudyResults("T", tuple(runs), {}))
    check_page_folder(folder)


@pytest.mark.left_out
def test_a_page_that_cannot_be_built_replaces_nothing(
    runs: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.write_report(tmp_path / "page", StudyResults("T", tuple(runs), {}))
    before = {file: file.read_bytes() for file in (tmp_path / "page").iterdir()}

    def fail(figure: object) -> None:
        raise ValueError("no figure")

    monkeypatch.setattr(plots, "encoded", fail)
    with pytest.raises(ValueError, match="no figure"):
        page.write_report(tmp_path / "page", StudyResults("other", tuple(runs), {}))
    assert {file: file.read_bytes() for file in (tmp_path / "page").iterdir()} == before
