"""Fractions as percent with one decimal, other figures with three digits; never rounded in favour of a claim."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal


def down(fraction: float) -> str:
    """Percent with one decimal, rounded down: 0.7999 is 79.9."""
    return _percent(fraction, ROUND_FLOOR)


def up(fraction: float) -> str:
    """Percent with one decimal, rounded up: 0.8001 is 80.1."""
    return _percent(fraction, ROUND_CEILING)


def inward(fraction: float) -> str:
    """Percent with one decimal, rounded towards zero, with its sign: a difference is never made larger."""
    text = down(fraction) if fraction >= 0 else up(fraction)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def outward(low: float, high: float) -> str:
    """An interval `[12.3, 45.6]` in percent, its lower bound rounded down and its upper bound up."""
    return f"[{down(low)}, {up(high)}]"


def with_interval(value: float, low: float, high: float) -> str:
    """A figure with its interval, `1.23 [1.1, 1.38]`: three significant digits, the bounds rounded outward."""
    bounds = _significant(low, ROUND_FLOOR), _significant(high, ROUND_CEILING)
    return f"{_significant(value, ROUND_HALF_EVEN)} [{', '.join(bounds)}]"


def _significant(value: float, rounding: str) -> str:
    if not math.isfinite(value) or not value:
        return f"{value:g}"
    exact = Decimal(repr(float(value)))
    return f"{float(exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding)):.6g}"


def _percent(fraction: float, rounding: str) -> str:
    tenths = (Decimal(repr(float(fraction))) * 1000).to_integral_value(rounding)
    return f"{(tenths / 10) + 0:.1f}"
