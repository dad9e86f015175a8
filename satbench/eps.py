"""How a radius is spelled: `8/255` for people, 0.0314 for the code. Needs no torch."""

import math
from fractions import Fraction

from satbench.errors import BadInput

NORMS = ("Linf", "L2", "L1")


def parse_eps(text: str, norm: str = "Linf") -> float:
    """The radius written as `8/255` or `0.03`, in the pixel scale of [0, 1].

    Raises `BadInput` for anything that is not a finite number >= 0, and for an Linf radius above 1, which is nearly
    always a radius in units of 0..255; the message then gives the spelling that was probably meant.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise BadInput(f"eps {text!r} is not a number; write it as 8/255 or 0.03") from None
    if not math.isfinite(value) or (slash and not math.isfinite(float(denominator))):
        raise BadInput(f"eps {text!r} is not a finite number; write it as 8/255 or 0.03")
    if value < 0:
        raise BadInput(f"eps {text!r} is negative; a radius is at least 0, write {text.strip().lstrip('-')}")
    if norm == "Linf" and value > 1:
        meant = f"did you mean {value:g}/255?" if value <= 255 else "write it as 8/255 or 0.03"
        raise BadInput(f"eps {text!r} is larger than the whole pixel range [0, 1]; {meant}")
    return value


def format_eps(eps: float) -> str:
    """The shortest usual spelling: `8/255` for a multiple of 1/255 up to 64/255, else a decimal that reads back."""
    in_255 = eps * 255
    if abs(in_255 - round(in_255)) < 1e-6 and 1 <= round(in_255) <= 64 and Fraction(str(eps)).denominator > 1000:
        return f"{round(in_255)}/255"
    return f"{eps:g}" if float(f"{eps:g}") == eps else repr(eps)


def default_step(eps: float, steps: int) -> float:
    """The step of PGD where none is stated, min(eps, 2.5 eps / steps): 2/255 for 10 steps at 8/255."""
    return min(eps, 2.5 * eps / steps)


def sat_step(eps: float, steps: int) -> float:
    """The step of the SAT release, max(1/255, eps / steps): 1/255 for 10 and more steps at 4/255, eps for one step."""
    return max(1 / 255, eps / steps)
