"""`satbench migrate`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo


def command(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Run folders, folders that hold some, or a runs.json.")
    ],
) -> None:
    """Rewrite runs and summaries of an earlier satbench in the present schema; their records stay as they are."""
    from satbench.evaluation.migrate import migrate

    for path in paths:
        for place, done in migrate(path):
            echo(f"{place}: {done}")
