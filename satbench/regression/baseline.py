"""Hand-approved expected numbers, one entry a suite, in `leaderboards/baselines.yaml`."""

from pathlib import Path
from typing import Annotated, Self

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.lookup import nearest
from satbench.core.parameters import Number
from satbench.core.parsing import parsed
from satbench.core.strict_yaml import read_mapping
from satbench.results.metrics import WORST, clean_table, robust_table

HEADER = (
    "# Approved numbers of `satbench check`. Changed only by `satbench check --approve REASON`, "
    "in a commit that says why a number moved.\n"
)


class Outcomes(BaseModel):
    """One figure: `right` has a "1" for every sample that stands and a "0" for every other, in the suite's order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    correct: int = Field(ge=0)
    n: int = Field(gt=0)
    right: str = Field(pattern="^[01]+$")

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if len(self.right) != self.n or self.right.count("1") != self.correct:
            raise ValueError(
                f"{self.right.count('1')} of {len(self.right)} outcomes are 1, not {self.correct} of {self.n}"
            )
        return self


class Baseline(BaseModel):
    """The approved outcome of one suite.

    fingerprint: of the machine's numerics when it was approved. data_digest: of the images. spread: by how many points
    each figure differed between the runs of other seeds when it was approved, the allowance for another machine's
    rounding, which moves a whole training run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    fingerprint: str
    data_digest: str
    versions: dict[str, str]
    figures: dict[str, Outcomes] = Field(min_length=1)
    spread: dict[str, Annotated[Number, Field(ge=0, le=100)]]

    @model_validator(mode="after")
    def _spread_is_whole(self) -> Self:
        for name in self.figures.keys() ^ self.spread.keys():
            raise ValueError(f"figures and spread must name the same figures; {name!r} is in one of them only")
        return self


def outcomes(records: pd.DataFrame) -> dict[str, Outcomes]:
    """The figures of a run: "clean", and one per attack and threat, samples in order of their ids."""
    figures = {"clean": clean_table(records).sort_index()}
    for norm, eps in records[["norm", "eps"]].drop_duplicates().itertuples(index=False):
        table = robust_table(records, norm, eps).drop(columns=WORST).sort_index()
        figures |= {f"{attack} at {norm} {eps:g}": table[attack] for attack in table.columns}
    return {
        name: Outcomes(correct=int(right.sum()), n=len(right), right="".join("1" if one else "0" for one in right))
        for name, right in figures.items()
    }


def read_baseline(path: Path, suite: str) -> Baseline:
    """The entry of one suite; raises `BadInput` when the file or entry is missing or wrong, naming the field."""
    if not path.is_file():
        raise BadInput(
            f"no baselines at {path}; run in a checkout, or make them with `satbench check --approve REASON`"
        )
    raw = read_mapping(path)
    if suite not in raw:
        raise BadInput(f"{path} has no suite {suite!r}; {nearest(suite, raw)}")
    return parsed(Baseline, raw[suite], f"{path}: entry {suite!r}")


def write_baseline(path: Path, suite: str, baseline: Baseline) -> None:
    """Replace the entry of one suite and keep the others."""
    raw = read_mapping(path) if path.is_file() else {}
    raw[suite] = baseline.model_dump()
    write_text(path, HEADER + yaml.safe_dump(raw, sort_keys=True, width=120))
