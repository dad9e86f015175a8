"""Interactive charts of pages, as Vega specifications without data, and their colours."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from satbench.reporting.browser import compiled

# found by search: with every kind of colour vision far apart, at least 3:1 against the paper of pages
LIGHT = ("#3d23ff", "#9d9216", "#98458f", "#4d7351", "#0097ff", "#7b0000", "#000000")
DARK = ("#45d7ff", "#e19734", "#8364c2", "#ffd700", "#148188", "#c81a2e", "#ffffff")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")  # no divisor of the colours' number
HATCH = "url(#hatch)"  # a pattern of the page

_TEXT = {"labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12, "titleFontSize": 12}
_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "aria": False,
    "view": {"stroke": None},
    "axis": {
        **_TEXT,
        "gridColor": "var(--line)",
        "domainColor": "var(--soft)",
        "tickColor": "var(--soft)",
        "titleFontWeight": "normal",
    },
    "legend": {**_TEXT, "orient": "bottom", "title": None, "labelLimit": 260, "symbolSize": 90, "symbolOpacity": 1},
    "range": {"category": [f"var(--c{place})" for place in range(len(LIGHT))], "symbol": list(SHAPES)},
}


@cache
def scatter(is_measured: bool) -> dict[str, Any]:
    """Clean against robust accuracy in percent; with `is_measured` false, of published figures alone.

    The data set `points` has rows with id, clean, clean_lo, clean_hi, robust, robust_lo, robust_hi, activation, method,
    twins (equal for models that differ in the activation alone, else ""), and published (a text, "" for what was
    measured). The signal `by` is the column that decides the colour, `near` the id of the point under the mouse, and
    `kept` an object with the ids of the models that are not faint, null for all.
    """
    layers = [*_measured(), _published()] if is_measured else [_published()]
    params = [{"name": "by", "value": "activation"}, {"name": "near", "value": -1}, {"name": "kept", "value": None}]
    shown = {"calculate": "datum[by]", "as": "shown"}
    return compiled(_spec(height=340, params=params, transform=[shown], layer=layers))


def _measured() -> list[dict[str, object]]:
    shown = {"field": "shown", "type": "nominal"}
    edge = {"condition": {"test": _NEAR, "value": "var(--ink)"}, "value": "var(--paper)"}
    faint = {"condition": {"test": _FAINT, "value": 0.12}, "value": 1}
    return [
        {
            "transform": [{"filter": f"datum.twins && !({_FAINT})"}],
            "mark": {"type": "line", "stroke": "var(--soft)", "strokeDash": [4, 3], "strokeWidth": 1.2},
            "encoding": {**_PLACE, "detail": {"field": "twins"}, "order": {"field": "clean"}},
        },
        _interval("clean"),
        _interval("robust"),
        {
            "transform": [{"filter": "!datum.published"}],
            "mark": {"type": "point", "filled": True, "size": 110, "cursor": "pointer"},
            "encoding": {**_PLACE, "color": shown, "shape": shown, "stroke": edge, "opacity": faint},
        },
    ]


def _published() -> dict[str, object]:
    mark = {"type": "point", "shape": "square", "size": 150, "fill": HATCH, "stroke": "var(--ink)"}
    return {"transform": [{"filter": "datum.published"}], "mark": mark, "encoding": _PLACE}


@cache
def curves(x: str, y: str) -> dict[str, Any]:
    """Lines over `x` with their 95% bands, in the data set `points`: x, y, and low, high where known, and series."""
    x_axis = {"field": "x", "type": "quantitative", "title": x}
    y_axis = {"field": "y", "type": "quantitative", "title": y}
    colour = {"field": "series", "type": "nominal"}
    return compiled(
        _spec(
            height=220,
            layer=[
                {
                    "transform": [{"filter": "isValid(datum.low)"}],
                    "mark": {"type": "area", "opacity": 0.18},
                    "encoding": {
                        "x": x_axis,
                        "y": {"field": "low", "type": "quantitative", "title": y},
                        "y2": {"field": "high"},
                        "color": colour,
                    },
                },
                {
                    "mark": {"type": "line", "point": {"size": 40}},
                    "encoding": {"x": x_axis, "y": y_axis, "color": colour},
                },
            ],
        )
    )


def _percent(field: str) -> dict[str, object]:
    scale = {"zero": False, "nice": False, "padding": 14}
    inside = "datum.value < 0 || datum.value > 100 ? '' : format(datum.value, '~g')"
    axis = {"labelExpr": inside, "tickCount": 8}
    return {"field": field, "type": "quantitative", "title": f"{field} accuracy, %", "scale": scale, "axis": axis}


_PLACE = {"x": _percent("clean"), "y": _percent("robust")}
_NEAR = "datum.id === near"
_FAINT = "kept && !kept[datum.id]"


def _interval(field: str) -> dict[str, object]:
    """The 95% interval of each point, clear under the mouse and pale otherwise; published figures have none."""
    across = "x" if field == "clean" else "y"
    pale = [{"test": _NEAR, "value": 1}, {"test": _FAINT, "value": 0.03}]
    place = {**_PLACE, across: {**_PLACE[across], "field": f"{field}_lo"}, f"{across}2": {"field": f"{field}_hi"}}
    return {
        "transform": [{"filter": "!datum.published"}],
        "mark": {"type": "rule", "strokeWidth": 1.5, "stroke": "var(--ink)"},
        "encoding": {**place, "opacity": {"condition": pale, "value": 0.16}},
    }


def _spec(**parts: object) -> dict[str, object]:
    return {
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": _CONFIG,
        "data": {"name": "points"},
        **parts,
    }


def palette(colours: Sequence[str]) -> str:
    """The colours as custom properties of a style sheet."""
    return " ".join(f"--c{place}: {colour};" for place, colour in enumerate(colours))
