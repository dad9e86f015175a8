"""`satbench readout`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo


def command(
    run: Annotated[str, typer.Argument(help="The run folder, or a file of its weights.")],
    readout: Annotated[str, typer.Argument(help="linear, or knn with its neighbours: knn:k=75.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Replace the last layer of a trained network by one that is fitted to its training images, or by kNN over them.

    The rest of the network stays as it is. The file is measured as any other: satbench eval --model FILE, with --attack
    knn-guided for a kNN, whose votes have no gradient.
    """
    from satbench.training.readout import write_readout

    made, origin = write_readout(run, readout, out, device, data_dir)
    stored = made.spec.readout
    over = "" if stored is None else f", {stored.images:,} representations"
    echo(f"{out}: {origin.label}{over}")
