"""All that runs say of one network on one data set, joined."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.results.metrics import broken_table, clean_table
from satbench.results.schema import Manifest, ModelInfo
from satbench.results.store import Run
from satbench.specs.attack import AttackInfo


@dataclass(frozen=True)
class Measured:
    """All that was measured of one network on one data set; `records` has a column `run`, an index into `manifests`."""

    model: ModelInfo
    dataset: str
    split: str
    loader: str | None
    manifests: tuple[Manifest, ...]
    records: pd.DataFrame

    @property
    def images(self) -> str:
        return images_name(self.dataset, self.split, self.loader)

    @property
    def attacks(self) -> dict[str, AttackInfo]:
        """What is known of each attack by its id."""
        return infos_by_id(info for manifest in self.manifests for info in manifest.attacks)

    @cached_property
    def clean(self) -> "pd.Series[bool]":
        """Which images are classified correctly without any attack, by sample id."""
        return clean_table(self.records)

    @cached_property
    def broken(self) -> dict[tuple[str, float], pd.DataFrame]:
        """The `broken_table` of each threat, norm and eps, in their order."""
        groups = self.records.groupby(["norm", "eps"])
        return {(norm, float(eps)): broken_table(records) for (norm, eps), records in groups}

    def robust(self, norm: str, eps: float, attacks: Collection[str]) -> "pd.Series[bool]":
        """Which images stand against those of the attacks that were run at this threat, of the images that met all."""
        table = self.broken.get((norm, eps), pd.DataFrame())
        met = table[[attack for attack in table.columns if attack in attacks]]
        met = met[met.notna().any(axis=1)].dropna().astype(bool)  # the first: no attack, no image
        return ~met.any(axis=1)

    def union(self, threats: Iterable[Threat]) -> "pd.Series[bool]":
        """Which images stand against every attack of every threat, of the images that met all.

        Tramer & Boneh 2019, arXiv 1904.13000: the union of the perturbation sets.
        """
        each = [self.robust(one.norm, one.eps, set(self.records["attack"])) for one in threats]
        return pd.concat(each, axis=1, join="inner").all(axis=1)

    def met(self, norm: str, eps: float) -> dict[str, set[str]]:
        """Which samples met which attack at this threat; none where nothing was measured at it."""
        table = self.broken.get((norm, eps), pd.DataFrame())
        return {attack: set(column.dropna().index) for attack, column in table.items()}


def attacks_of(runs: Sequence[Run]) -> dict[str, AttackInfo]:
    """What the runs say of each of their attacks, by its id."""
    return infos_by_id(info for run in runs for info in run.manifest.attacks)


def infos_by_id(infos: Iterable[AttackInfo]) -> dict[str, AttackInfo]:
    """The infos without their stages; of several for one id, the last in the order of their JSON."""
    bare = (one.model_copy(update={"stages": ()}) for one in infos)
    return {one.id: one for one in sorted(bare, key=AttackInfo.model_dump_json)}


def images_name(dataset: str, split: str, loader: str | None) -> str:
    """Which images, as a table says it: `digits/test`, `imagenet/val by tf1-bicubic`."""
    return f"{dataset}/{split}" + (f" by {loader}" if loader else "")


def join_runs(runs: Sequence[Run]) -> list[Measured]:
    """The runs of each network on each data set, split and loader as one, in canonical order.

    Runs are of one network if all that their manifests say of it is equal but for `ref`. Raises `BadInput` when two
    runs show different images under one sample id.
    """
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        network, data = network_of(run), run.manifest.data
        place = (data.name, data.split, data.loader or "", network.digest, network.model_dump_json())
        groups.setdefault(place, []).append(run)
    return [_join(groups[key]) for key in sorted(groups)]


def network_of(run: Run) -> ModelInfo:
    """The network of a run, whatever name it was loaded by (`ref` is "")."""
    return run.manifest.model.model_copy(update={"ref": ""})


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
    return Measured(network_of(runs[0]), data.name, data.split, data.loader, manifests, records)
