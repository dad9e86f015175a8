"""What commands print: text of files and users cannot control the terminal."""

import typer

from satbench.core.escaping import one_line, terminal


def echo(text: str, err: bool = False, nl: bool = True) -> None:
    """Print lines on standard output, or with `err` on standard error."""
    typer.echo(terminal(text), err=err, nl=nl)


def echo_error(text: str) -> None:
    """Print why a command ends, in one line on standard error."""
    typer.echo(terminal(one_line(f"satbench: {text}")), err=True)
