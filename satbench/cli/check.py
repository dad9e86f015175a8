"""`satbench check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.results.store import Run

SUITE = "digits-quick"
SPREAD_SEEDS = (1, 2, 3, 4)


def command(
    baselines: Annotated[Path, typer.Option(help="The approved numbers.")] = Path("leaderboards", "baselines.yaml"),
    approve: Annotated[
        str | None, typer.Option(metavar="REASON", help="Make today's numbers the approved ones.")
    ] = None,
) -> None:
    """Train and attack the quick suite again and exit 1, naming the number, when a robustness figure has moved."""
    import torch

    from satbench.core.errors import BadInput
    from satbench.evaluation.fingerprint import numerics_fingerprint
    from satbench.evaluation.provenance import versions
    from satbench.regression import Baseline, compare, read_baseline, write_baseline
    from satbench.regression.baseline import outcomes

    if approve is not None and not approve.strip():
        raise BadInput("--approve needs the reason why the numbers moved")
    baseline = read_baseline(baselines, SUITE) if approve is None else None
    torch.set_num_threads(1)
    fingerprint = numerics_fingerprint()
    run, *further = _run_suite((0,) if approve is None else (0, *SPREAD_SEEDS))
    figures = outcomes(run.records)
    if approve is not None:
        others = [outcomes(one.records) for one in further]
        spread = {}
        for name in figures:
            rates = [100 * one[name].correct / one[name].n for one in (figures, *others)]
            spread[name] = round(max(rates) - min(rates), 2)
        entry = Baseline(
            reason=approve,
            fingerprint=fingerprint,
            data_digest=run.manifest.data.digest,
            versions=versions(),
            figures=figures,
            spread=spread,
        )
        write_baseline(baselines, SUITE, entry)
        echo(f"{baselines}: {SUITE} approved")
        return
    assert baseline is not None
    findings = compare(baseline, figures, fingerprint, run.manifest.data.digest)
    for finding in findings:
        echo(f"{'MOVED' if finding.moved else 'ok   '} {finding.sentence}", err=finding.moved)
    if any(finding.moved for finding in findings):
        raise typer.Exit(1)


def _run_suite(seeds: Sequence[int]) -> "list[Run]":
    """Train the suite with each seed in a scratch folder and attack the best epochs on the whole test split."""
    import tempfile

    from satbench.core.strict_yaml import shipped
    from satbench.specs.study import read_study
    from satbench.study import jobs_of, run_study

    file = shipped(f"studies/{SUITE}.yaml")
    suite = read_study(file)
    grids = tuple(grid.model_copy(update={"seeds": tuple(seeds)}) for grid in suite.trainings)
    jobs = jobs_of(suite.model_copy(update={"trainings": grids}), str(file))
    with tempfile.TemporaryDirectory() as scratch:
        return run_study(jobs, scratch, "local" if len(seeds) > 1 else "local:1", device="cpu")
