"""The gate's verdict as JUnit XML: a test suite a study file, a test case a figure."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from satbench.core.errors import BadInput
from satbench.core.escaping import one_line
from satbench.core.files import check_output_file
from satbench.regression.evidence import Checked
from satbench.regression.verdict import Case, FigureVerdict, SuiteVerdict, cases
from satbench.reporting.rounding import outward

NAME = "satbench check"
DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>'


def to_junit(checked: Sequence[Checked], refused: str = "") -> str:
    """The verdicts in the dialect of the Jenkins xUnit schema (junit-10.xsd), which other readers accept too.

    A figure, or the trust in a network, is a failure where it changed, and skipped where it was left open because
    another one had changed. `refused` says why the suites after these could not be compared: a failure by itself.
    Numbers are properties of the test suite, because the schema has none for a test case.
    """
    root = Element("testsuites", name=NAME)
    for one in checked:
        _suite(root, one.verdict.study, cases(one.verdict), _properties(one.verdict))
    if refused:
        _suite(root, NAME, [Case(NAME, "comparison", "changed", refused)], {})
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.attrib[key]) for suite in root)))
    indent(root)
    return f"{DECLARATION}\n{tostring(root, encoding='unicode')}\n"


def check_junit_file(file: Path, option: str) -> None:
    """Refuse, before any work, a path that cannot be a file, or a file that is not XML."""
    check_output_file(file, option)
    if file.exists():
        with file.open("rb") as stream:
            if not stream.read(len(DECLARATION)).startswith(DECLARATION[:5].encode()):
                raise BadInput(f"{option} {file} is a file other than XML; remove it, or give another name")


def _suite(root: Element, name: str, found: Sequence[Case], properties: dict[str, object]) -> None:
    states = [one.state for one in found]
    counts = {
        "tests": len(found),
        "failures": states.count("changed"),
        "errors": 0,
        "skipped": states.count("open"),
    }
    suite = SubElement(root, "testsuite", {key: str(count) for key, count in counts.items()}, name=one_line(name))
    held = SubElement(suite, "properties")
    for key, value in properties.items():
        SubElement(held, "property", name=one_line(key), value=one_line(str(value)))
    for one in found:
        case = SubElement(suite, "testcase", classname=one_line(one.measured), name=one_line(one.name))
        message = one_line(one.sentence)
        if one.state == "changed":
            SubElement(case, "failure", type=one.state, message=message).text = message
        elif one.state == "open":
            SubElement(case, "skipped", message=message)
        SubElement(case, "system-out").text = message


def _properties(verdict: SuiteVerdict) -> dict[str, object]:
    found: dict[str, object] = {
        "verdict": verdict.state,
        "approved": verdict.approved or "published rates",
        "false alarms": verdict.level,
        "missed drops": verdict.miss,
    }
    for network in verdict.networks:
        about = {
            "trust before": network.trust_before or "-",
            "trust now": network.trust_now or "-",
            "weights before": network.digest_before or "-",
            "weights now": network.digest_now,
            "passes": network.passes,
        }
        found |= {f"{network.measured}: {key}": value for key, value in about.items()}
        for one in network.figures:
            found |= {f"{one.measured}: {one.figure}: {key}": value for key, value in _numbers(one).items()}
    return found


def _numbers(one: FigureVerdict) -> dict[str, object]:
    return {
        "n": one.n,
        "images": one.images,
        "right before": f"{one.before:g}",
        "right now": one.now,
        "lost": len(one.lost),
        "gained": len(one.gained),
        "compared": one.basis,
        "difference, points": f"{100 * (one.now - one.before) / one.n:.3g}",
        "interval, points": "-" if one.interval is None else outward(one.interval.low, one.interval.high),
        "p": "-" if one.p_value is None else f"{one.p_value:.3g}",
    }
