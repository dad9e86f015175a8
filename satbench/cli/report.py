"""`satbench report`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `satbench eval`, or folders that hold some.")],
    out: Annotated[Path, typer.Option(help="Where table, plots and index.html go.")] = Path("reports", "report"),
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Accuracy and robustness",
) -> None:
    """Make tables, plots and one self-contained page from runs."""
    from satbench.core.errors import BadInput
    from satbench.reporting.page import write_report
    from satbench.results.store import MANIFEST, read_run
    from satbench.training.checkpoint import METRICS, read_metrics

    folders = sorted({file.parent for run in runs for file in run.rglob(MANIFEST)})
    if not folders:
        raise BadInput(f"no run in {', '.join(map(str, runs))}; make one with `satbench eval`")
    curves = {file.parent: read_metrics(file.parent) for run in runs for file in sorted(run.rglob(METRICS))}
    report = write_report(
        out, [read_run(folder) for folder in folders], {str(k): v for k, v in curves.items()}, title, []
    )
    for file in report.files:
        typer.echo(f"{file}")
