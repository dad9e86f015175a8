"""Runs condensed to one row per model, images, threat and attack."""

from collections.abc import Iterable, Sequence
from typing import Literal, Self, get_args

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from satbench.core.eps import Norm, Threat
from satbench.core.extra import ExtraData
from satbench.core.parameters import Count, FromZero, Index, Share
from satbench.reporting.joined import Measured, join_runs
from satbench.reporting.names import threat_name
from satbench.results.metrics import UNION, WORST, clean_table, weighted_accuracy
from satbench.results.schema import Manifest, ModelInfo, Trust, Verdict
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo

PACKAGES = ("satbench", "torch")  # the versions that a row repeats
NOT_CHECKED: Verdict = "not checked"


class Trusted(BaseModel):
    """A verdict of the trust battery, with the sentences that made it so and the attacks to try next."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    verdict: Verdict = NOT_CHECKED
    reasons: tuple[str, ...] = ()
    next_attacks: tuple[str, ...] = ()

    @classmethod
    def of(cls, trust: Trust | None) -> "Trusted":
        """What a table repeats of a run's trust; a run without one is not checked."""
        if trust is None:
            return cls()
        decisive = [one for one in trust.findings if one.outcome == trust.verdict != "pass"]
        following = dict.fromkeys(one.next_attack for one in decisive if one.next_attack)
        reasons = tuple(f"{one.check}: {one.sentence}" for one in decisive)
        return cls(verdict=trust.verdict, reasons=reasons, next_attacks=tuple(following))


def least_trusted(found: Iterable[Trusted]) -> Trusted:
    """The worst of one or more verdicts, in the order of `Verdict`, with all its reasons."""
    verdicts = list(found)
    worst = max((one.verdict for one in verdicts), key=get_args(Verdict).index)
    chosen = [one for one in verdicts if one.verdict == worst]
    return Trusted(
        verdict=worst,
        reasons=tuple(dict.fromkeys(sentence for one in chosen for sentence in one.reasons)),
        next_attacks=tuple(dict.fromkeys(attack for one in chosen for attack in one.next_attacks)),
    )


class Row(BaseModel):
    """Counts of one model on `n` images: `clean_correct` of them without attack, `robust` of them against `attack`.

    `attack` is an id or `metrics.WORST`, and `attacks` what a sample had to withstand: that one, or all that the worst
    case joins, described without their stages, which may differ from run to run. Likewise `norm` is `metrics.UNION`,
    and `eps` 0, where a sample had to withstand all of `threats`, which is empty otherwise. What several runs
    contributed is listed together; `trust` is their worst verdict. `forward` and `backward` are the passes that the
    attacks took on all `n` images together.

    `draws` are the passes of which a random network's prediction is the majority; with more than one, `weighted` is
    the probability-weighted robust accuracy (`metrics.weighted_accuracy`). `bad_gradients` counts the images of which
    some gradient was not finite. `mixed_numerics` says that machines whose arithmetic differs computed a run together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    label: str
    activation: str | None
    method: str | None
    recipe: str | None
    seed: Index | None
    trained_for: Threat | None
    extra_data: ExtraData | None = None
    config: str | None = None
    group: str | None = None
    code: str | None = None
    model_digest: str
    dataset: str
    split: str
    loader: str | None = None
    norm: Norm | Literal["union"]
    eps: FromZero
    threats: tuple[Threat, ...] = ()
    attack: str
    attacks: tuple[AttackInfo, ...] = Field(min_length=1)
    n: Count
    clean_correct: Index
    robust: Index
    violations: Index
    forward: Index | None = None
    backward: Index | None = None
    draws: tuple[Count, ...] = (1,)
    weighted: Share | None = None
    bad_gradients: Index = 0
    mixed_numerics: bool = False
    trust: Trusted = Trusted()
    eval_seeds: tuple[Index, ...]
    data_digests: tuple[str, ...]
    versions: dict[str, str]
    revision: str | None

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        if max(self.clean_correct, self.robust) > self.n:
            raise ValueError(f"clean_correct {self.clean_correct} or robust {self.robust} is more than n {self.n}")
        return self

    @property
    def network(self) -> ModelInfo:
        """The network that was measured, whatever name it was loaded by (`ref` is "")."""
        return ModelInfo(
            ref="",
            digest=self.model_digest,
            label=self.label,
            activation=self.activation,
            method=self.method,
            recipe=self.recipe,
            seed=self.seed,
            trained_for=self.trained_for,
            extra_data=self.extra_data,
            config=self.config,
            group=self.group,
            code=self.code,
        )


def summarise(runs: Sequence[Run]) -> list[Row]:
    """One row per network, data set, split, norm, eps and attack, plus the worst case where a threat had two attacks.

    Where a run asked for several norms with one eps each, one more row has their union: a sample is robust if it stands
    against every attack at every one of those threats. Runs of one network on one data set are joined first. A single
    attack counts every sample it met; worst case and union count the samples that met all of theirs. A sample with
    several records of one attack and threat, as from two seeds, is broken if any of them is.
    """
    return rows_of(join_runs(runs))


def rows_of(networks: Sequence[Measured]) -> list[Row]:
    """The rows of `summarise` for joined runs."""
    return canonical([row for measured in networks for row in _rows(measured)])


def canonical(rows: Sequence[Row]) -> list[Row]:
    """The rows in the one order in which they are stored, whatever order they came in."""
    return sorted(rows, key=lambda row: (*key(row), row.model_dump_json()))


def merge(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Both lists as one; a new row replaces the old one of the same network, images, threat and attack.

    That also holds where the network's `config` or `group` has changed since: a group can be declared later.
    """
    measured = {measurement(row) for row in new}
    return canonical([*(row for row in old if measurement(row) not in measured), *new])


