"""`satbench leaderboard`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo


def command(
    add: Annotated[list[Path] | None, typer.Option(help="Put the runs of this folder into the summary first.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 where a committed page differs.")
    ] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where summary and pages lie.")] = Path("leaderboards"),
    reports: Annotated[Path, typer.Option(help="Where reports of studies lie, which decide claims.")] = Path("reports"),
) -> None:
    """Rebuild the leaderboards from committed rows and results of studies, byte for byte, without torch."""
    from satbench.core.errors import BadInput
    from satbench.reporting import leaderboard
    from satbench.reporting.claims import claims_with_states
    from satbench.reporting.claims_file import read_claims
    from satbench.reporting.lines import network_names
    from satbench.reporting.published import published_lines
    from satbench.reporting.render import check_page_folder
    from satbench.reporting.summary import summarise
    from satbench.reporting.summary_file import merge, read_summary, write_summary
    from satbench.results.store import MANIFEST, read_run

    summary = folder / "runs.json"
    if add and check:
        raise BadInput("--add changes the summary and --check changes nothing; give one of them")
    if add:
        found = sorted({file.parent for run in add for file in run.rglob(MANIFEST)})
        if not found:
            raise BadInput(f"no run in {', '.join(map(str, add))}; make one with `satbench eval`")
        old = read_summary(summary) if summary.is_file() else []
        new = summarise([read_run(run) for run in found])
        merged = merge(old, new)
        leaderboard.build(merged)  # raises before anything is replaced
        check_page_folder(folder, option="--dir")
        write_summary(summary, merged)
        names = network_names(row.network for row in new)
        for name in sorted({names[row.network] for row in new if row.trust.verdict == "fail"}):
            echo(f"{name}: listed without a rank, because its trust verdict is fail", err=True)
    rows = read_summary(summary)
    stated = folder / "claims.yaml"
    known = read_claims(stated) if stated.is_file() else None
    claims = claims_with_states(known, reports) if known else []
    published = published_lines(known, rows) if known else []
    if check:
        different = leaderboard.check(folder, rows, claims, published)
        for name in different:
            echo(f"{folder / name} differs from what {summary} gives; run `make leaderboard`", err=True)
        if different:
            raise typer.Exit(1)
        echo(f"{folder}: every page is what {summary} gives")
    else:
        for path in leaderboard.write(folder, rows, claims, published):
            echo(f"{path}")
