"""What the gate writes for machines and readers: JUnit XML, workflow commands and summaries of GitHub, a page."""

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given

from satbench.cli.output import echo
from satbench.core.bounded import MIB
from satbench.core.errors import BadInput
from satbench.core.escaping import github_message, github_property, markdown_code, one_line, terminal
from satbench.regression import Baseline, FigureVerdict, Measured, NetworkVerdict, Outcomes, SuiteVerdict
from satbench.regression.compare import Expected
from satbench.regression.evidence import Checked, Evidence, Flipped
from satbench.regression.figures import places
from satbench.regression.github import MOST_ANNOTATIONS, annotations, summary
from satbench.regression.junit import check_junit_file, to_junit
from satbench.regression.page import check_page_file, write_page
from satbench.regression.table import figure_table, headline, sentences
from satbench.regression.verdict import as_data
from satbench.results.schema import Manifest
from satbench.results.sequential import Interval
from satbench.results.store import Run
from satbench.specs.study import Published

from .made import AA, EPS, PGD, MakeRun, first, trust
from .test_escaping import FEW, INLINE, MANY, MARKDOWN, NAMES, TEXT, UNPRINTABLE, Parsed, check_html, spoilt

ROSE = "PGD-50 at Linf 8/255"


def figure(name: str = ROSE, network: str = "net", **changed: Any) -> FigureVerdict:
    fields: dict[str, Any] = {
        "measured": network,
        "figure": name,
        "basis": "paired",
        "state": "changed",
        "n": 20,
        "images": 40,
        "before": 8.0,
        "now": 15,
        "lost": ("test/00001",),
        "gained": tuple(f"test/{i:05d}" for i in range(8, 16)),
        "p_value": 0.01,
        "interval": Interval(0.05, 0.6),
        "tolerance": 0.0,
        "drop": 0.05,
        "is_excluded": False,
    }
    return FigureVerdict(**fields | changed)


def network(name: str = "net", *figures: FigureVerdict, **changed: Any) -> NetworkVerdict:
    fields: dict[str, Any] = {
        "measured": name,
        "n": 20,
        "images": 40,
        "digest_before": "sha256:a",
        "digest_now": "sha256:b",
        "trust_before": "pass",
        "trust_now": "pass",
        "trust_reasons": (),
        "trust_state": "unchanged",
        "figures": figures or (figure(network=name),),
        "passes": 7,
    }
    return NetworkVerdict(**fields | changed)


def checked(*networks: NetworkVerdict, study: str = "a.yaml", reason: str = "why", **changed: Any) -> Checked:
    verdict = SuiteVerdict(study, reason, 0.05, 0.1, networks or (network(),))
    return Checked(verdict, None, "satbench check a.yaml", "satbench check a.yaml --approve REASON", **changed)


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    outcomes = {(attack, "Linf", EPS): first(10, 20) for attack in (PGD, AA)}
    return make_run("relu", first(18, 20), outcomes, trust=trust("fail"))


def evidence(manifest: Manifest, text: str = "", drawn: bool = True) -> Evidence:
    """As much as can be shown; without `drawn` no curve."""
    held = Measured(
        network=f"sha256:a{text}",
        training=f"training{text}",
        asked=f"asked{text}",
        data=f"sha256:data{text}",
        numerics=f"numerics{text}",
        trust="pass",
        figures={ROSE: Outcomes.of(first(8, 20))},
    )
    grey, colour = (np.full((4, 4, channels), 7, np.uint8) for channels in (1, 3))
    found = [Flipped(f"test/{text}", f"cat{text}", was, f"dog{text}", grey, colour if was else None) for was in (0, 1)]
    name = f"{ROSE}{text}"
    here = {name: replace(places(manifest.attacks, manifest.threats)[0], attack=f"PGD{text}")} if drawn else {}
    return Evidence(Expected("net", held, {}, {}, 0.05, 40), manifest, here, {name: found, f"clean{text}": ()})


def spoilt_check(manifest: Manifest, text: str, drawn: bool = False) -> Checked:
    """A verdict with the text in everything that anyone can name."""
    figures = [figure(f"{name}{text}", f"net{text}", lost=(f"test/{text}",), gained=()) for name in (ROSE, "clean")]
    found = network(
        f"net{text}",
        *figures,
        trust_now="fail",
        trust_state="changed",
        trust_reasons=(f"check{text}: {text}",),
        digest_now=f"sha256:{text}",
    )
    one = checked(found, study=f"{text}.yaml", reason=text, evidence=[evidence(manifest, text, drawn)])
    return replace(with_baseline(one, text), repeat=f"satbench check {text}", approve=text)


