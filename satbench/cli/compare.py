"""`satbench compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.output import check_amount, echo, echo_table, echo_verdict

if TYPE_CHECKING:
    from satbench.reporting.paired import Comparison

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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Compare two runs image by image, with intervals and the exact McNemar test."""
    from satbench.core.devices import check_device
    from satbench.core.errors import BadInput

    check_device(device)
    check_amount(quiet, verbose, as_json)
    if until_settled and (quiet or as_json):
        raise BadInput(f"--until-settled and {'--quiet' if quiet else '--json'} do not go together; give one of them")
    if points is not None and not 0 < points <= 100:
        raise BadInput(f"--points {points:g} is no difference of two rates; give percent points above 0, at most 100")
    from satbench.core.files import to_json
    from satbench.reporting.paired import as_data, compare_runs, to_markdown, who
    from satbench.results.store import read_run

    compared = compare_runs(read_run(run_a), read_run(run_b))  # refuses what cannot be compared
    if not until_settled:
        if as_json:
            echo(to_json(as_data(compared)), nl=False)
        elif verbose:
            echo(to_markdown(compared, points), nl=False)
        else:
            _echo_brief(compared, points, quiet)
        return
    from satbench.study import settled

    size = (SIZE if points is None else points) / 100
    for found in settled.until_settled(run_a, run_b, size, data_dir, device):
        left = sum(one.verdict == "open" for one in found)
        echo(f"{found[0].n} images; figures not settled: {left}", err=True)
    for line in who(compare_runs(read_run(run_a), read_run(run_b)), with_reasons=True):
        echo(line)
    echo("")
    echo(settled.to_markdown(found, size), nl=False)
    for run in (run_a, run_b):
        if (trust := read_run(run).manifest.trust) is not None and trust.verdict == "fail":
            echo(f"{run}: its trust verdict is fail; its figures cannot be believed, and no comparison with them holds")


def _echo_brief(compared: "Comparison", points: float | None, quiet: bool) -> None:
    """Who is compared, a table of few columns, and the comparison at the last threat as the verdict."""
    from satbench.reporting.brief import brief_comparison, settled_tone
    from satbench.reporting.paired import shared_note, who

    last = compared.figures[-1]
    if not quiet:
        for line in who(compared):
            echo(line)
        for note in shared_note(compared):
            echo(note)
        echo("")
        echo_table(brief_comparison(compared))
    echo_verdict(last.sentence(points), settled_tone(last))
