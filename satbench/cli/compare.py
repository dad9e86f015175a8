"""`satbench compare`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo


def command(
    run_a: Annotated[Path, typer.Argument(help="Run folder of `satbench eval`.")],
    run_b: Annotated[Path, typer.Argument(help="Another one, on the same images.")],
    points: Annotated[
        float | None, typer.Option(help="Also say how many images would settle a difference of so many points.")
    ] = None,
) -> None:
    """Compare two runs image by image, with intervals and the exact McNemar test."""
    from satbench.core.errors import BadInput
    from satbench.reporting.paired import compare_runs, to_markdown
    from satbench.results.store import read_run

    if points is not None and not 0 < points <= 100:
        raise BadInput(f"--points {points:g} is no difference of two rates; give percent points above 0, at most 100")
    echo(to_markdown(compare_runs(read_run(run_a), read_run(run_b)), points), nl=False)
