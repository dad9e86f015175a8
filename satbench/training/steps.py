"""The log of single updates, written on request: steps.jsonl, an `UpdateRow` a line.

Equal runs write equal bytes, also after a kill.
"""

import json
from io import BytesIO
from pathlib import Path

from torch import Tensor

from satbench.core.bounded import MOST_LOG, read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.parsing import parsed
from satbench.results.training_log import UpdateRow

STEPS = "steps.jsonl"


class StepLog:
    """Writes the row of every `every`-th update when it is added; None writes nothing.

    Opening it removes the rows of updates from `taken` on, which were not saved and will be taken again.
    """

    def __init__(self, out: Path, every: int | None, taken: int) -> None:
        self._file, self._every = out / STEPS, every
        self._new: list[UpdateRow] = []
        if self._file.is_file():
            self._new = [row for row in read_steps(self._file) if row.update < taken]
            write_text(self._file, "".join(map(_line, self._new)))

    def add(self, update: int, epoch: int, lr: float, loss: Tensor, accuracy: Tensor | None) -> None:
        """Write the row of an update, counted from 0, if it is one of those that are logged."""
        if self._every is None or (update + 1) % self._every:
            return
        known = None if accuracy is None else accuracy.item()
        self._new.append(UpdateRow(update=update, epoch=epoch, loss=loss.item(), lr=lr, accuracy=known))
        with self._file.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(self._new[-1]))

    def take(self) -> list[UpdateRow]:
        """The rows that were read or added since the last call."""
        rows, self._new = self._new, []
        return rows


def read_steps(file: Path) -> list[UpdateRow]:
    """The rows of a log of steps, without an incomplete last line; none without a file.

    Raises `BadInput` for a damaged one.
    """
    if not file.is_file():
        return []
    advice = "remove the file to continue without the steps so far"
    rows: list[UpdateRow] = []
    for number, line in enumerate(BytesIO(read_bounded(file, MOST_LOG)), start=1):
        if line.endswith(b"\n"):
            rows.append(parsed(UpdateRow, line, f"{file}, line {number}", advice))
            if len(rows) > 1 and rows[-2].update >= rows[-1].update:
                raise BadInput(f"{file}, line {number}: update {rows[-1].update} follows {rows[-2].update}; {advice}")
    return rows


def _line(row: UpdateRow) -> str:
    return json.dumps(row.to_dict()) + "\n"
