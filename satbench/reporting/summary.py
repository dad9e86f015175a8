"""Runs condensed to one row per model, images, threat and attack: the form in which results are committed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from satbench.errors import BadInput
from satbench.results.metrics import WORST, clean_table, robust_table
from satbench.results.schema import Manifest, ModelInfo, Threat, Trust, Verdict
from satbench.results.store import Run, to_json, write_text

SUMMARY_VERSION = 1
PACKAGES = ("satbench", "torch")  # the versions that a row repeats


class Trusted(BaseModel):
    """A verdict of the trust battery, with the sentences that made it so and the attacks to try next."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    next_attacks: tuple[str, ...] = ()

    @classmethod
    def of(cls, trust: Trust | None) -> "Trusted | None":
        """What a table repeats of a run's trust; None where nothing was checked."""
        if trust is None:
            return None
        decisive = [one for one in trust.findings if one.outcome == trust.verdict != "pass"]
        following = dict.fromkeys(one.next_attack for one in decisive if one.next_attack)
        return cls(
            verdict=trust.verdict, reasons=tuple(one.sentence for one in decisive), next_attacks=tuple(following)
        )


def least_trusted(found: Iterable[Trusted | None]) -> Trusted | None:
    """The worst of several verdicts with all its reasons; None, not checked, is worse than a pass."""
    ranks: list[Verdict | None] = ["pass", None, "suspicious", "fail"]
    verdicts = list(found)
    worst = max((one.verdict if one else None for one in verdicts), key=ranks.index, default=None)
    if worst is None:
        return None
    chosen = [one for one in verdicts if one and one.verdict == worst]
    return Trusted(
        verdict=worst,
        reasons=tuple(dict.fromkeys(sentence for one in chosen for sentence in one.reasons)),
        next_attacks=tuple(dict.fromkeys(attack for one in chosen for attack in one.next_attacks)),
    )


class Row(BaseModel):
    """Counts of one model on `n` images: `clean_correct` of them without attack, `robust` of them against `attack`.

    `attack` is a repr or `metrics.WORST`, and `attacks` the reprs that a sample had to withstand: that one, or all that
    the worst case joins. What several runs contributed stands side by side; `trust` is the worst verdict of theirs.
    `forward` and `backward` are the passes that the attacks took on all `n` images together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    label: str
    activation: str | None
    method: str | None
    recipe: str | None
    seed: int | None
    trained_for: Threat | None
    model_digest: str
    dataset: str
    split: str
    loader: str | None = None
    norm: str
    eps: float = Field(ge=0, allow_inf_nan=False)
    attack: str
    attacks: tuple[str, ...] = Field(min_length=1)
    n: int = Field(gt=0)
    clean_correct: int = Field(ge=0)
    robust: int = Field(ge=0)
    violations: int = Field(ge=0)
    forward: int | None = Field(default=None, ge=0)
    backward: int | None = Field(default=None, ge=0)
    trust: Trusted | None = None
    eval_seeds: tuple[int, ...]
    data_digests: tuple[str, ...]
    versions: dict[str, str]
    revision: str | None

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if max(self.clean_correct, self.robust) > self.n:
            raise ValueError(f"clean_correct {self.clean_correct} or robust {self.robust} is more than n {self.n}")
        return self


@dataclass(frozen=True)
class Measured:
    """All that was measured of one model on one data set; `records` has a column `run`, an index into `manifests`."""

    model: ModelInfo
    dataset: str
    split: str
    loader: str | None
    manifests: tuple[Manifest, ...]
    records: pd.DataFrame

    @property
    def images(self) -> str:
        return images_name(self.dataset, self.split, self.loader)


def images_name(dataset: str, split: str, loader: str | None) -> str:
    """Which images, as a table says it: `digits/test`, `imagenet/val by tf1-bicubic`."""
    return f"{dataset}/{split}" + (f" by {loader}" if loader else "")


def join_runs(runs: Sequence[Run]) -> list[Measured]:
    """The runs of each model (digest and activation) on each data set, split and loader as one, in canonical order.

    Raises `BadInput` when two runs show different images under one sample id.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        model, data = run.manifest.model, run.manifest.data
        place = (data.name, data.split, data.loader or "", model.digest, model.activation or "")
        groups.setdefault(place, []).append(run)
    return [_join(groups[key]) for key in sorted(groups)]


def _join(runs: list[Run]) -> Measured:
    runs = sorted(runs, key=lambda run: run.manifest.model_dump_json())
    manifests = tuple(run.manifest for run in runs)
    records = pd.concat([run.records.assign(run=position) for position, run in enumerate(runs)], ignore_index=True)
    data = manifests[0].data
    hashes = records.groupby("sample_id")["sample_hash"].nunique()
    if (hashes > 1).any():
        raise BadInput(
            f"sample {hashes.index[hashes > 1][0]} of {data.name}/{data.split} shows different images in two runs of "
            f"model {manifests[0].model.label}; give runs on the same data"
        )
    # where runs disagree, the wrong clean prediction and the broken record come first and count
    records["correct"] = records["clean_prediction"] == records["label"]
    records = records.sort_values(["correct", "broken", "run"], ascending=[True, False, True], kind="stable")
    records = records.drop_duplicates(["sample_id", "attack", "norm", "eps"]).drop(columns="correct")
    return Measured(_best_known(manifests), data.name, data.split, data.loader, manifests, records)


