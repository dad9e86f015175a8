"""The rows of a training's log: an `Epoch` of metrics.jsonl and a `Times` of times.jsonl for each epoch.

An `UpdateRow` of steps.jsonl for updates, on request.
"""

from enum import StrEnum
from io import BytesIO
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from satbench.core.bounded import MOST_LOG, read_bounded
from satbench.core.errors import BadInput
from satbench.core.parameters import Count, FromZero, Index, Number, Share
from satbench.core.parsing import parsed

METRICS = "metrics.jsonl"  # of a training folder: an `Epoch` a line
ANEW = "train into a new folder"
VALIDATED = "val_"  # what the figures of the validation split are called in the file
RESERVED = ("n", "alone")  # no names of figures


class Ending(StrEnum):
    """Why a run ended with an epoch, by the setting of `stop` that ended it; NONE where it went on to its last epoch.

    After a ROLLBACK the last weights are those of the epoch before.
    """

    NONE = ""
    PATIENCE = "patience"
    COLLAPSE = "collapse"
    ROLLBACK = "rollback"

    @classmethod
    def _missing_(cls, value: object) -> "Ending | None":
        """The ending that earlier logs hold as a sentence."""
        return next((ending for start, ending in _SENTENCES.items() if str(value).startswith(start)), None)


_SENTENCES = {
    "no better epoch in ": Ending.PATIENCE,
    "catastrophic overfitting;": Ending.ROLLBACK,
    "catastrophic overfitting": Ending.COLLAPSE,
}


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_dict(self) -> dict[str, Any]:
        """The row as its line in the file; what is not known is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class Validated(_Row):
    """Figures of `n` validation images by name, such as "clean" and "robust".

    alone: of the two attacks that the alarm compares, how many images the strong one alone breaks; None without alarm.
    """

    n: Count
    figures: dict[str, Number]
    alone: Index | None = None

    @model_validator(mode="after")
    def _alone_of_n(self) -> Self:
        if self.alone is not None and self.alone > self.n:
            raise ValueError(f"alone is {self.alone} of {self.n} images")
        return self


class Epoch(_Row):
    """An epoch, counted from 0. It has no times, so that equal runs are equal bytes.

    lr: of the last update. train_accuracy: on the crafted images as they were learnt from, in training mode.
    forward, backward: passes of an image and update, as the first process counted them. alarm: why it looks like
    catastrophic overfitting, "" where it does not. method: what its method logs. val: where the epoch was measured on
    the validation split.
    """

    epoch: Index
    lr: FromZero
    train_loss: Number
    train_accuracy: Share | None = None
    forward: FromZero | None = None
    backward: FromZero | None = None
    alarm: str = ""
    ended: Ending = Ending.NONE
    method: dict[str, Number] = {}
    val: Validated | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_line(cls, line: Any) -> Any:
        if not isinstance(line, dict) or not (flat := [key for key in line if key.startswith(VALIDATED)]):
            return line
        rest = {key: value for key, value in line.items() if key not in flat}
        said = {key.removeprefix(VALIDATED): line[key] for key in flat}
        if "broken_by_pgd_alone" in said:  # of earlier logs
            said["alone"] = said.pop("broken_by_pgd_alone")
        own = {key: said.pop(key) for key in RESERVED if key in said}
        return rest | {"val": own | {"figures": said}}

    def to_dict(self) -> dict[str, Any]:
        row = super().to_dict()
        if not self.method:
            del row["method"]
        val = row.pop("val", {})
        figures = val.pop("figures", {})
        return row | {f"{VALIDATED}{key}": value for key, value in (val | figures).items()}


class Times(_Row):
    """How long an epoch took: its updates in `seconds`, and measuring it on the validation split."""

    epoch: Index
    seconds: FromZero
    images_per_second: FromZero
    measuring_seconds: FromZero


class UpdateRow(_Row):
    """An update, counted from 0 over the run, of an epoch from 0.

    accuracy: on the crafted images in training mode, where it is known. It has no times, like an `Epoch`.
    """

    update: Index
    epoch: Index
    loss: Number
    lr: FromZero
    accuracy: Share | None = None


Row = TypeVar("Row", Epoch, Times)


def read_log(file: Path, schema: type[Row]) -> list[Row]:
    """The rows of a log, a line an epoch; empty where there is no file.

    Raises `BadInput` for a damaged row, and for an epoch that is missing or doubled.
    """
    if not file.exists():
        return []
    rows: list[Row] = []
    for number, line in enumerate(BytesIO(read_bounded(file, MOST_LOG)), start=1):
        rows.append(parsed(schema, line, f"{file}, line {number}", ANEW))
        if rows[-1].epoch != number - 1:
            raise BadInput(f"{file}, line {number}, field 'epoch': {rows[-1].epoch} is not {number - 1}; {ANEW}")
    return rows
