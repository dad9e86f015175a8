"""The log of single updates, written on request.

steps.jsonl   one line every so many updates: update (from 0), epoch (from 0), loss, lr, and accuracy on the crafted
              images where it is known. No times, so that equal runs are equal bytes, also after a kill.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from satbench.core.errors import BadInput
from satbench.core.files import write_text

STEPS = "steps.jsonl"


class StepLog:
    """Every `every`-th update's figures, written as they come; None writes nothing.

    Opening it takes back the rows of updates from `taken` on, which were not saved and will be taken again.
    """

    def __init__(self, out: Path, every: int | None, taken: int) -> None:
        self._file, self._every = out / STEPS, every
        self._new: list[dict[str, Any]] = []
        if self._file.is_file():
            self._new = [row for row in read_steps(self._file) if row["update"] < taken]
            write_text(self._file, "".join(json.dumps(row) + "\n" for row in self._new))

    def add(self, update: int, epoch: int, lr: float, loss: Tensor, accuracy: Tensor | None) -> None:
        """Write the figures of an update, counted from 0, if it is one of those that are logged."""
        if self._every is None or (update + 1) % self._every:
            return
        known = {} if accuracy is None else {"accuracy": accuracy.item()}
        self._new.append({"update": update, "epoch": epoch, "loss": loss.item(), "lr": lr, **known})
        with self._file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(self._new[-1]) + "\n")

    def take(self) -> list[dict[str, Any]]:
        """The rows that were read or added since the last call."""
        rows, self._new = self._new, []
        return rows


def read_steps(file: Path) -> list[dict[str, Any]]:
    """The rows of a log of steps, but for a last one that a kill has cut; none without a file.

    Raises `BadInput` for a damaged one.
    """
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        if not all(type(row["update"]) is int for row in rows):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"{file} is damaged; remove it to continue without the steps so far") from None
    return rows
