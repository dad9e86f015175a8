"""`satbench report`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo

DEFAULT = Path("reports", "report")


def command(
    runs: Annotated[
        list[str],
        typer.Argument(help="A study's folder or URL, or run folders of `satbench eval`, or folders that hold some."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where table, plots and index.html go; default reports/report, of a study STUDY/report."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
) -> None:
    """Make tables, plots and one self-contained page from a study, or from runs."""
    from satbench.core.errors import BadInput
    from satbench.core.shared import is_url, shared
    from satbench.reporting.page import write_report
    from satbench.results.store import MANIFEST, read_run
    from satbench.study.page import is_study, write_page
    from satbench.training.checkpoint import METRICS, read_metrics

    folders = [Path(run) for run in runs]
    if len(runs) == 1 and (is_url(runs[0]) or is_study(folders[0])):
        with shared(runs[0]) as study:
            report = write_page(study, out or (DEFAULT if is_url(runs[0]) else study / "report"), title)
    else:
        found = sorted({file.parent for folder in folders for file in folder.rglob(MANIFEST)})
        if not found:
            raise BadInput(f"no run in {', '.join(runs)}; make one with `satbench eval`")
        logs = [file.parent for folder in folders for file in sorted(folder.rglob(METRICS))]
        curves = {str(log): read_metrics(log) for log in logs}
        measured = [read_run(folder) for folder in found]
        report = write_report(out or DEFAULT, measured, curves, title or "Accuracy and robustness", [])
    for file in report.files:
        echo(f"{file}")
