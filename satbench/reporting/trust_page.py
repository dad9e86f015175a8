"""What the full form of the trust battery found, as one self-contained page and as JSON."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from satbench.core.eps import Threat
from satbench.core.files import check_output_folder, to_json, write_text
from satbench.reporting.names import threat_name
from satbench.reporting.render import check_page_folder, render
from satbench.reporting.table_forms import MISSING
from satbench.results.schema import DataInfo, ModelInfo, Trust

TRUST_FILE = "trust.json"
MEANING = {
    "pass": "No check found a reason to doubt it. That is no proof: a stronger attack may still lower it.",
    "not checked": "The passes or images did not suffice for the checks named below, so the figure is unconfirmed.",
    "suspicious": "An attack may have been held up rather than withstood. Take the figure for an upper bound, and try "
    "the attacks named below.",
    "fail": "No figure measured on this network as it is can be believed.",
}


def check_trust_folder(folder: Path) -> None:
    """Raise `BadInput` for an output folder that is neither new nor that of such a page."""
    check_output_folder(folder, TRUST_FILE)
    check_page_folder(folder)


def write_trust(
    folder: Path, trust: Trust, model: ModelInfo, data: DataInfo, threat: Threat, seed: int, asks: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write `trust.json`, which `Trust` reads back, and `index.html` into `folder`; returns both paths.

    `asks` is the question behind each check. Equal findings give equal bytes.
    """
    findings = pd.DataFrame(
        [
            {
                "check": finding.check,
                "question": asks.get(finding.check, MISSING),
                "outcome": finding.outcome,
                "what was seen": finding.sentence,
                "try next": f"--attack {finding.next_attack}" if finding.next_attack else MISSING,
            }
            for finding in trust.findings
        ]
    )
    page = render(
        "trust.html.j2",
        title=f"Can the robustness of {model.label} be trusted?",
        verdict=trust.verdict,
        meaning=MEANING[trust.verdict],
        findings=findings,
        numbers=(),
        measured=[
            ("Network", f"{model.reference}, digest {model.digest}"),
            ("Images", f"{data.name}/{data.split}: {data.n} images, digest {data.digest}"),
            ("Image loader", data.loader or MISSING),
            ("Threat", threat_name(threat.norm, threat.eps)),
            ("Form", trust.depth),
            ("Seed", str(seed)),
            ("Passes of images", f"{trust.forward:,} forward, {trust.backward:,} backward"),
        ],
    )
    stored, index = folder / TRUST_FILE, folder / "index.html"
    write_text(stored, to_json(trust.model_dump(mode="json")))
    write_text(index, page)
    return stored, index
