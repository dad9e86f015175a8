"""What more than one method refuses."""

from satbench.core.errors import BadInput


def refuse_unless_positive(method: str, **values: object) -> None:
    """Raises `BadInput` for a parameter that is not a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise BadInput(f"{name} of {method} is {value!r}; give a positive number")
