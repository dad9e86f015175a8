"""`satbench check`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo, echo_annotation, echo_error
from satbench.core.escaping import one_line

if TYPE_CHECKING:
    from satbench.regression import NetworkVerdict, SuiteVerdict
    from satbench.regression.evidence import Checked
    from satbench.study.gate import Suite

QUICK = "studies/digits-quick.yaml"
SUMMARY = "GITHUB_STEP_SUMMARY"


def command(
    ctx: typer.Context,
    studies: Annotated[
        list[Path] | None, typer.Argument(metavar="[STUDY.yaml]...", help="Suites. Default: the built-in quick one.")
    ] = None,
    approve: Annotated[
        str | None, typer.Option(metavar="REASON", help="Measure every image and make that the baseline.")
    ] = None,
    power: Annotated[
        bool, typer.Option("--power", help="Say which drop each figure shows, and what it costs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the verdicts as JUnit XML.")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with curves and flipped images.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep trainings and runs here and continue with them; default: measure all anew."),
    ] = None,
    engine: Annotated[str, typer.Option(help="Where networks are trained: local, local:N, ray, slurm:N.")] = "local:1",
    device: options.Device = "cpu",
    data_dir: options.DataDir = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Measure suites and exit 1 where a robustness figure, or the trust in one, is not what was approved.

    A suite is a study file with a baseline, STUDY.baseline.json, beside it. Images come in growing batches until every
    figure is settled. On GitHub Actions changes are annotated, and the verdicts are added to the job's summary.
    """
    from satbench.core.devices import check_device
    from satbench.core.errors import BadInput
    from satbench.core.files import check_output_path
    from satbench.engines import check_engine

    if approve is not None and not approve.strip():
        raise BadInput("--approve needs the reason why the figures moved")
    if sum((approve is not None, power, as_json)) > 1:
        raise BadInput("--approve, --power and --json do not go together; give one of them")
    if (junit or html) and (power or approve is not None):
        raise BadInput("--junit and --html hold a verdict, which --approve and --power do not give; leave them out")
    check_engine(engine)
    if out is not None:
        check_output_path(out)
    check_device(device)
    settings = _Settings(out, engine, device, data_dir)
    if approve is not None or power:
        _check_files(studies or [], is_compared=False)
    if approve is not None:
        _approve(_read(studies), approve, settings)
        return
    if power:
        _power(_read(studies), settings)
        return
    outputs = _Outputs.of(junit, html)
    checked: list[Checked] = []
    try:
        _check_files(studies or [], is_compared=True)
        for one in _compared(_read(studies), settings, _given(ctx), html is not None):
            checked.append(one)
            if not as_json:
                _print(one.verdict)
    except BadInput as error:
        outputs.write(checked, str(error))
        raise
    if as_json:
        import json

        from satbench.regression.verdict import as_data

        echo(json.dumps([as_data(one.verdict) for one in checked], indent=2))
    outputs.write(checked)
    if any(one.verdict.state != "unchanged" for one in checked):
        raise typer.Exit(1)


def _check_files(studies: Sequence[Path], is_compared: bool) -> None:
    """Raise `BadInput`, before torch is imported, for a file that is no study and, to be compared, has no baseline."""
    from satbench.regression import baseline_file, read_baseline
    from satbench.specs.study import read_study

    for file in studies:
        is_published = any(one.published for one in read_study(file).evaluations)
        if is_compared and (not is_published or baseline_file(file).is_file()):
            read_baseline(baseline_file(file))


@dataclass(frozen=True)
class _Settings:
    """Where networks and runs are computed, read and kept."""

    out: Path | None
    engine: str
    device: str
    data_dir: Path | None

    @contextmanager
    def folder(self, suite: "Suite") -> Iterator[Path]:
        """Where the suite's networks and runs lie: kept in `out`, or deleted at the end."""
        import tempfile

        if self.out is not None:
            yield (self.out / suite.file.stem).absolute()
            return
        with tempfile.TemporaryDirectory(prefix="satbench-check-") as scratch:
            try:
                yield Path(scratch)
            except KeyboardInterrupt:
                echo_error("interrupted; nothing was kept; give --out FOLDER to continue after an interrupt")
                raise typer.Exit(130) from None


@dataclass(frozen=True)
class _Outputs:
    """What is written beside the terminal; None and False where nothing is."""

    junit: Path | None
    html: Path | None
    summary: Path | None
    annotated: bool

    @classmethod
    def of(cls, junit: Path | None, html: Path | None) -> "_Outputs":
        """The outputs that are asked for; raises `BadInput` for paths that cannot or must not be written."""
        from satbench.core.errors import BadInput
        from satbench.core.files import check_output_file
        from satbench.regression.junit import check_junit_file

        given = os.environ.get(SUMMARY)
        summary = Path(given) if given else None
        if junit is not None:
            check_junit_file(junit, "--junit")
        if html is not None:
            from satbench.regression.page import check_page_file

            check_page_file(html, "--html")
        if summary is not None:
            check_output_file(summary, SUMMARY)
        paths = [one.absolute() for one in (junit, html, summary) if one is not None]
        if len(set(paths)) < len(paths):
            raise BadInput("two of --junit, --html and GITHUB_STEP_SUMMARY are one file; give each a name of its own")
        return cls(junit, html, summary, os.environ.get("GITHUB_ACTIONS") == "true")

    def write(self, checked: Sequence["Checked"], refused: str = "") -> None:
        """Write each output whole; `refused` is why no more than these could be compared."""
        from satbench.core.files import write_bytes, write_text
        from satbench.regression.github import annotations, summary
        from satbench.regression.junit import to_junit

        if self.junit is not None:
            write_text(self.junit, to_junit(checked, refused))
        if self.html is not None:
            from satbench.regression.page import write_page

            write_page(self.html, checked, refused)
        if self.summary is not None:
            held = self.summary.read_bytes() if self.summary.exists() else b""
            write_bytes(self.summary, held + summary(checked, refused, len(held)).encode())
        for line in annotations(checked, refused) if self.annotated else ():
            echo_annotation(line)


