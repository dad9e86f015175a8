"""`satbench report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.reporting.pictures import Picture

DEFAULT = Path("reports", "report")
MOST_PICTURED = 4  # runs of which pictures are shown without --examples


def command(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="A study's folder or URL, or run folders of `satbench eval`, or folders that hold some, or the "
            "results.json.gz of a report."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where table, plots and index.html go; default reports/report, of a study STUDY/report, of "
            "results.json.gz its folder."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Text that was written before the results, to be shown.")] = None,
    made_by: Annotated[list[str] | None, typer.Option(help="A command that made the runs, to be shown.")] = None,
    examples: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Show pictures of this run of `satbench eval --save-examples`; default: of the first 4 that have "
            "examples.",
        ),
    ] = None,
    data_dir: options.DataDir = None,
) -> None:
    """Make tables, plots and one self-contained page from a study, from runs, or from the results of a report."""
    from satbench.cli.progress import announce
    from satbench.core.errors import BadInput
    from satbench.core.files import check_output_path
    from satbench.core.shared import is_url, shared

    if out is not None:
        check_output_path(out)
    for run in runs:
        if not (is_url(run) or Path(run).exists()):
            raise BadInput(f"{run} is not there; give a run folder, a folder that holds some, or results.json.gz")
    announce(f"report of {', '.join(runs)}: tables and charts, some seconds")

    from dataclasses import replace

    from satbench.reporting.background import Background
    from satbench.reporting.page import check_report_folder, write_report
    from satbench.reporting.results_file import read_results
    from satbench.results.store import MANIFEST, read_run
    from satbench.results.training_log import METRICS
    from satbench.study.page import is_study, write_page
    from satbench.training.checkpoint import read_logged, read_times

    folders = [Path(run) for run in runs]
    is_file = len(runs) == 1 and folders[0].is_file()
    is_whole = len(runs) == 1 and (is_url(runs[0]) or is_study(folders[0]))
    if out is None:
        own = folders[0].parent if is_file else folders[0] / "report"
        out = own if is_file or (is_whole and not is_url(runs[0])) else DEFAULT
    check_report_folder(out)
    if is_file:
        if plan or made_by or examples:
            raise BadInput(f"{runs[0]} holds plan, commands and examples; leave out --plan, --made-by and --examples")
        stored = read_results(folders[0])
        report = write_report(
            out,
            stored.runs,
            stored.curves,
            title or stored.title,
            stored.notes,
            stored.reference,
            stored.trained,
            stored.reported,
            stored.background,
        )
    else:
        background = Background(_text(plan), tuple(made_by or ()), pictures=_pictures(examples or [], data_dir))
        found = sorted({file.parent for run in folders for file in run.rglob(MANIFEST)})
        if not examples:
            background = replace(background, pictures=_stored_pictures(found, data_dir))
        if is_whole:
            with shared(runs[0]) as study:
                report = write_page(study, out, title, background)
        else:
            if not found:
                raise BadInput(f"no run in {', '.join(runs)}; make one with `satbench eval`")
            logs = [file.parent for folder in folders for file in sorted(folder.rglob(METRICS))]
            curves = {str(log): read_logged(log) for log in logs}
            background = background.taking({str(log): read_times(log) for log in logs})
            measured = [read_run(folder) for folder in found]
            words = title or "Accuracy and robustness"
            report = write_report(out, measured, curves, words, [], background=background)
    for file in report.files:
        echo(f"{file}")


def _text(path: Path | None) -> str:
    from satbench.core.bounded import MIB, read_bounded
    from satbench.core.errors import BadInput

    if path is None:
        return ""
    try:
        return read_bounded(path, MIB).decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8; give another file for --plan") from None


def _pictures(folders: list[Path], data_dir: Path | None) -> "tuple[Picture, ...]":
    if not folders:
        return ()

    from satbench.evaluation.pictures import pictures_of
    from satbench.results.store import read_run

    return tuple(picture for folder in folders for picture in pictures_of(read_run(folder), data_dir))


def _stored_pictures(folders: list[Path], data_dir: Path | None) -> "tuple[Picture, ...]":
    """Pictures of the first runs that stored examples; a line on standard error says why one has none.

    Nothing is downloaded for them.
    """
    from satbench.core.environment import variable
    from satbench.core.errors import BadInput
    from satbench.core.offline import OFFLINE
    from satbench.results.store import EXAMPLES_FILE

    found: list[Picture] = []
    with variable(OFFLINE, "1"):
        for folder in [one for one in folders if (one / EXAMPLES_FILE).is_file()][:MOST_PICTURED]:
            try:
                found += _pictures([folder], data_dir)
            except BadInput as error:
                echo(f"no pictures of {folder}: {error}", err=True)
    return tuple(found)
