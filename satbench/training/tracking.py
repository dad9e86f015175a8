"""Which rows of a run each of its trackers has been given."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satbench.core.errors import FAULTS, BadInput, reason
from satbench.core.files import write_text
from satbench.core.lookup import pick
from satbench.core.strict_json import read_json
from satbench.training.config import TrainConfig
from satbench.training.trackers import TRACKERS, Tracker

TRACKING = "tracking.json"
Rows = list[dict[str, Any]]


@dataclass
class _Tracked:
    """A tracker, and how many rows of epochs and of steps it was given; `stored`: whether these are kept on disk."""

    tracker: Tracker
    name: str
    stored: bool
    epochs: int = 0
    steps: int = 0


class Tracking:
    """The trackers of a run: names of `TRACKERS`, or the user's own objects.

    tracking.json in the run's folder holds how many rows each named one was given, so that a resumed run gives it the
    rest; an object is given the whole log again. Each gets rows of its own. What a tracker raises of the usual kinds,
    or of its own `faults`, becomes a `BadInput` that names it. Nothing is lost then, for the run was saved before.
    """

    def __init__(self, trackers: Sequence[str | Tracker]) -> None:
        self._tracked: list[_Tracked] = []
        for one in trackers:
            if not isinstance(one, str):
                self._tracked.append(_Tracked(one, type(one).__name__, stored=False))
            elif one not in [other.name for other in self._tracked if other.stored]:
                self._tracked.append(_Tracked(pick(TRACKERS, one, "tracker"), one, stored=True))
        self._begun: list[_Tracked] = []
        self._epochs = self._steps = 0  # rows offered

    def begin(self, config: TrainConfig, out: Path) -> None:
        """The run in the folder `out` starts or continues; its log so far is to be offered next."""
        self._file = out / TRACKING
        there = self._stored()
        for one in self._tracked:
            if one.stored and one.name in there:
                one.epochs, one.steps = there[one.name]
            with _reported(one):
                one.tracker.on_train_begin(config, out)
            self._begun.append(one)

    def offer(self, epochs: Rows, steps: Rows) -> None:
        """Give every tracker those of the log's next rows, which are saved, that it was not given before."""
        for one in self._begun:
            rows = [(row["epoch"], 0, row) for row in steps[max(0, one.steps - self._steps) :]]
            rows += [(row["epoch"], 1, row) for row in epochs[max(0, one.epochs - self._epochs) :]]
            with _reported(one):
                for _, is_epoch, row in sorted(rows, key=lambda entry: entry[:2]):
                    (one.tracker.on_epoch_end if is_epoch else one.tracker.on_step_end)(dict(row))
            one.epochs = max(one.epochs, self._epochs + len(epochs))
            one.steps = max(one.steps, self._steps + len(steps))
        self._epochs, self._steps = self._epochs + len(epochs), self._steps + len(steps)
        given = {one.name: (one.epochs, one.steps) for one in self._begun if one.stored}
        if given:
            counts = {name: {"epochs": n, "steps": m} for name, (n, m) in (self._stored() | given).items()}
            write_text(self._file, json.dumps(counts) + "\n")

    def _stored(self) -> dict[str, tuple[int, int]]:
        """How many rows of epochs and of steps each named tracker was given."""
        if not self._file.is_file():
            return {}
        try:
            there = read_json(self._file)
            return {name: (int(one["epochs"]), int(one["steps"])) for name, one in there.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise BadInput(f"{self._file} is damaged; remove it, and each tracker is given the whole log") from None

    def end(self, finished: bool) -> None:
        """The run is finished, or stopped before its end."""
        while self._begun:
            one = self._begun.pop()
            with _reported(one):
                one.tracker.on_train_end(finished)


@contextmanager
def _reported(one: _Tracked) -> Iterator[None]:
    faults: tuple[type[Exception], ...] = (*FAULTS, OSError, *getattr(one.tracker, "faults", ()))
    try:
        yield
    except faults as error:
        advice = "the run is saved, and the same command continues it, with this tracker or without"
        raise BadInput(f"tracker {one.name}: {reason(error)}; {advice}") from error
