"""What a command that refuses its input prints on standard error."""

COMMANDS = (
    "eval ",
    "train ",
    "trust ",
    "study ",
    "cost ",
    "probe ",
    "verify ",
    "demo: ",
    "report",
    "doctor",
    "recipes",
    "card",
    "leaderboard check",
)


def refusal(stderr: str) -> str:
    """The one line that says why; before it at most the line that says what the command was about to do."""
    *first, line = stderr.splitlines()
    assert line.startswith("satbench: "), stderr
    assert len(first) <= 1, stderr
    assert all(one.startswith(COMMANDS) for one in first), stderr
    return line
