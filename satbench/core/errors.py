"""The one exception that means: what was given cannot be used; and the exceptions that faulty foreign code raises."""

# not KeyboardInterrupt, MemoryError and the like, which say nothing about the code
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
LONGEST = 4000  # characters of a message


class BadInput(ValueError):
    """One line saying what was given, what was expected and what to do; the command line exits 2 on it.

    The middle of a line of more than 4,000 characters is left out: what was given can be long.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > LONGEST:
            message = f"{message[: LONGEST // 2]} [...] {message[-LONGEST // 2 :]}"
        super().__init__(message)


class ReportedElsewhere(BadInput):
    """Another process of the same training reports the error; the command line exits 2 without a line."""


def reason(error: BaseException) -> str:
    """An exception in one line without a full stop; its type is named, but for `BadInput`, whose words suffice."""
    first = (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")
    return first if isinstance(error, BadInput) else f"{type(error).__name__}: {first}"
