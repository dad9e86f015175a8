"""`satbench leaderboard`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.reporting.leaderboard_folder import Leaderboard

Folder = Annotated[Path, typer.Option("--dir", help="The leaderboard's folder.")]
Reports = Annotated[Path, typer.Option(help="Where reports of studies lie, which decide the claims of claims.yaml.")]
DEFAULT, DEFAULT_REPORTS = Path("leaderboards"), Path("reports")

app = typer.Typer(no_args_is_help=True, help="Rank runs on pages of their own; torch is not needed.")


@app.command("init", epilog="Example: satbench leaderboard init boards --title Ours")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Leaderboard",
) -> None:
    """Make an empty leaderboard: settings, a folder for runs, a README, and the first page."""
    from satbench.reporting import leaderboard, leaderboard_folder

    leaderboard_folder.init(folder, title)
    leaderboard.write(folder, leaderboard.build([], title=title))
    echo(f"{folder}: add a run with `satbench leaderboard add RUN --dir {folder}`")


@app.command("add", epilog="Example: satbench leaderboard add runs/silu --dir boards")
def add(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders of `satbench eval`, folders that hold some, or model-info JSON files of RobustBench.",
        ),
    ],
    folder: Folder = DEFAULT,
    norm: Annotated[
        str | None, typer.Option(help="Of a model-info JSON that does not lie in a folder Linf or L2.")
    ] = None,
    examples: Annotated[
        bool,
        typer.Option(
            "--examples", help="Show pictures of images that were broken, of runs of `satbench eval --save-examples`."
        ),
    ] = False,
    data_dir: options.DataDir = None,
) -> None:
    """Check runs and write one small JSON file for each into DIR/runs; `build` then makes the pages."""
    from satbench.reporting import leaderboard_folder

    pictures = None
    if examples:
        from satbench.evaluation.pictures import examples_of

        pictures = partial(examples_of, data_dir=data_dir)
    for added in leaderboard_folder.add(folder, runs, norm, pictures):
        for note in added.notes:
            echo(f"{added.file}: {note}", err=True)
        if added.is_new:
            echo(f"{added.file}")


@app.command("build", epilog="Example: satbench leaderboard build --dir boards")
def build(folder: Folder = DEFAULT, reports: Reports = DEFAULT_REPORTS) -> None:
    """Write every page and table again, the same bytes on every machine."""
    from satbench.core.files import check_output_path
    from satbench.reporting import leaderboard
    from satbench.reporting.leaderboard_folder import read_leaderboard

    check_output_path(folder, "--dir")
    for path in leaderboard.write(folder, _files(read_leaderboard(folder), folder, reports)):
        echo(f"{path}")


@app.command("check", epilog="Example: satbench leaderboard check --dir boards")
def check(folder: Folder = DEFAULT, reports: Reports = DEFAULT_REPORTS) -> None:
    """Write nothing; exit 1 where a page is not what the runs give, and 2 where a file of a run was changed."""
    from satbench.cli.progress import announce

    announce(f"leaderboard check {folder}: its pages against its runs, some seconds")

    from satbench.reporting import leaderboard
    from satbench.reporting.leaderboard_folder import read_leaderboard

    board = read_leaderboard(folder)
    different = leaderboard.check(folder, _files(board, folder, reports))
    for name in different:
        echo(f"{folder / name} is not what the runs give; run `satbench leaderboard build --dir {folder}`", err=True)
    if different:
        raise typer.Exit(1)
    files = "file" if len(board.entries) == 1 else "files"
    echo(f"{folder}: every page is what the {len(board.entries)} {files} in {folder / 'runs'} give")


@app.command(
    "export",
    epilog='Example: satbench leaderboard export "cnn-small silu" --threat Linf:8/255 --dir boards --out Ours.json',
)
def export(
    label: Annotated[str, typer.Argument(help="Label of a network, or the start of its digest.")],
    folder: Folder = DEFAULT,
    threat: Annotated[
        str | None, typer.Option(metavar="NORM:EPS", help="Which threat, where the network met several.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: print it.")] = None,
) -> None:
    """Write a network's row as model-info JSON of RobustBench, with what no run knows left empty."""
    from satbench.core.files import check_output_file, to_json, write_text
    from satbench.reporting.leaderboard_folder import read_leaderboard
    from satbench.reporting.model_info import TO_FILL, chosen_rows, model_info_of

    if out is not None:
        check_output_file(out)
    text = to_json(model_info_of(chosen_rows(read_leaderboard(folder).rows, label, threat)))
    if out is None:
        echo(text, nl=False)
    else:
        write_text(out, text)
        echo(f"{out}")
    echo(f"empty, to be filled in: {', '.join(TO_FILL)}", err=True)


def _files(board: "Leaderboard", folder: Path, reports: Path) -> dict[str, str]:
    """Names and texts of the pages and tables of a leaderboard."""
    from satbench.reporting import leaderboard
    from satbench.reporting.claims import claims_with_states
    from satbench.reporting.claims_file import read_claims
    from satbench.reporting.leaderboard_folder import CLAIMS
    from satbench.reporting.model_info import published_line
    from satbench.reporting.published import published_lines
    from satbench.reporting.run_details import details_of

    claims = read_claims(folder / CLAIMS) if (folder / CLAIMS).is_file() else None
    stated = [] if claims is None else published_lines(claims, board.rows)
    return leaderboard.build(
        board.rows,
        claims=[] if claims is None else claims_with_states(claims, reports),
        published=[*stated, *(published_line(one, board.rows) for one in board.published)],
        details=details_of(board.entries),
        title=board.settings.title,
    )