def with_baseline(one: Checked, text: str = "why") -> Checked:
    (shown,) = one.evidence
    assert shown.expected.approved is not None
    held = {"net": shown.expected.approved}
    return replace(one, baseline=Baseline(reason=text, versions={text: text}, revision=text, measured=held))


# JUnit XML

SCHEMA = {  # attributes and children of junit-10.xsd, as far as they are used
    "testsuites": ({"name", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped"}, {"properties", "testcase"}),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname"}, {"failure", "skipped", "system-out"}),
    "failure": ({"type", "message"}, set()),
    "skipped": ({"message"}, set()),
    "system-out": (set(), set()),
}


def read_junit(text: str) -> ElementTree.Element:
    """The document, after a look at its structure and its counts."""
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
    for part in (root, *root.findall("testsuite")):
        assert int(part.attrib["tests"]) == len(part.findall(".//testcase"))
        assert int(part.attrib["failures"]) == len(part.findall(".//failure"))
    return root


def test_junit_has_a_case_a_figure_and_one_for_the_trust_in_each_network() -> None:
    same = figure("clean", state="unchanged", lost=(), gained=())
    left = figure("FGSM", state="open")
    one = checked(
        network("net", figure(), same, left, trust_now="fail", trust_state="changed", trust_reasons=("why not",))
    )
    unseen = network(trust_now=None)
    root = read_junit(to_junit([one, checked(unseen, study="b.yaml")]))
    first_suite, second = root.findall("testsuite")
    assert (first_suite.attrib["name"], second.attrib["name"]) == ("a.yaml", "b.yaml")
    assert {key: first_suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "2",
        "errors": "0",
        "skipped": "1",
    }
    by_name = {case.attrib["name"]: case for case in first_suite.findall("testcase")}
    assert list(by_name) == ["trust", ROSE, "clean", "FGSM"]
    assert {case.attrib["classname"] for case in by_name.values()} == {"net"}
    assert by_name["clean"].find("failure") is None
    assert by_name["FGSM"].find("skipped") is not None
    failed = by_name[ROSE].find("failure")
    assert failed is not None
    assert (failed.attrib["type"], failed.attrib["message"]) == ("changed", figure().sentence)
    fell = by_name["trust"].find("failure")
    assert fell is not None
    assert "trust pass before, fail now" in fell.attrib["message"]
    assert "why not" in fell.attrib["message"]
    skipped = second.find("testcase/skipped")
    assert skipped is not None
    assert "trust pass before, not measured now" in skipped.attrib["message"]
    held = {one.attrib["name"]: one.attrib["value"] for one in first_suite.findall("properties/property")}
    said = {key.removeprefix(f"net: {ROSE}: "): value for key, value in held.items() if ROSE in key}
    assert said["n"] == "20"
    assert (said["right before"], said["right now"], said["p"]) == ("8", "15", "0.01")
    assert said["interval, points"] == "[5.0, 60.0]"
    assert said["difference, points"] == "35"


def test_junit_of_suites_that_cannot_be_compared_is_a_failure_with_the_reason() -> None:
    root = read_junit(to_junit([], "net: the figure 'pgd' is approved and not measured"))
    (failure,) = root.findall(".//failure")
    assert failure.attrib["message"] == "net: the figure 'pgd' is approved and not measured"


@FEW
@given(NAMES)
def test_junit_shows_names_as_text(run: Run, text: str) -> None:
    one = spoilt_check(run.manifest, text)
    root = read_junit(to_junit([one], text))
    assert {case.attrib["name"] for case in root.iter("testcase")} == {
        "trust",
        "comparison",
        *(one_line(figure.figure) for figure in one.verdict.networks[0].figures),
    }
    assert root.findall("testsuite")[0].attrib["name"] == one_line(f"{text}.yaml")
    assert root.findall(".//failure")[-1].attrib["message"] == one_line(text)
    assert root.findall(".//property[@name='approved']")[0].attrib["value"] == one_line(text)


# GitHub


