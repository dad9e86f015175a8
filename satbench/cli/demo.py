"""`satbench demo`: the study `studies/demo.yaml`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo


def command(
    out: Annotated[Path, typer.Option(help="Where the page, its figures and the runs go.")] = Path("reports", "demo"),
    engine: Annotated[str, typer.Option(help="As for `satbench study`.")] = "local",
) -> None:
    """Train ReLU and two smooth activations on digits, attack all, and compare them in one page; it takes minutes."""
    import time

    from satbench.cli.progress import announce
    from satbench.core.files import check_output_path

    check_output_path(out)
    announce("demo: train and attack networks on digits, some minutes; time left follows")

    from satbench.cli.study import echo_results
    from satbench.core.strict_yaml import shipped
    from satbench.reporting.page import check_report_folder, write_report
    from satbench.specs.study import read_study
    from satbench.study import jobs_of, run_study
    from satbench.study.results import study_results

    check_report_folder(out)
    started = time.monotonic()
    file = shipped("studies/demo.yaml")
    jobs = jobs_of(read_study(file), str(file))
    echo_results(run_study(jobs, out / "runs", engine, device="cpu"), jobs.reference)
    report = write_report(out, study_results(out / "runs"))
    echo(f"{time.monotonic() - started:.0f} s of computing; open {report.index}")
