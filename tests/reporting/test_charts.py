"""Colours of pages for all kinds of colour vision, and charts that compile."""

import itertools
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import satbench.reporting
from satbench.reporting import charts

TEMPLATES = Path(satbench.reporting.__file__).parent / "templates"
# severity 1 in Machado, Oliveira & Fernandes 2009 (IEEE TVCG 15:1291), on linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
# sRGB to CIE XYZ, and its white (IEC 61966-2-1)
XYZ = np.array([[0.4124564, 0.3575761, 0.180437], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
Vector = npt.NDArray[np.float64]


def linear(colour: str) -> Vector:
    value = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: Vector) -> Vector:
    ratio = XYZ @ np.clip(rgb, 0, 1) / XYZ.sum(axis=1)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """Of WCAG 2."""
    dark, bright = sorted(float(XYZ[1] @ linear(colour)) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


def schemes() -> dict[str, dict[str, str]]:
    """The named colours of the pages, light and dark."""
    style = (TEMPLATES / "base.html.j2").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{([^}]*)\}", style))
    return {"light": light, "dark": dark}


PALETTES = {"light": charts.LIGHT, "dark": charts.DARK}


@pytest.mark.parametrize("scheme", PALETTES)
@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_for_every_kind_of_colour_vision(scheme: str, vision: str) -> None:
    """Twenty times a difference in CIELAB that is just noticed, about 1 (CIE 1976)."""
    seen = [lab(np.array(VISION[vision]) @ linear(colour)) for colour in PALETTES[scheme]]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 20


@pytest.mark.parametrize("scheme", PALETTES)
def test_marks_and_texts_stand_out_from_the_paper(scheme: str) -> None:
    """WCAG 2.2 asks for 3:1 for graphics (1.4.11) and 4.5:1 for text (1.4.3)."""
    named = schemes()[scheme]
    assert min(contrast(colour, named["paper"]) for colour in PALETTES[scheme]) >= 3
    texts = [contrast(named[text], named[paper]) for text in ("ink", "soft", "link") for paper in ("paper", "tint")]
    assert min(texts) >= 4.5


def test_a_colour_and_a_shape_together_name_42_values() -> None:
    pairs = {(place % len(charts.LIGHT), place % len(charts.SHAPES)) for place in range(42)}
    assert len(pairs) == 42
    assert len(charts.LIGHT) == len(charts.DARK)


@pytest.mark.parametrize("spec", [charts.scatter(True), charts.scatter(False), charts.curves("eps", "accuracy")])
def test_charts_have_the_data_and_signals_that_pages_set(spec: dict[str, list[dict[str, str]]]) -> None:
    assert any(data["name"] == "points" for data in spec["data"])
    if spec == charts.scatter(True):
        assert {"by", "near"} <= {signal["name"] for signal in spec["signals"]}
