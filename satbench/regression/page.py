"""The gate's verdict as one self-contained page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from satbench.core.errors import BadInput
from satbench.core.files import check_output_file, write_text
from satbench.regression.curves import curves
from satbench.regression.evidence import Checked, Evidence, Flipped
from satbench.regression.table import HOW, figure_frame, headline, sentences
from satbench.regression.verdict import FigureVerdict, NetworkVerdict, State, worst
from satbench.reporting.pictures import png, png_address
from satbench.reporting.plots import encoded
from satbench.reporting.render import GENERATOR, render
from satbench.reporting.table_forms import MISSING
from satbench.results.schema import Trust

HEAD = 4096  # bytes of a page in which its mark is
MEANING: dict[State, str] = {
    "unchanged": "No figure and no trust verdict differs from what was approved, within the intervals below.",
    "changed": "A figure, or the trust in a network, differs from what was approved.",
    "open": "The images did not settle every figure.",
}
FELL = (
    "Trust fell: the checks of a network doubt its figures more than when they were approved. An accuracy that rose is "
    "then no evidence of robustness, because an attack may have been held up rather than withstood."
)
NUMBERS = ("n", "points", "lost", "gained", "p")  # columns set to the right


def check_page_file(file: Path, option: str) -> None:
    """Refuse, before any work, a path that cannot be a file, or a file that is not a page of satbench."""
    check_output_file(file, option)
    if file.exists():
        with file.open("rb") as stream:
            if GENERATOR.encode() not in stream.read(HEAD):
                raise BadInput(f"{option} {file} is not a page of this satbench; remove it, or give another name")


def write_page(file: Path, checked: Sequence[Checked], refused: str = "") -> None:
    """Write the page; `refused` says why the suites after these could not be compared.

    Everything is computed before the file is replaced, and equal verdicts with equal evidence are equal bytes.
    """
    state = "not compared" if refused else worst([one.verdict.state for one in checked])
    page = render(
        "gate.html.j2",
        title=f"Robustness: {state}",
        meaning="" if refused else MEANING[worst([one.verdict.state for one in checked])],
        refused=refused,
        suites=[_suite(one) for one in checked],
        fell=FELL,
        numbers=NUMBERS,
    )
    write_text(file, page)


def _suite(one: Checked) -> dict[str, Any]:
    verdict = one.verdict
    return {
        "headline": headline(verdict),
        "fell": any(network.trust_state == "changed" for network in verdict.networks),
        "sentences": sentences(verdict),
        "figures": figure_frame(verdict),
        "how": HOW.format(level=verdict.level, miss=verdict.miss),
        "networks": [
            _network(network, shown, one) for network, shown in zip(verdict.networks, one.evidence, strict=True)
        ],
        "repeat": one.repeat,
        "approve": one.approve,
        "is_refused": any(network.trust_now == "fail" for network in verdict.networks),
    }


def _network(network: NetworkVerdict, shown: Evidence, suite: Checked) -> dict[str, Any]:
    figure = curves(network, shown)
    return {
        "name": network.measured,
        "curves": None if figure is None else png_address(encoded(figure)["png"]),
        "inches": 0 if figure is None else figure.get_figwidth(),
        "alt": f"Accuracy over eps of {network.measured}, before and now. The numbers are in the table of figures.",
        "flipped": [_flipped(one, shown.flipped[one.figure]) for one in network.figures if one.lost or one.gained],
        "trust": network.trust_sentence,
        "findings": _findings(shown.manifest.trust),
        "about": _about(network, shown, suite),
    }


def _flipped(one: FigureVerdict, drawn: Sequence[Flipped]) -> dict[str, Any]:
    count = len(one.lost) + len(one.gained)
    rest = f" The first {len(drawn)} of {count} are drawn; --json names all." if len(drawn) < count else ""
    return {
        "figure": one.figure,
        "caption": f"{one.figure}: {len(one.lost)} images lost, {len(one.gained)} gained.{rest}",
        "images": [
            {
                "sample": each.sample,
                "label": each.label,
                "before": "right" if each.was_right else "wrong",
                "now": each.now,
                "image": png_address(png(each.image)),
                "attacked": None if each.attacked is None else png_address(png(each.attacked)),
            }
            for each in drawn
        ],
    }


def _findings(trust: Trust | None) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "check": one.check,
                "outcome": one.outcome,
                "what was seen": one.sentence,
                "try next": one.next_attack or MISSING,
            }
            for one in (trust.findings if trust else ())
        ]
    )


def _about(network: NetworkVerdict, shown: Evidence, suite: Checked) -> list[tuple[str, list[str]]]:
    """Where the figures of before and now come from."""
    now, held, baseline = shown.manifest, shown.expected.approved, suite.baseline
    published = [f"{name}: {one.rate:g}% on {one.n} images" for name, one in shown.expected.published.items()]
    if held is None or baseline is None:
        before = [("Published rates", published)]
    else:
        before = [
            ("Approved", [baseline.reason]),
            ("Weights before", [held.network, *([f"training {held.training}"] if held.training else [])]),
            ("Numerics before", [held.numerics or "not repeatable bit for bit"]),
            ("Versions before", [_versions(baseline.versions)]),
            ("Versions that differ", _differing(baseline.versions, now.versions) or ["none"]),
            ("Revision before", [baseline.revision or "unknown"]),
            ("Evaluation, approved", [held.asked]),
            ("Images, approved", [held.data]),
        ]
    return [
        *before,
        ("Network", [f"{now.model.reference}"]),
        ("Weights now", [network.digest_now]),
        ("Images now", [f"{now.data.name}/{now.data.split}: {now.data.n} of {network.images}", now.data.digest]),
        ("Attacks", [one.id for one in now.attacks]),
        ("Seed", [str(now.seed)]),
        ("Numerics now", [f"{now.numerics}, device {now.device}, threads {now.threads}"]),
        ("Versions now", [_versions(now.versions)]),
        ("Revision now", [now.revision or "unknown"]),
        ("Passes of images", [f"{network.passes:,}"]),
    ]


def _differing(before: dict[str, str], now: dict[str, str]) -> list[str]:
    names = [name for name in before | now if before.get(name) != now.get(name)]
    return [f"{name} {before.get(name, MISSING)} -> {now.get(name, MISSING)}" for name in names]


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())
