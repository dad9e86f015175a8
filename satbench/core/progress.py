"""How long work tells what it has done."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # how much is done, how much there is, what is running


def silent(done: int, total: int, what: str) -> None:
    """A progress report that goes nowhere."""
