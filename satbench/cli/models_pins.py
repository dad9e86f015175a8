"""`satbench models pins`: the digests that a group shares."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo

app = typer.Typer(help="Share the digests that were pinned at the first use.", no_args_is_help=True)


@app.command("export")
def export(out: Annotated[Path, typer.Argument(help="File to write.")]) -> None:
    """Write all pins of this machine to a file."""
    from satbench.zoo.cache import export_pins

    echo(f"{out}: pins of {export_pins(out)} models")


@app.command("import")
def import_(file: Annotated[Path, typer.Argument(help="A file that `satbench models pins export` wrote.")]) -> None:
    """Add the pins of a file; one that differs from a pin of this machine is refused, and none is added."""
    from satbench.zoo.cache import import_pins

    echo(f"{file}: {import_pins(file)} new pins")
