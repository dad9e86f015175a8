"""`satbench verify`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

MOST_SHOWN = 20


def command(
    run: Annotated[Path, typer.Argument(help="A run folder of `satbench eval`.")],
    model: Annotated[str | None, typer.Option(help="The network, when it is not where the run found it.")] = None,
    checkpoint: options.Checkpoint = None,
    dataset: Annotated[str | None, typer.Option(help="The images, likewise.")] = None,
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    attack: Annotated[
        list[str] | None,
        typer.Option(help="An attack of the run from outside satbench, to run again. May be repeated."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="The network that a transfer attack searched on.")
    ] = None,
    sample: Annotated[int, typer.Option(help="At least so many random images are attacked again by each attack.")] = 32,
    seal: Annotated[str | None, typer.Option(help="The seal that was published with the run, or its start.")] = None,
    row: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A leaderboard's file of this run, which must say what the run says."),
    ] = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Compute a run again, in part, and compare; exit 1 when its records claim what does not hold."""
    from satbench.cli.progress import announce, progress_bar
    from satbench.core.devices import check_device
    from satbench.core.parameters import Index, check

    check_device(device)
    check("--sample", sample, Index)
    announce(f"verify {run}: time left follows")

    from satbench.evaluation.pictures import examples_of
    from satbench.evaluation.verify import verify
    from satbench.reporting.examples import Example
    from satbench.reporting.run_file import differences, read_entry
    from satbench.results.store import read_run

    entry, stored = None if row is None else read_entry(row), read_run(run)
    differing = [] if entry is None else [f"{row}: {one}" for one in differences(entry, stored)]

    with progress_bar(f"verify {run.name}") as report:
        found = verify(run, model, checkpoint, dataset, data_dir, device, attack or (), source, sample, seal, report)
    if entry is not None and entry.examples and not found.faults:
        again = examples_of(stored, data_dir, dataset)
        if len(again) != len(entry.examples) or not all(map(Example.shows, entry.examples, again)):
            differing.append(f"{row}: its pictures are not those of the run")
    faults = [*differing, *found.faults]
    for fault in faults[:MOST_SHOWN]:
        echo(f"FAULT {fault}", err=True)
    if len(faults) > MOST_SHOWN:
        echo(f"... and {len(faults) - MOST_SHOWN} more", err=True)
    for sentence in found.skipped:
        echo(f"not checked: {sentence}")
    if entry is not None and entry.training:
        echo(f"not checked: the log of the training in {row}, which is no part of the run")
    echo(
        f"{run}: {found.clean} clean predictions, {found.broken} stored examples and {found.attacked} attacks on an "
        f"image computed again, {found.exact} attacks compared exactly, {found.differing} of the others differ as two "
        f"honest runs may; {found.unproven} records have no example; {len(faults)} faults"
    )
    if row is not None and not differing:
        echo(f"{row}: says what the run says")
    if faults:
        raise typer.Exit(1)
