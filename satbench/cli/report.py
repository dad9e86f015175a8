"""`satbench report`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.reporting.pictures import Picture
    from satbench.reporting.results_file import StudyResults

DEFAULT = Path("reports", "report")
UNTITLED = "Accuracy and robustness"  # the heading of runs without a study
MOST_PICTURED = 4  # runs of which pictures are shown without --examples


def command(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Of one page: folders or URLs of studies, run folders of `satbench eval`, folders that hold some, and "
            "files results.json.gz of reports, also renamed."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where table, plots and index.html go; default reports/report, of one study STUDY/report, of one "
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
    """Make tables, plots and one self-contained page from studies, runs, and results of other reports.

    Several of them, such as the parts of a study that was computed on several machines, make one page. Options win over
    what they hold.
    """
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

    from satbench.reporting.page import check_report_folder, write_report
    from satbench.reporting.parts import joined
    from satbench.reporting.pictures import distinct
    from satbench.reporting.results_file import RESULTS_FILE
    from satbench.study.results import is_study

    if out is None:
        first = Path(runs[0])
        beside = first.parent if first.name == RESULTS_FILE else first / "report" if is_study(first) else DEFAULT
        out = beside if len(runs) == 1 else DEFAULT
    check_report_folder(out)
    with ExitStack() as opened:
        sources = [opened.enter_context(shared(run)) for run in runs]
        results = joined([_results(source) for source in sources], title, _text(plan) if plan else None)
        said = results.background
        shown = _pictures(examples, data_dir) if examples else (*said.pictures, *_stored_pictures(sources, data_dir))
        background = replace(said, commands=tuple(made_by or said.commands), pictures=distinct(shown))
        report = write_report(out, replace(results, background=background))
    for file in report.files:
        echo(f"{file}")


def _results(source: Path) -> "StudyResults":
    """What a report can say of a study, of the runs in a folder, or of a file of results."""
    from satbench.core.errors import BadInput
    from satbench.reporting.background import NOTHING
    from satbench.reporting.results_file import StudyResults, read_results
    from satbench.results.store import MANIFEST, read_run
    from satbench.results.training_log import METRICS
    from satbench.study.results import is_study, study_results
    from satbench.training.checkpoint import read_logged, read_times

    if source.is_file():
        return read_results(source)
    if is_study(source):
        return study_results(source)
    runs = tuple(read_run(file.parent) for file in sorted(source.rglob(MANIFEST)))
    if not runs:
        raise BadInput(f"no run in {source}; make one with `satbench eval`")
    logs = [file.parent for file in sorted(source.rglob(METRICS))]
    return StudyResults(
        UNTITLED,
        runs,
        {str(log): read_logged(log) for log in logs},
        background=NOTHING.taking({str(log): read_times(log) for log in logs}),
    )


def _text(path: Path) -> str:
    from satbench.core.bounded import MIB, read_bounded
    from satbench.core.errors import BadInput

    try:
        return read_bounded(path, MIB).decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8; give another file for --plan") from None


def _pictures(folders: list[Path], data_dir: Path | None) -> "tuple[Picture, ...]":
    from satbench.evaluation.pictures import pictures_of
    from satbench.results.store import read_run

    return tuple(picture for folder in folders for picture in pictures_of(read_run(folder), data_dir))


def _stored_pictures(sources: list[Path], data_dir: Path | None) -> "tuple[Picture, ...]":
    """Pictures of the first runs that stored examples; a line on standard error says why one has none.

    Nothing is downloaded for them.
    """
    from satbench.core.environment import variable
    from satbench.core.errors import BadInput
    from satbench.core.offline import OFFLINE
    from satbench.results.store import EXAMPLES_FILE, MANIFEST

    folders = sorted({file.parent for source in sources for file in source.rglob(MANIFEST)})
    found: list[Picture] = []
    with variable(OFFLINE, "1"):
        for folder in [one for one in folders if (one / EXAMPLES_FILE).is_file()][:MOST_PICTURED]:
            try:
                found += _pictures([folder], data_dir)
            except BadInput as error:
                echo(f"no pictures of {folder}: {error}", err=True)
    return tuple(found)
