"""The command line: options become a call, errors become one line. No command's room is imported before it runs."""

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from satbench.cli import (
    card,
    check,
    claims,
    compare,
    cost,
    demo,
    doctor,
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
from satbench.cli.output import echo, echo_error
from satbench.core.errors import FAULTS, BadInput, ReportedElsewhere
from satbench.core.plugins import raised_in

_USAGE: Any = typer.BadParameter.__base__  # what typer raises for an option or argument that is wrong or missing


class _Group(TyperGroup):
    """Exit 2 with one line for bad input, 130 for an interrupt; of several processes, one reports."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Refuse empty words, such as an unset variable of the shell leaves: typer reads one as the current folder."""
        for position, word in enumerate(args):
            if word == "" or re.fullmatch("--[a-z-]+=", word):
                given = word.rstrip("=") or " ".join(args[max(0, position - 1) : position])
                raise BadInput(f"an empty value is given after {given!r}; give a value, or leave it out")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except _USAGE as error:
            raise _refused(error) from None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _USAGE as error:
            raise _refused(error) from None
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
        except (*FAULTS, ImportError, NameError) as error:
            if (own := raised_in(error)) is None:
                raise
            echo_error(own)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
                echo_error("interrupted; run the same command again to resume")
            raise typer.Exit(130) from None


def _refused(error: Any) -> typer.Exit:
    """Say in one line what is wrong with the options of a command, and where its help is."""
    words = error.ctx.command_path.split()[1:] if error.ctx else []  # without the program's own name
    message = error.format_message().strip().rstrip(".")
    said = f"{message[:1].lower()}{message[1:]}; see {' '.join(['satbench', *words])} --help"
    echo_error(f"{' '.join(words)}: {said}" if words else said)
    return typer.Exit(2)


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
    pretty_exceptions_enable=False,
)

TRAIN, MEASURE, COMPARE, GATE, NETWORKS = "Train", "Measure", "Compare and report", "Gate", "Networks and set-up"
COMMANDS: tuple[tuple[str, Callable[..., None], str, str], ...] = (  # name, function, group, example
    ("train", train.command, TRAIN, "satbench train digits-sat --activation gelu --seed 1 --out runs/gelu"),
    ("recipes", recipes.command, TRAIN, "satbench recipes digits-sat"),
    ("study", study.command, TRAIN, "satbench study study.yaml --out studies/one --engine local:2"),
    ("cost", cost.command, TRAIN, "satbench cost --model digits-silu --attack autoattack --eps 0.1"),
    ("readout", readout.command, TRAIN, "satbench readout runs/encoder knn:k=10 --out knn.safetensors"),
    (
        "eval",
        evaluate.command,
        MEASURE,
        "satbench eval --model digits-silu --attack pgd --eps 0.1,0.2 --n 100",
    ),
    ("trust", trust.command, MEASURE, "satbench trust digits-silu"),
    ("probe", probe.command, MEASURE, "satbench probe digits-relu digits-silu"),
    ("verify", verify.command, MEASURE, "satbench verify runs/silu"),
    ("compare", compare.command, COMPARE, "satbench compare runs/silu runs/relu"),
    ("report", report.command, COMPARE, "satbench report runs --out reports/report"),
    ("card", card.command, NETWORKS, "satbench card runs/silu --out card.md"),
    ("claims", claims.command, COMPARE, "satbench claims"),
    ("check", check.command, GATE, 'satbench check study.yaml --approve "first baseline"'),
    ("demo", demo.command, NETWORKS, "satbench demo"),
    ("plugins", plugins.command, NETWORKS, "satbench plugins"),
    ("migrate", migrate.command, NETWORKS, "satbench migrate runs/old"),
    ("doctor", doctor.command, NETWORKS, "satbench doctor"),
)
for name, function, group, example in COMMANDS:
    app.command(name, rich_help_panel=group, epilog=f"Example: {example}")(function)
app.add_typer(models.app, name="models", rich_help_panel=NETWORKS)
app.add_typer(leaderboard.app, name="leaderboard", rich_help_panel=COMPARE)


def _say_version(asked: bool) -> None:
    if asked:
        from satbench.core.version import __version__

        echo(f"satbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, attack and compare networks for adversarial robustness, with intervals on every number."""


def main() -> None:
    """The console script `satbench`."""
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # of Pillow; `data.loaders` refuses such images
    app(prog_name="satbench")
