"""What is seen of a command while it works: a first line, then a bar on a terminal."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from satbench.cli.output import echo
from satbench.core.escaping import one_line

TITLE = 24  # columns


def announce(text: str, quiet: bool = False) -> None:
    """Print on standard error what a command is about to do, before it imports what is slow to import."""
    if not quiet and os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started
        echo(text, err=True)


@contextmanager
def progress_bar(title: str, *, quiet: bool = False) -> Iterator[Callable[[int, int, str], None]]:
    """Yields `report(done, total, what)`; draws to standard error and only where that is a terminal.

    Of 80 columns, bar, share and time left keep theirs; title and what is running are cut.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, max_width=TITLE)),
        BarColumn(bar_width=16),
        TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
        TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
        TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
        TextColumn("{task.fields[what]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
    )
    hidden = quiet or not console.is_terminal
    with Progress(
        *columns, console=console, disable=hidden, transient=True, expand=True, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task(one_line(title), total=None, what="")

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, what=one_line(what))

        yield report
