"""`satbench report`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="The folder of a study, or run folders of `satbench eval`, or folders that hold some."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where table, plots and index.html go; default reports/report, of a study STUDY/report."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
) -> None:
    """Make tables, plots and one self-contained page from a study, or from runs."""
    from satbench.core.errors import BadInput
    from satbench.reporting.page import write_report
    from satbench.results.store import MANIFEST, read_run
    from satbench.study.page import is_study, write_page
    from satbench.training.checkpoint import METRICS, read_metrics

    if len(runs) == 1 and is_study(runs[0]):
        report = write_page(runs[0], out or runs[0] / "report", title)
    else:
        folders = sorted({file.parent for run in runs for file in run.rglob(MANIFEST)})
        if not folders:
            raise BadInput(f"no run in {', '.join(map(str, runs))}; make one with `satbench eval`")
        curves = {str(file.parent): read_metrics(file.parent) for run in runs for file in sorted(run.rglob(METRICS))}
        found = [read_run(folder) for folder in folders]
        report = write_report(out or Path("reports", "report"), found, curves, title or "Accuracy and robustness", [])
    for file in report.files:
        typer.echo(f"{file}")
