"""`satbench claims`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.output import echo


def command(
    reports: Annotated[
        Path, typer.Option(help="Where the reports of studies lie, each in a folder of its name.")
    ] = Path("reports"),
    json: Annotated[bool, typer.Option("--json", help="Print a list of objects for programs.")] = False,
) -> None:
    """Show the claims of the SAT paper, where each is tested, and what the committed results say."""
    from satbench.core.files import to_json
    from satbench.reporting.claims import CLAIMS_NOTE, as_json, claims_with_states
    from satbench.reporting.claims_file import read_claims

    claims = claims_with_states(read_claims(), reports)
    if json:
        echo(to_json([as_json(one) for one in claims]), nl=False)
        return
    for one in claims:
        echo(f"{one.claim.number or '-':>2}  {one.words}: {one.claim.claim}")
        echo(f"    made at: {one.claim.scale} ({one.claim.source})")
        if one.tested_at:
            echo(f"    tested at: {one.tested_at}")
        for sentence in one.sentences:
            echo(f"    {sentence}")
        for line in one.commands:
            echo(f"    $ {line}")
    echo(CLAIMS_NOTE)
