"""Options that set an environment variable while their command runs, for its own process and those it starts."""

import os
from typing import Annotated

import typer

from satbench.core.environment import variable


def _with_registry(ctx: typer.Context, given: str | None) -> None:
    from satbench.specs.names import SEPARATOR, VARIABLE

    if given is not None:
        others = os.environ.get(VARIABLE, "")
        ctx.with_resource(variable(VARIABLE, f"{given}{SEPARATOR}{others}" if others else given))


def _without_network(ctx: typer.Context, given: bool) -> None:
    from satbench.core.offline import OFFLINE

    if given:
        ctx.with_resource(variable(OFFLINE, "1"))


Zoo = Annotated[
    str | None,
    typer.Option(
        "--zoo",
        metavar="FILE_OR_URL",
        callback=_with_registry,
        help="A registry of your own, whose names win; or SATBENCH_ZOO, several separated by ;",
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", callback=_without_network, help="Use no network; say what is missing on this machine."),
]
