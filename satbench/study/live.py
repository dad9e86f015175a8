"""A study while it runs, on a terminal as a table, elsewhere as a line for each finished job."""

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from satbench.core.escaping import one_line
from satbench.study.folder import Status
from satbench.study.jobs import Jobs
from satbench.study.watch import View, Watch


@contextmanager
def shown(watch: Watch, console: Console | None = None) -> Iterator[Callable[[], None]]:
    """Yields a function that brings what is shown on `console`, by default standard error, up to date."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda: _print_new(watch, console)
        _print_new(watch, console)
        return
    jobs = watch.folder.jobs
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def update() -> None:
            for line in watch.take_new():
                live.console.print(f"finished: {line}", markup=False, highlight=False, soft_wrap=True)
            live.update(drawing(jobs, watch.view()), refresh=True)

        yield update
    _print_new(watch, console)


def drawing(jobs: Jobs, view: View) -> Group:
    """The headline, and a line for each worker: its job, how far that is, and at which epoch or attack."""
    if not view.workers:
        return Group(f"{headline(view)}; workers are starting")
    drawn = Table(show_edge=False, pad_edge=False)
    for column in ("worker", "job", "done", "at"):
        drawn.add_column(column, justify="right" if column == "done" else "left", overflow="fold")
    for name, status in view.workers.items():
        cells = (name, status.job, f"{status.fraction:.0%}", at(jobs, status))
        drawn.add_row(*(Text(one_line(cell)) for cell in cells))  # other processes wrote them
    return Group(headline(view), drawn)


def headline(view: View) -> str:
    """How much of the study is done, and when the rest will be."""
    left = f"{'about' if view.is_whole else 'more than'} {_duration(view.left)} left"
    return f"{view.finished} of {view.jobs} jobs, {_duration(view.seconds)}, {left}"


def at(jobs: Jobs, status: Status) -> str:
    """The epoch of a training with what it says, throughput and newest figures; attack and throughput of the others."""
    if not status.total:
        return status.what
    epochs = {one.name: one.config.epochs for one in jobs.trainings}.get(status.job)
    if epochs is None:
        return f"{status.what}, {status.rate:.0f} images/s"
    return f"epoch {min(epochs, int(status.fraction * epochs) + 1)} of {epochs}, {status.what}"


def _print_new(watch: Watch, console: Console) -> None:
    new, view = watch.take_new(), watch.view()
    for finished, name in enumerate(new, start=view.finished - len(new) + 1):
        line = f"{headline(replace(view, finished=finished))}: {name}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