def command_of(line: str) -> tuple[str, dict[str, str], str] | None:
    """What the runner of GitHub Actions takes a line of output for: a command, its properties and its message."""
    old = re.search(r"##\[([^\] ]+)([^\]]*)\](.*)", line)
    new = re.match(r"\s*::([^ :]*)(?: (.*?))?::(.*)", line, re.DOTALL)
    if new is None:
        return None if old is None else (old[1], {}, old[3])
    pairs = (one.partition("=") for one in (new[2] or "").strip().split(",") if one)
    values = {key: value.replace("%3A", ":").replace("%2C", ",").replace("%25", "%") for key, _, value in pairs}
    return new[1], values, new[3].replace("%25", "%")


@MANY
@given(TEXT)
def test_workflow_commands_are_read_back_as_the_text(text: str) -> None:
    read = command_of(f"::error title={github_property(text)}::{github_message(text)}")
    assert read is not None
    name, properties, message = read
    assert (name, message) == ("error", one_line(text))
    assert properties.get("title", "") == one_line(text).rstrip()


COMMANDS = ["::error::x", "  ::set-output name=a::b", "##[error]x", "a ##[stop-commands]b", ":::error::", "###[group]"]


@pytest.mark.parametrize("text", COMMANDS)
def test_a_text_that_is_printed_is_no_workflow_command(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_of(text) is not None or text.startswith(":::")
    for err in (False, True):
        echo(f"{text}\n{text}", err=err)
        printed = capsys.readouterr()
        for line in (printed.err if err else printed.out).splitlines():
            assert command_of(line) is None
            assert not line.lstrip().startswith("::")
    assert json.loads(terminal(json.dumps([text], indent=2))) == [text]


@FEW
@given(NAMES)
def test_terminal_and_annotations_show_names_as_text(run: Run, text: str) -> None:
    one = spoilt_check(run.manifest, f"{text}\n::error::##[error]")
    verdict = one.verdict
    for printed in (figure_table(verdict), headline(verdict), *sentences(verdict)):
        assert not [line for line in terminal(printed).splitlines() if command_of(line)]
    assert json.loads(terminal(json.dumps(as_data(verdict)))) == json.loads(json.dumps(as_data(verdict)))
    lines = annotations([one], text)
    assert len(lines) == 4
    for line in lines:
        assert line.isprintable()
        name, properties, _ = command_of(line) or ("", {}, "")
        assert (name, list(properties)) == ("error", ["title"])


def test_an_annotation_names_the_figure_and_says_why() -> None:
    (line,) = annotations([checked()])
    name, properties, message = command_of(line) or ("", {}, "")
    assert (name, properties, message) == ("error", {"title": f"net: {ROSE}"}, figure().sentence)
    assert "40.0%25 before" in line
    assert annotations([checked(network("net", figure(state="unchanged"), figure(state="open")))]) == []


def test_no_more_is_annotated_than_github_shows() -> None:
    many = [figure(f"f{i}") for i in range(MOST_ANNOTATIONS + 3)]
    lines = annotations([checked(network("net", *many, trust_now="fail", trust_state="changed"))])
    assert len(lines) == MOST_ANNOTATIONS
    assert "trust fell" in lines[0]
    assert "5 more figures or trust verdicts changed" in lines[-1]


def check_summary(text: str, headings: int) -> list[str]:
    """The code spans of a summary, after a look at its structure."""
    tokens = MARKDOWN.parse(text)
    types = [token.type for token in tokens]
    assert types.count("heading_open") == headings
    assert not {"html_block", "fence", "code_block", "blockquote_open", "ordered_list_open", "hr"} & set(types)
    inner = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inner} <= INLINE | {"softbreak", "code_inline"}
    assert not UNPRINTABLE.search(text)
    return [child.content for child in inner if child.type == "code_inline"]


@FEW
@given(NAMES)
def test_the_summary_shows_names_as_text(run: Run, text: str) -> None:
    one = spoilt_check(run.manifest, text)
    codes = check_summary(summary([one], text), headings=2)
    assert [code.strip() for code in codes] == [one_line(each).strip() for each in (one.repeat, one.approve)]


@MANY
@given(TEXT)
def test_a_code_span_is_read_back_as_the_text(text: str) -> None:
    (code,) = check_summary(f"a {markdown_code(text)}", headings=0)
    assert code.strip() == one_line(text).strip()


