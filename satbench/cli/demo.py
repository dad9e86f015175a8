"""`satbench demo`: the main job."""

from pathlib import Path
from typing import Annotated

import typer

ACTIVATIONS = ("relu", "silu", "smoothrelu")
SEEDS = (0, 1, 2)
EPS = ("0.05", "0.1", "0.15", "0.2", "0.25", "0.3")
AUTOATTACK_IMAGES = 100


def command(
    out: Annotated[Path, typer.Option(help="Where the page, its figures and the runs go.")] = Path("reports", "demo"),
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one a core.")] = None,
) -> None:
    """Train ReLU and two smooth twins on digits, attack all, and compare them in one page; minutes on two cores."""
    import time

    from satbench.cli.progress import progress_bar
    from satbench.recipes import RECIPES
    from satbench.reporting.headline import headline_rows
    from satbench.reporting.page import write_report
    from satbench.reporting.summary import summarise
    from satbench.reporting.table_forms import to_markdown
    from satbench.reporting.tables import accuracy_table
    from satbench.reporting.verdict import compare
    from satbench.specs.evaluation import EvaluationSpec
    from satbench.study import default_workers, job_name, run_study
    from satbench.training.checkpoint import read_metrics

    started = time.monotonic()
    recipe = RECIPES["digits-sat"]()
    configs = [recipe.with_values({"activation": name, "seed": seed}) for name in ACTIVATIONS for seed in SEEDS]
    specs = [
        EvaluationSpec(attacks=["pgd:steps=50"], threats=[f"{recipe.threat.norm}:{eps}" for eps in EPS]),
        EvaluationSpec(attacks=["autoattack"], threats=[recipe.threat.norm], n=AUTOATTACK_IMAGES),
    ]
    typer.echo(f"{len(configs)} trainings and their attacks on digits; Ctrl-C stops, the same command continues")
    with progress_bar("demo", "networks") as bar:

        def report_job(done: int, total: int, name: str) -> None:
            bar(done, total, name)
            typer.echo(f"{done}/{total} {name}, {time.monotonic() - started:.0f} s")

        runs = run_study(configs, specs, out / "runs", workers or default_workers(), report_job)
    curves = {f"{c.activation}, seed {c.seed}": read_metrics(out / "runs" / job_name(c) / "training") for c in configs}
    report = write_report(out, runs, curves, "ReLU and its smooth twins on digits", list(NOTES))
    typer.echo(to_markdown(accuracy_table(headline_rows(summarise(runs)))))
    for sentence in compare(runs):
        typer.echo(sentence)
    typer.echo(f"{time.monotonic() - started:.0f} s of computing; open {report.index}")


NOTES = (
    "One recipe for all activations, sized to finish in minutes and not tuned for any of them. The effect that "
    "Smooth Adversarial Training reports belongs to large networks on real photographs; 8x8 digits on a small convnet "
    "are a check that everything works, and their differences are reported as they came.",
)
