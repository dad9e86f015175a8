"""`satbench study`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.results.store import Run
    from satbench.study import Jobs


def command(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.yaml", help="What is trained and measured.")] = None,
    out: Annotated[
        str | None, typer.Option(help="A folder, or a URL such as s3://BUCKET/STUDY; default reports/studies/FILE.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where workers run: local, local:N, ray, ray:ADDRESS, slurm:N; see docs/clusters.md.")
    ] = "local",
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="List every job and write nothing.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of study files.")] = False,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Train and measure all that a study file asks for; the same command continues, and adds what is new in the file.

    Finished jobs are kept. Two commands on one folder help each other.
    """
    import json
    from functools import partial

    from satbench.core.errors import BadInput
    from satbench.specs.study import Study, read_study

    if schema:
        echo(json.dumps(Study.model_json_schema(), indent=2))
        return
    if file is None:
        raise BadInput("no study is named; give a file, such as satbench study FILE.yaml")
    from satbench.core.files import check_output_folder
    from satbench.core.shared import is_url
    from satbench.engines import make_engine
    from satbench.study import jobs_of, run_study
    from satbench.study.cost import beside_measured, predict_study
    from satbench.study.folder import STUDY

    study = read_study(file)
    jobs = jobs_of(study, str(file))
    out = out or str(Path("reports", "studies", file.stem))
    here = engine.partition(":")[0] == "local"  # costs are measured on this machine
    if here:
        make_engine(engine)
    if is_dry:
        list_jobs(jobs, data_dir, device)
        return
    here = here and not is_url(out)
    if here:
        check_output_folder(Path(out), STUDY)
    predict = partial(predict_study, jobs, Path(out), data_dir, device)
    runs = run_study(jobs, out, engine, device, data_dir, predict if here else lambda: None)
    if runs:
        echo_results(runs)
        echo(f"next: satbench report {out}")
    else:
        for training in jobs.trainings:
            echo(f"{out}/{training.name}/training")
    for sentence in beside_measured(jobs, Path(out)) if here else ():
        echo(sentence)


def list_jobs(jobs: "Jobs", data_dir: Path | None, device: str) -> None:
    """Print a line for each job: its name, what it trains or measures, and what it costs on this device."""
    from satbench.core.eps import format_eps
    from satbench.specs.attack import ids
    from satbench.study.cost import duration, predict_jobs

    costs = predict_jobs(jobs, jobs.names, data_dir, device)
    for training in jobs.trainings:
        config = training.config
        what = f"{config.recipe}, {config.label}, {config.epochs} epochs"
        echo(f"train {training.name}: {what}: {costs[training.name]}")
    for evaluation in jobs.evaluations:
        spec = evaluation.spec
        threats = [one if isinstance(one, str) else f"{one.norm}:{format_eps(one.eps)}" for one in spec.threats]
        images = "all images" if spec.n is None else f"{spec.n} images"
        attacks = [one for one in spec.attacks if not isinstance(one, str)]
        what = f"{', '.join(ids(attacks))} at {', '.join(threats)}, {images}"
        echo(f"eval {evaluation.name}: {what}: {costs[evaluation.name]}")
    hours = sum(cost.core_hours for cost in costs.values())
    least, most = (sum(getattr(cost, end) * cost.cores for cost in costs.values()) for end in ("low", "high"))
    echo(
        f"{len(jobs.trainings)} trainings and {len(jobs.evaluations)} evaluations: {hours:.2g} core-hours "
        f"({duration(least)} to {duration(most)} of one core)"
    )


def echo_results(runs: Sequence["Run"]) -> None:
    """Print the table of the runs, and what may be concluded from them."""
    from satbench.reporting.headline import headline_rows
    from satbench.reporting.summary import summarise
    from satbench.reporting.table_forms import to_markdown
    from satbench.reporting.tables import accuracy_table
    from satbench.reporting.verdict import compare

    echo(to_markdown(accuracy_table(headline_rows(summarise(runs)))))
    for sentence in compare(runs):
        echo(sentence)
