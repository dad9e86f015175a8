"""`satbench verify`."""

from pathlib import Path
from typing import Annotated

import typer

MOST_SHOWN = 20


def command(
    run: Annotated[Path, typer.Argument(help="A run folder of `satbench eval --save-examples`.")],
    model: Annotated[str | None, typer.Option(help="The network, when it is not where the run found it.")] = None,
    dataset: Annotated[str | None, typer.Option(help="The images, likewise.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where relative data paths lie; or SATBENCH_DATA.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Check every stored example of a run from scratch; exit 1 when the records claim what does not hold."""
    from satbench.cli.progress import progress_bar
    from satbench.evaluation.verify import verify

    with progress_bar(f"verify {run.name}", "examples") as report:
        found = verify(run, model, dataset, data_dir, device, report)
    for fault in found.faults[:MOST_SHOWN]:
        typer.echo(f"FAULT {fault}", err=True)
    if len(found.faults) > MOST_SHOWN:
        typer.echo(f"... and {len(found.faults) - MOST_SHOWN} more", err=True)
    typer.echo(
        f"{run}: {found.clean} clean predictions and {found.broken} broken images computed again, "
        f"{len(found.faults)} faults; {found.unproven} standing images are what no example can prove"
    )
    if found.faults:
        raise typer.Exit(1)
