"""`satbench check`."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from satbench.regression import Baseline, NetworkVerdict, SuiteVerdict
    from satbench.study.gate import Suite

QUICK = "studies/digits-quick.yaml"


def command(
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
    figure is settled.
    """
    from satbench.core.errors import BadInput
    from satbench.core.files import check_output_file
    from satbench.core.strict_yaml import shipped
    from satbench.numerics.device import using_threads
    from satbench.regression import baseline_file
    from satbench.study.gate import read_suite

    if approve is not None and not approve.strip():
        raise BadInput("--approve needs the reason why the figures moved")
    if sum((approve is not None, power, as_json)) > 1:
        raise BadInput("--approve, --power and --json do not go together; give one of them")
    suites = [read_suite(file) for file in studies or [shipped(QUICK)]]
    for suite in suites if approve is not None else ():
        check_output_file(baseline_file(suite.file), "the baseline")
    baselines = [_baseline(suite, needed=approve is None and not power) for suite in suites]
    verdicts = []
    for suite, baseline in zip(suites, baselines, strict=True):
        with using_threads(suite.jobs.resources.cpus), _folder(out, suite) as folder:
            if power:
                _power(suite, data_dir, device)
            elif approve is not None:
                _approve(suite, baseline, approve, folder, engine, device, data_dir)
            else:
                verdicts.append(_check(suite, baseline, folder, engine, device, data_dir))
                if not as_json:
                    _print(verdicts[-1])
    if as_json:
        import json

        from satbench.regression.verdict import as_data

        echo(json.dumps([as_data(one) for one in verdicts], indent=2))
    if any(one.state != "unchanged" for one in verdicts):
        raise typer.Exit(1)


def _baseline(suite: "Suite", needed: bool) -> "Baseline | None":
    """The suite's baseline; None where there is none and none is needed, as where rates are published."""
    from satbench.regression import baseline_file, read_baseline

    file = baseline_file(suite.file)
    is_published = any(one.measurement.published for one in suite.members)
    return read_baseline(file) if file.is_file() or (needed and not is_published) else None


@contextmanager
def _folder(out: Path | None, suite: "Suite") -> "Iterator[Path]":
    """Where the suite's networks and runs lie: kept in `out`, or deleted at the end."""
    import tempfile

    if out is not None:
        yield (out / suite.file.stem).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="satbench-check-") as scratch:
        yield Path(scratch)


def _check(
    suite: "Suite", baseline: "Baseline | None", out: Path, engine: str, device: str, data_dir: Path | None
) -> "SuiteVerdict":
    from satbench.regression import SuiteVerdict
    from satbench.results.sequential import LEVEL, MISS
    from satbench.study.gate import opened, settle

    subjects = opened(suite, baseline, out, engine, device, data_dir)
    networks = settle(subjects, _report)
    return SuiteVerdict(str(suite.file), "" if baseline is None else baseline.reason, LEVEL, MISS, networks)


def _approve(
    suite: "Suite", old: "Baseline | None", reason: str, out: Path, engine: str, device: str, data_dir: Path | None
) -> None:
    from satbench.regression import baseline_file, write_baseline
    from satbench.regression.compare import changes
    from satbench.study.gate import approved, measured, opened

    new = approved(reason, measured(opened(suite, None, out, engine, device, data_dir)))
    file = baseline_file(suite.file)
    for line in changes(old, new) if old is not None else ():
        echo(line)
    write_baseline(file, new)
    echo(f"{file}: {sum(len(one.figures) for one in new.measured.values())} figures approved")


def _power(suite: "Suite", data_dir: Path | None, device: str) -> None:
    from satbench.study.planned import plan, table

    echo(f"{suite.file}:\n")
    echo(table(plan(suite, data_dir, device)))


def _report(verdicts: "Sequence[NetworkVerdict]") -> None:
    """A line a look, on standard error."""
    seen, images = (sum(getattr(one, name) for one in verdicts) for name in ("n", "images"))
    left = sum(figure.state == "open" for one in verdicts for figure in one.figures)
    echo(f"{seen} of {images} images; figures not settled: {left}", err=True)


def _print(verdict: "SuiteVerdict") -> None:
    from satbench.regression.table import HOW, figure_table, headline, sentences

    echo(figure_table(verdict))
    for line in sentences(verdict):
        echo(line, err=True)
    echo(HOW.format(level=verdict.level, miss=verdict.miss))
    echo(headline(verdict))
