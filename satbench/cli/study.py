"""`satbench study`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo, echo_table, echo_verdict
from satbench.cli.study_status import echo_status

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
    is_status: Annotated[bool, typer.Option("--status", help="Say which jobs are finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print --dry-run or --status for programs.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of study files.")] = False,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Train and measure all that a study file asks for; the same command continues, and adds what is new in the file.

    Finished jobs are kept. Two commands on one folder help each other.
    """
    import json
    from functools import partial

    from satbench.cli.progress import announce
    from satbench.core.devices import check_device
    from satbench.core.errors import BadInput
    from satbench.specs.study import Study, read_study

    if schema:
        echo(json.dumps(Study.model_json_schema(), indent=2))
        return
    if file is None:
        raise BadInput("no study is named; give a file, such as satbench study FILE.yaml")
    if is_status and is_dry:
        raise BadInput("--status and --dry-run do not go together; give one of them")
    if as_json and not (is_status or is_dry):
        raise BadInput("--json needs --status or --dry-run; satbench report writes the results of a study")
    check_device(device)
    study = read_study(file)
    if is_status:
        announce(f"study {file}: which jobs are finished")
    else:
        announce(f"study {file}: {'the jobs, then what each costs' if is_dry else 'starting; time left follows'}")

    from satbench.core.files import check_output_folder
    from satbench.core.shared import is_url
    from satbench.engines import make_engine
    from satbench.study import jobs_of, run_study
    from satbench.study.cost import beside_measured, predict_study
    from satbench.study.folder import STUDY

    jobs = jobs_of(study, str(file))
    out = out or str(Path("reports", "studies", file.stem))
    here = engine.partition(":")[0] == "local"  # costs are measured on this machine
    if here:
        make_engine(engine)
    if is_dry:
        list_jobs(jobs, data_dir, device, as_json)
        return
    if is_status and is_url(out):
        raise BadInput(f"--status reads a folder of this machine, and {out} is a URL; give --out FOLDER")
    if is_status:
        echo_status(jobs, Path(out), as_json)
        return
    here = here and not is_url(out)
    if here:
        check_output_folder(Path(out), STUDY)
    predict = partial(predict_study, jobs, Path(out), data_dir, device)
    runs = run_study(jobs, out, engine, device, data_dir, predict if here else lambda: None)
    if runs:
        echo_results(runs, jobs.reference)
        echo(f"next: satbench report {out}")
    else:
        for training in jobs.trainings:
            echo(f"{out}/{training.name}/training")
    for sentence in beside_measured(jobs, Path(out)) if here else ():
        echo(sentence)


def list_jobs(jobs: "Jobs", data_dir: Path | None, device: str, as_json: bool = False) -> None:
    """Print a line for each job with what it trains or measures, then what each costs on this device, as it is known.

    As JSON only the costs are printed, by the names of the jobs.
    """
    from dataclasses import asdict

    from satbench.cli.progress import progress_bar
    from satbench.core.files import to_json
    from satbench.study.cost import Cost, duration, predict_jobs

    for line in () if as_json else _in_words(jobs):
        echo(line)
    with progress_bar("costs") as report:
        known = 0

        def found(name: str, cost: Cost) -> None:
            nonlocal known
            known += 1
            report(known, len(jobs.names), name)
            if not as_json:
                echo(f"{name}: {cost}")

        costs = predict_jobs(jobs, jobs.names, data_dir, device, found=found)
    if as_json:
        echo(to_json({name: asdict(cost) for name, cost in costs.items()}), nl=False)
        return
    hours = sum(cost.core_hours for cost in costs.values())
    least, most = (sum(getattr(cost, end) * cost.cores for cost in costs.values()) for end in ("low", "high"))
    echo(
        f"{len(jobs.trainings)} trainings and {len(jobs.evaluations)} evaluations: {hours:.2g} core-hours "
        f"({duration(least)} to {duration(most)} of one core)"
    )


def _in_words(jobs: "Jobs") -> Iterator[str]:
    """A line for each job: its name, and what it trains or measures."""
    from satbench.core.eps import format_eps
    from satbench.specs.attack import ids

    for training in jobs.trainings:
        config = training.config
        yield f"train {training.name}: {config.recipe}, {config.label}, {config.epochs} epochs"
    for evaluation in jobs.evaluations:
        spec = evaluation.spec
        threats = [one if isinstance(one, str) else f"{one.norm}:{format_eps(one.eps)}" for one in spec.threats]
        images = "all images" if spec.n is None else f"{spec.n} images"
        attacks = [one for one in spec.attacks if not isinstance(one, str)]
        yield f"eval {evaluation.name}: {', '.join(ids(attacks))} at {', '.join(threats)}, {images}"


def echo_results(runs: Sequence["Run"], reference: str) -> None:
    """Print a small table of the runs, and what may be concluded from them: each activation against a reference."""
    from satbench.reporting.brief import brief_table
    from satbench.reporting.comparison import UNDECIDED
    from satbench.reporting.headline import headline_rows
    from satbench.reporting.summary import summarise
    from satbench.reporting.tables import accuracy_table
    from satbench.reporting.verdict import compare

    echo_table(brief_table(accuracy_table(headline_rows(summarise(runs)), reference)))
    for sentence in compare(runs, reference):
        echo_verdict(sentence, "doubt" if any(word in sentence for word in UNDECIDED) else "good")