def _read(studies: Sequence[Path] | None) -> "list[Suite]":
    from satbench.core.errors import BadInput
    from satbench.core.strict_yaml import shipped
    from satbench.study.gate import read_suite

    files = studies or [shipped(QUICK)]
    places = [file.resolve() for file in files]
    for position, file in enumerate(files):
        if places[position] in places[:position]:
            raise BadInput(f"the suite {file} is given twice; give each suite once")
    return [read_suite(file) for file in files]


def _given(ctx: typer.Context) -> list[str]:
    """The options that another command needs to come to the same verdict."""
    names = {"engine": "--engine", "device": "--device", "data_dir": "--data-dir", "zoo": "--zoo"}
    defaults = {one.name: one.default for one in ctx.command.params}
    given = {option: ctx.params[name] for name, option in names.items() if ctx.params[name] != defaults[name]}
    return [word for option, value in given.items() for word in (option, str(value))]


def _compared(suites: "Sequence[Suite]", settings: _Settings, words: list[str], pictured: bool) -> "Iterator[Checked]":
    """The verdict on each suite; with `pictured` also what a page shows."""
    from satbench.numerics.device import using_threads
    from satbench.regression import SuiteVerdict
    from satbench.regression.evidence import Checked
    from satbench.results.sequential import LEVEL, MISS
    from satbench.study.checked import baseline_of
    from satbench.study.gate import opened, settle

    baselines = [baseline_of(suite) for suite in suites]
    for suite, baseline in zip(suites, baselines, strict=True):
        if baseline is not None and any(one.measurement.published for one in suite.members):
            echo(f"{suite.file}: its published rates are not compared, because a baseline is there", err=True)
    for suite, baseline in zip(suites, baselines, strict=True):
        with using_threads(suite.jobs.resources.cpus), settings.folder(suite) as folder:
            subjects = opened(suite, baseline, folder, settings.engine, settings.device, settings.data_dir, pictured)
            networks = settle(subjects, _report)
            shown = []
            if pictured:
                from satbench.study.flipped import evidence

                shown = [evidence(*each) for each in zip(subjects, networks, strict=True)]
        approved = "" if baseline is None else baseline.reason
        verdict = SuiteVerdict(str(suite.file), approved, LEVEL, MISS, networks)
        yield Checked(
            verdict, baseline, _command(suite, words), _command(suite, [*words, "--approve", "REASON"]), shown
        )


def _command(suite: "Suite", words: list[str]) -> str:
    """A command line on a suite, with the variable that lets it use code of the user's own."""
    import shlex

    from satbench.core.plugins import PLUGINS

    allowed = [f"{PLUGINS}={shlex.quote(os.environ[PLUGINS])}"] if os.environ.get(PLUGINS) else []
    return " ".join([*allowed, shlex.join(["satbench", "check", str(suite.file), *words])])


def _approve(suites: "Sequence[Suite]", reason: str, settings: _Settings) -> None:
    from satbench.core.files import check_output_file
    from satbench.numerics.device import using_threads
    from satbench.regression import baseline_file, read_baseline, write_baseline
    from satbench.regression.compare import changes
    from satbench.study.gate import approved, measured, opened, trust_sentences

    for suite in suites:
        check_output_file(baseline_file(suite.file), "the baseline")
    before = [read_baseline(file) if file.is_file() else None for file in (baseline_file(one.file) for one in suites)]
    for suite, old in zip(suites, before, strict=True):
        file = baseline_file(suite.file)
        with using_threads(suite.jobs.resources.cpus), settings.folder(suite) as folder:
            subjects = opened(suite, None, folder, settings.engine, settings.device, settings.data_dir)
            new = approved(reason, measured(subjects))
        for line in trust_sentences(subjects):
            echo(line)
        for line in changes(old, new) if old is not None else ():
            echo(one_line(line))
        write_baseline(file, new)
        echo(one_line(f"{file}: {sum(len(one.figures) for one in new.measured.values())} figures approved"))


def _power(suites: "Sequence[Suite]", settings: _Settings) -> None:
    from satbench.numerics.device import using_threads
    from satbench.study.planned import plan, table

    for suite in suites:
        with using_threads(suite.jobs.resources.cpus):
            echo(f"{one_line(str(suite.file))}:\n")
            echo(table(plan(suite, settings.data_dir, settings.device)))


def _report(verdicts: "Sequence[NetworkVerdict]") -> None:
    """A line a look, on standard error, and one where trust is looked at on more images."""
    seen, images = (sum(getattr(one, name) for one in verdicts) for name in ("n", "images"))
    left = sum(figure.state == "open" for one in verdicts for figure in one.figures)
    figures = f"figures not settled: {left}" if left else "figures settled"
    trust = [
        f"; {one.measured}: trust: {one.trust_now} on {one.n} images, looking at more"
        for one in verdicts
        if one.trust_state == "open"
    ]
    echo(one_line(f"{seen} of {images} images; {figures}{''.join(trust)}"), err=True)


def _print(verdict: "SuiteVerdict") -> None:
    from satbench.regression.table import HOW, figure_table, headline, sentences

    echo(figure_table(verdict))
    for line in sentences(verdict):
        echo(line, err=True)
    echo(HOW.format(level=verdict.level, miss=verdict.miss))
    echo(headline(verdict))