def _rows(measured: Measured) -> list[Row]:
    rows = []
    for (norm, eps), records in measured.records.groupby(["norm", "eps"]):
        threat = Threat(norm=norm, eps=float(eps))
        attacks = sorted(records["attack"].unique())
        for attack in attacks:
            met = records[records["attack"] == attack]
            rows.append(_row(measured, met, measured.robust(norm, float(eps), [attack]), threat))
        worst = measured.robust(norm, float(eps), attacks)
        if len(attacks) > 1 and len(worst):
            rows.append(_row(measured, records, worst, threat))
    for threats in _unions(measured.manifests):
        places = [(one.norm, one.eps) for one in threats]
        chosen = pd.MultiIndex.from_frame(measured.records[["norm", "eps"]]).isin(places)
        robust = measured.union(threats)
        if len(robust):
            rows.append(_row(measured, measured.records[chosen], robust, *threats))
    return rows


def _unions(manifests: Iterable[Manifest]) -> list[tuple[Threat, ...]]:
    """The threats of each run that has several norms and one eps for each."""
    asked = {tuple(sorted(one.threats, key=lambda threat: threat.norm)) for one in manifests}
    return [threats for threats in asked if 1 < len(threats) == len({threat.norm for threat in threats})]


def _row(measured: Measured, records: pd.DataFrame, robust: "pd.Series[bool]", *threats: Threat) -> Row:
    """The row of these records, in which the samples of `robust` met every attack; several threats are a union."""
    records = records[records["sample_id"].isin(robust.index)]
    attacks = tuple(sorted(records["attack"].unique()))
    union = len(threats) > 1
    bad = records.loc[records["bad_gradient"], "sample_id"]
    manifests = [measured.manifests[position] for position in sorted(records["run"].unique())]
    model = measured.model
    return Row(
        label=model.label,
        activation=model.activation,
        method=model.method,
        recipe=model.recipe,
        seed=model.seed,
        trained_for=model.trained_for,
        extra_data=model.extra_data,
        config=model.config,
        group=model.group,
        code=model.code,
        model_digest=model.digest,
        dataset=measured.dataset,
        split=measured.split,
        loader=measured.loader,
        norm=UNION if union else threats[0].norm,
        eps=0.0 if union else threats[0].eps,
        threats=threats if union else (),
        attack=WORST if len(attacks) > 1 else attacks[0],
        attacks=tuple(measured.attacks[attack] for attack in attacks),
        n=len(robust),
        clean_correct=int(clean_table(records).sum()),
        robust=int(robust.sum()),
        violations=int((records["violation"] != "").sum()),
        forward=int(records["forward"].sum()),
        backward=int(records["backward"].sum()),
        draws=tuple(sorted({manifest.draws for manifest in manifests})),
        weighted=weighted_accuracy(records) if any(manifest.draws > 1 for manifest in manifests) else None,
        bad_gradients=bad.nunique(),
        mixed_numerics=any(manifest.other_numerics for manifest in manifests),
        trust=_trust(measured, records),
        eval_seeds=tuple(sorted({manifest.seed for manifest in manifests})),
        data_digests=tuple(sorted({manifest.data.digest for manifest in manifests})),
        versions={
            package: _side_by_side(manifest.versions.get(package) for manifest in manifests) or "unknown"
            for package in PACKAGES
        },
        revision=_side_by_side(manifest.revision for manifest in manifests),
    )


def _trust(measured: Measured, records: pd.DataFrame) -> Trusted:
    """The trust in a number that joins runs: a fail of any, else that of the run that leaves the fewest standing.

    A verdict says by how much a run's own number may be too high, and the join is at most the lowest of them. Only runs
    that measured all the images count.
    """
    found = {run: Trusted.of(measured.manifests[run].trust) for run in records["run"].unique()}
    failed = [trust for trust in found.values() if trust.verdict == "fail"]
    if failed:
        return least_trusted(failed)
    broken = records.groupby(["run", "sample_id"])["broken"].any()
    images = broken.groupby("run").size()
    standing = (~broken).groupby("run").sum()[images == images.max()]
    return least_trusted(found[run] for run in standing.index[standing == standing.min()])


def _side_by_side(values: Iterable[str | None]) -> str | None:
    return " + ".join(sorted({value for value in values if value is not None})) or None


def key(row: Row) -> tuple[str | float, ...]:
    """What no two rows of a summary share: network, images, threat and attack."""
    return (*measurement(row), row.config or "", row.group or "")


def measurement(row: Row) -> tuple[str | float, ...]:
    """What the rows of one measurement share, whatever config or group its network was said to be of."""
    return (
        row.dataset,
        row.split,
        row.loader or "",
        row.recipe or row.label,
        row.activation or "",
        -1 if row.seed is None else row.seed,
        row.model_digest,
        row.code or "",
        row.norm,
        row.eps,
        " ".join(threat_name(one.norm, one.eps) for one in row.threats),
        row.attack,
        row.label,
    )
