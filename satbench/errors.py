"""The one exception that means: what was given cannot be used."""


class BadInput(ValueError):
    """One line saying what was given, what was expected and what to do; the command line exits 2 on it."""