def test_a_summary_beyond_the_size_that_github_shows_is_cut_with_a_line_that_says_so() -> None:
    many = checked(network("net", *(figure(f"f{i}") for i in range(200))))
    room = 20_000
    whole = summary([many])
    assert len(whole.encode()) > room
    assert "left out" not in whole
    text = summary([many], held=MIB - room)
    assert room - 1000 < len(text.encode()) <= room
    *lines, last = text.splitlines()
    assert lines[:20] == whole.splitlines()[:20]
    left = re.fullmatch(r"(\d+) lines are left out, because GitHub shows at most 1 MiB; .*", last)
    assert left is not None
    assert int(left[1]) + len(lines) - 1 == len(whole.splitlines())
    assert summary([many], held=MIB) == ""


# the page


def page_of(tmp_path: Path, *found: Checked, refused: str = "") -> str:
    file = tmp_path / "gate.html"
    write_page(file, found, refused)
    return file.read_text(encoding="utf-8")


def test_the_page_shows_verdict_curves_flipped_images_trust_and_commands(run: Run, tmp_path: Path) -> None:
    figures = figure(), figure("clean", state="unchanged")
    one = with_baseline(checked(network("net", *figures), evidence=[evidence(run.manifest)]))
    page = page_of(tmp_path, one)
    text = Parsed(page).text
    assert "<h1>Robustness: changed</h1>" in page
    assert headline(one.verdict) in text
    assert "gradients are there" in text
    for words in ("sha256:a", "sha256:b", "numerics", "torch - -> 2.11.0", one.repeat, one.approve, "asked"):
        assert words in text
    assert page.count("data:image/png;base64,") >= 4
    assert not re.search(r'<img(?![^>]* alt="[^"]+")', page)
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    assert page_of(tmp_path, one) == page_of(tmp_path, one)


def test_a_published_rate_is_drawn_with_the_interval_of_its_own_images(run: Run, tmp_path: Path) -> None:
    from satbench.regression.curves import curves
    from satbench.results.metrics import wilson

    published = figure(basis="published", interval=None, before=10.0, lost=(), gained=())
    shown = evidence(run.manifest)
    shown = replace(
        shown, expected=replace(shown.expected, approved=None, published={ROSE: Published(rate=50, n=10_000)})
    )
    drawn = curves(network("net", published), shown)
    assert drawn is not None
    before, now = drawn.axes[0].containers
    (segment,) = before[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([100 * one for one in wilson(5000, 10_000)])
    (segment,) = now[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([100 * one for one in wilson(15, 20)])
    assert "<dt>Published rates</dt>" in page_of(tmp_path, checked(network("net", published), evidence=[shown]))


@FEW
@given(NAMES)
def test_the_page_shows_names_as_text(run: Run, tmp_path: Path, text: str) -> None:
    manifest = spoilt(run, text).manifest
    check_html(page_of(tmp_path, spoilt_check(manifest, text), refused=text), text)


@pytest.mark.parametrize("text", ["_<b>$\\nosuch$", "\x1b[2J](http://h.example)\r\n# $x$"])
def test_curves_show_names_as_text(run: Run, tmp_path: Path, text: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the font has not every script
        page = page_of(tmp_path, spoilt_check(spoilt(run, text).manifest, text, drawn=True))
    check_html(page, text)
    assert "<figure>" in page


def test_outputs_replace_no_file_of_another_kind(tmp_path: Path) -> None:
    for name, check in (("gate.html", check_page_file), ("junit.xml", check_junit_file)):
        file = tmp_path / name
        check(file, "--x")
        file.write_text("mine")
        with pytest.raises(BadInput, match=f"--x .*{name}"):
            check(file, "--x")
        with pytest.raises(BadInput, match="not a plain file"):
            check(tmp_path, "--x")
        with pytest.raises(BadInput, match="is a file; give a folder"):
            check(file / "deep", "--x")
        file.unlink()
    write_page(tmp_path / "gate.html", [], "why")
    check_page_file(tmp_path / "gate.html", "--x")
    (tmp_path / "junit.xml").write_text(to_junit([], "why"))
    check_junit_file(tmp_path / "junit.xml", "--x")


def test_a_page_that_cannot_be_built_replaces_nothing(run: Run, tmp_path: Path) -> None:
    shown = [evidence(run.manifest, drawn=False)]
    before = page_of(tmp_path, checked(network("net", figure(state="unchanged")), evidence=shown))
    with pytest.raises(ValueError, match="zip"):
        page_of(tmp_path, checked(network(), network("other"), evidence=shown))
    assert (tmp_path / "gate.html").read_text(encoding="utf-8") == before
