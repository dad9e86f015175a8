"""What commands print: text of files and users cannot control the terminal, and only a terminal sees colour."""

from typing import TYPE_CHECKING

import typer

from satbench.core.errors import BadInput
from satbench.core.escaping import one_line, terminal

if TYPE_CHECKING:
    import pandas as pd

    from satbench.reporting.brief import Tone

STYLES = {"good": "bold green", "doubt": "bold yellow", "bad": "bold red"}


def echo(text: str, err: bool = False, nl: bool = True) -> None:
    """Print lines on standard output, or with `err` on standard error."""
    typer.echo(terminal(text), err=err, nl=nl)


def echo_error(text: str) -> None:
    """Print why a command ends, in one line on standard error."""
    typer.echo(_shown(f"satbench: {text}"), err=True)


def echo_annotation(command: str) -> None:
    """Print a workflow command of GitHub Actions on standard error; its texts are escaped already."""
    typer.echo(command, err=True)


def echo_table(frame: "pd.DataFrame") -> None:
    """Print texts under their names: in columns on a terminal, elsewhere in Markdown."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from satbench.reporting.table_forms import markdown_table

    console = Console()
    if not console.is_terminal:
        echo(markdown_table(frame))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in frame.columns:
        table.add_column(Text(_shown(name)), overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_shown(cell)) for cell in row))
    console.print(table)
    console.print()


def echo_verdict(text: str, tone: "Tone") -> None:
    """Print the sentence that answers what the command was asked, in the colour of its tone on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    if console.is_terminal:
        console.print(Text(_shown(text), STYLES[tone]))
    else:
        echo(text)


def check_amount(quiet: bool, verbose: bool, as_json: bool = False) -> None:
    """Raise `BadInput` where a command is asked to print more and less at once."""
    if verbose and (quiet or as_json):
        raise BadInput(f"--verbose and {'--quiet' if quiet else '--json'} do not go together; give one of them")


def _shown(text: str) -> str:
    """Text of others as one line."""
    return terminal(one_line(text))
