"""The command line: options become a call, errors become one line. No command's room is imported before it runs."""

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from satbench.cli import (
    check,
    compare,
    cost,
    demo,
    evaluate,
    leaderboard,
    migrate,
    models,
    probe,
    recipes,
    report,
    study,
    train,
    trust,
    verify,
)
from satbench.core.errors import BadInput, ReportedElsewhere


class _Group(TyperGroup):
    """Exit 2 with one line for bad input, 130 for an interrupt; of several processes, one reports."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ReportedElsewhere:
            raise typer.Exit(2) from None
        except BadInput as error:
            typer.echo(f"satbench: {error}", err=True)
            raise typer.Exit(2) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it
            raise typer.Exit(1) from None
        except OSError as error:
            typer.echo(f"satbench: {error.filename or 'a file'}: {error.strerror or error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
                typer.echo("satbench: interrupted; run the same command again to resume", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    help="Train, attack and compare networks for adversarial robustness, with intervals on every number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.command)
app.command("recipes")(recipes.command)
app.command("eval")(evaluate.command)
app.command("trust")(trust.command)
app.command("probe")(probe.command)
app.command("verify")(verify.command)
app.command("compare")(compare.command)
app.command("cost")(cost.command)
app.add_typer(models.app, name="models")
app.command("study")(study.command)
app.command("report")(report.command)
app.command("leaderboard")(leaderboard.command)
app.command("migrate")(migrate.command)
app.command("check")(check.command)
app.command("demo")(demo.command)


def main() -> None:
    """The console script `satbench`."""
    app(prog_name="satbench")
