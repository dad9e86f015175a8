"""`satbench compare`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli import options
from satbench.cli.output import echo

SIZE = 5.0  # points below which a difference does not matter, for --until-settled


def command(
    run_a: Annotated[Path, typer.Argument(help="Run folder of `satbench eval`.")],
    run_b: Annotated[Path, typer.Argument(help="Another one, on the same images.")],
    points: Annotated[
        float | None,
        typer.Option(
            help="Also say how many images would settle a difference of so many points; with --until-settled the "
            f"difference that does not matter, by default {SIZE:g}."
        ),
    ] = None,
    until_settled: Annotated[
        bool, typer.Option("--until-settled", help="Measure more images of both runs until every figure is settled.")
    ] = False,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
) -> None:
    """Compare two runs image by image, with intervals and the exact McNemar test."""
    from satbench.core.errors import BadInput
    from satbench.reporting.paired import compare_runs, to_markdown
    from satbench.results.store import read_run

    if points is not None and not 0 < points <= 100:
        raise BadInput(f"--points {points:g} is no difference of two rates; give percent points above 0, at most 100")
    if not until_settled:
        echo(to_markdown(compare_runs(read_run(run_a), read_run(run_b)), points), nl=False)
        return
    from satbench.study import settled

    compare_runs(read_run(run_a), read_run(run_b))  # refuses what cannot be compared
    size = (SIZE if points is None else points) / 100
    for found in settled.until_settled(run_a, run_b, size, data_dir, device):
        left = sum(one.verdict == "open" for one in found)
        echo(f"{found[0].n} images; figures not settled: {left}", err=True)
    echo(settled.to_markdown(found, size), nl=False)