def _best_known(manifests: Sequence[Manifest]) -> ModelInfo:
    """The description with the most known fields."""
    models = sorted((manifest.model for manifest in manifests), key=ModelInfo.model_dump_json)
    return max(models, key=lambda model: sum(value is not None for value in model.model_dump().values()))


def summarise(runs: Sequence[Run]) -> list[Row]:
    """One row per model, data set, split, norm, eps and attack, plus the worst case where a threat had two attacks.

    Runs of one model on one data set are joined first. A single attack counts every sample it met; the worst case
    counts the samples that met all of them. A sample with several records of one attack and threat, as from two seeds,
    is broken if any of them is.
    """
    return canonical([row for measured in join_runs(runs) for row in _rows(measured)])


def canonical(rows: Sequence[Row]) -> list[Row]:
    """The rows in the one order in which they are stored, whatever order they came in."""
    return sorted(rows, key=lambda row: (*_key(row), row.model_dump_json()))


def _rows(measured: Measured) -> list[Row]:
    rows = []
    for (norm, eps), records in measured.records.groupby(["norm", "eps"]):
        attacks = tuple(sorted(records["attack"].unique()))
        for attack in attacks:
            rows.append(_row(measured, records[records["attack"] == attack], norm, eps, attack, (attack,)))
        if len(attacks) > 1 and len(robust_table(records, norm, eps)):
            rows.append(_row(measured, records, norm, eps, WORST, attacks))
    return rows


def _row(
    measured: Measured, records: pd.DataFrame, norm: str, eps: float, attack: str, attacks: tuple[str, ...]
) -> Row:
    robust = robust_table(records, norm, eps)[attack]
    records = records[records["sample_id"].isin(robust.index)]
    manifests = [measured.manifests[position] for position in sorted(records["run"].unique())]
    model = measured.model
    return Row(
        label=model.label,
        activation=model.activation,
        method=model.method,
        recipe=model.recipe,
        seed=model.seed,
        trained_for=model.trained_for,
        model_digest=model.digest,
        dataset=measured.dataset,
        split=measured.split,
        loader=measured.loader,
        norm=norm,
        eps=float(eps),
        attack=attack,
        attacks=attacks,
        n=len(robust),
        clean_correct=int(clean_table(records).sum()),
        robust=int(robust.sum()),
        violations=int((records["violation"] != "").sum()),
        forward=int(records["forward"].sum()),
        backward=int(records["backward"].sum()),
        trust=least_trusted(Trusted.of(manifest.trust) for manifest in manifests),
        eval_seeds=tuple(sorted({manifest.seed for manifest in manifests})),
        data_digests=tuple(sorted({manifest.data.digest for manifest in manifests})),
        versions={
            package: _side_by_side(manifest.versions.get(package) for manifest in manifests) or "unknown"
            for package in PACKAGES
        },
        revision=_side_by_side(manifest.revision for manifest in manifests),
    )


def _side_by_side(values: Iterable[str | None]) -> str | None:
    return " + ".join(sorted({value for value in values if value is not None})) or None


def _key(row: Row) -> tuple[str | float, ...]:
    return (
        row.dataset,
        row.split,
        row.loader or "",
        row.recipe or row.label,
        row.activation or "",
        -1 if row.seed is None else row.seed,
        row.model_digest,
        row.norm,
        row.eps,
        row.attack,
    )


def merge(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Both lists as one; a new row replaces the old one of the same model, images, threat and attack."""
    return canonical(list(({_key(row): row for row in old} | {_key(row): row for row in new}).values()))


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON, canonically ordered, atomically; equal rows give equal bytes."""
    stored = [row.model_dump(mode="json") for row in canonical(rows)]
    write_text(path, to_json({"schema_version": SUMMARY_VERSION, "rows": stored}))


def read_summary(path: Path) -> list[Row]:
    """The rows of a file made by `write_summary`, in canonical order.

    Raises `BadInput`, naming file, row and field, when anything is missing, unknown, doubled or of the wrong type.
    """
    again = "restore it, or make it with `satbench leaderboard --add FOLDER`"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadInput(f"summary {path} is missing or damaged ({type(error).__name__}); {again}") from None
    if not isinstance(raw, dict) or set(raw) != {"schema_version", "rows"} or not isinstance(raw["rows"], list):
        raise BadInput(f"summary {path} is not an object with schema_version and a list of rows; {again}")
    if raw["schema_version"] != SUMMARY_VERSION:
        raise BadInput(f"summary {path} has schema version {raw['schema_version']!r}, not {SUMMARY_VERSION}; {again}")
    rows: dict[tuple[str | float, ...], Row] = {}
    for position, entry in enumerate(raw["rows"]):
        try:
            row = Row.model_validate_json(json.dumps(entry))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "counts"
            raise BadInput(f"summary {path}, row {position}, field {field!r}: {first['msg']}; {again}") from None
        if rows.setdefault(_key(row), row) is not row:
            raise BadInput(f"summary {path}, row {position}, field 'attack': the same as an earlier row; {again}")
    return canonical(list(rows.values()))
