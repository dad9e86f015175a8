"""The page of the trust battery: every verdict is explained."""

import json
from pathlib import Path
from typing import get_args

import pytest

from satbench.core.eps import Threat
from satbench.reporting.trust_page import write_trust
from satbench.results.schema import DataInfo, ModelInfo, Verdict

from .made import EPS, trust


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_the_page_says_what_each_verdict_means(verdict: str, tmp_path: Path) -> None:
    found = trust(verdict, "Square needs 900 more passes")
    stored, index = write_trust(
        tmp_path,
        found,
        ModelInfo(ref="net", digest="sha256:0", label="net"),
        DataInfo(name="digits", split="test", n=4, digest="sha256:1"),
        Threat(norm="Linf", eps=EPS),
        0,
        {"growing eps": "Does accuracy fall?"},
    )
    text = index.read_text()
    meaning = text.partition(f"<strong>{verdict}</strong>. ")[2].partition("</p>")[0]
    assert len(meaning) > 20
    assert "Square needs 900 more passes" in text
    assert json.loads(stored.read_text())["verdict"] == verdict
