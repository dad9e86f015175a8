"""A threat as a value, and how its radius is spelled: `8/255` for people, 0.0314 for the code. Needs no torch."""

import math
from fractions import Fraction
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from satbench.core.errors import BadInput
from satbench.core.lookup import nearest

Norm = Literal["Linf", "L2", "L1"]
NORMS: tuple[Norm, ...] = get_args(Norm)


class Threat(BaseModel):
    """A norm and a radius in the pixel scale of [0, 1], a number or text that `parse_eps` accepts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    norm: Norm
    eps: float = Field(strict=True)  # which refuses true and false

    @field_validator("eps", mode="before")
    @classmethod
    def _radius(cls, given: object, others: ValidationInfo) -> object:
        norm = others.data.get("norm", "L2")  # missing where it was refused
        if isinstance(given, bool) or not isinstance(given, str | int | float):
            return given
        return parse_eps(given, norm)

    def __str__(self) -> str:
        return f"{self.norm} {format_eps(self.eps)}"


def stated_threat(text: str, where: str = "threat") -> Threat:
    """The threat that is written as NORM:EPS, such as Linf:8/255; a `BadInput` begins with `where`."""
    norm, colon, eps = (part.strip() for part in text.partition(":"))
    if not colon:
        raise BadInput(f"{where} {text!r} is not NORM:EPS, such as Linf:8/255; norms are {', '.join(NORMS)}")
    if norm not in NORMS:
        raise BadInput(f"unknown norm {norm!r}; {nearest(norm, NORMS)}")
    return Threat(norm=norm, eps=parse_eps(eps, norm))


def parse_eps(text: str | float, norm: str = "Linf") -> float:
    """The radius given as a number or written as `8/255` or `0.03`, in the pixel scale of [0, 1].

    Raises `BadInput` for anything that is not a finite number >= 0, for one that float64 rounds to 0, and for an Linf
    radius above 1, which is nearly always a radius in units of 0..255; the message then gives the spelling that was
    probably meant.
    """
    try:
        text = text if isinstance(text, str) else repr(float(text))
        numerator, slash, denominator = text.partition("/")
        value = float(numerator) / (float(denominator) if slash else 1.0)
    except (ValueError, OverflowError, ZeroDivisionError):
        raise BadInput(f"eps {text!r} is not a number; write it as 8/255 or 0.03") from None
    if not math.isfinite(value) or (slash and not math.isfinite(float(denominator))):
        raise BadInput(f"eps {text!r} is not a finite number; write it as 8/255 or 0.03")
    if value == 0 and numerator.strip().lower().partition("e")[0].strip("+-0._"):
        raise BadInput(f"eps {text!r} is too small for a number; give 0 or a larger radius")
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
