"""The command line: options become a call, errors become one line. No command's room is imported before it runs."""

import errno
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from satbench.cli import (
    check,
    claims,
    compare,
    cost,
    demo,
    evaluate,
    leaderboard,
    migrate,
    models,
    plugins,
    probe,
    readout,
    recipes,
    report,
    study,
    train,
    trust,
    verify,
)
from satbench.cli.output import echo_error
from satbench.core.errors import BadInput, ReportedElsewhere


class _Group(TyperGroup):
    """Exit 2 with one line for bad input, 130 for an interrupt; of several processes, one reports."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuse empty words, such as an unset variable of the shell leaves: typer reads one as the current folder."""
        for position, word in enumerate(args):
            if word == "" or re.fullmatch("--[a-z-]+=", word):
                given = word.rstrip("=") or " ".join(args[max(0, position - 1) : position])
                raise BadInput(f"an empty value is given after {given!r}; give a value, or leave it out")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ReportedElsewhere:
            raise typer.Exit(2) from None
        except BadInput as error:
            echo_error(str(error))
            raise typer.Exit(2) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it closes it
            raise typer.Exit(1) from None
        except OSError as error:
            echo_error(_sentence(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
                echo_error("interrupted; run the same command again to resume")
            raise typer.Exit(130) from None


def _sentence(error: OSError) -> str:
    """Which file or folder failed, and why."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = Path(error.filename).parent if error.filename else Path.cwd()
        return f"{folder}: the disk is full; free some space there and run the same command again"
    return f"{error.filename or 'a file'}: {error.strerror or error}"


app = typer.Typer(
    cls=_Group,
    help="Train, attack and compare networks for adversarial robustness, with intervals on every number.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train")(train.command)
app.command("recipes")(recipes.command)
app.command("plugins")(plugins.command)
app.command("eval")(evaluate.command)
app.command("trust")(trust.command)
app.command("probe")(probe.command)
app.command("readout")(readout.command)
app.command("verify")(verify.command)
app.command("compare")(compare.command)
app.command("cost")(cost.command)
app.add_typer(models.app, name="models")
app.command("study")(study.command)
app.command("report")(report.command)
app.command("leaderboard")(leaderboard.command)
app.command("claims")(claims.command)
app.command("migrate")(migrate.command)
app.command("check")(check.command)
app.command("demo")(demo.command)


def main() -> None:
    """The console script `satbench`."""
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # of Pillow; `data.loaders` refuses such images
    app(prog_name="satbench")
