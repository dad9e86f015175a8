"""A small run and the edits of it that a forger may try; used by `test_tampering`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from small_networks import nearest_mean
from torch import Tensor

from satbench import evaluate
from satbench.attacks import PGD
from satbench.core.files import file_digest, to_json
from satbench.data import load_images
from satbench.evaluation.consistency import work_of
from satbench.evaluation.parts import Work
from satbench.evaluation.rebuild import rebuild
from satbench.evaluation.verify import Verified, verify
from satbench.models.weights import model_digest
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import EXAMPLES, RECORDS, TIMING, Manifest, ModelInfo
from satbench.results.store import Run, read_run, seal_of
from satbench.zoo import Loaded

N, BATCH, EPS = 40, 20, "0.1,0.2"
ATTACKS = ["pgd:steps=10", "foolbox:LinfPGD,steps=5,unit=20"]
TABLES = {"records": RECORDS, "timing": TIMING, "examples": EXAMPLES}


def network() -> Loaded:
    """Every pixel of it counts, and it is quick."""
    model = nearest_mean().eval()
    info = ModelInfo(ref="test", digest=model_digest(model), label="nearest mean", activation="identity", seed=0)
    return Loaded(model, info)


def measured(model: Loaded, out: Path, **options: Any) -> Run:
    settings: dict[str, Any] = {"attack": ATTACKS, "eps": EPS, "n": N, "batch_size": BATCH, "dataset": "digits"}
    settings |= {"save_examples": True, "device": "cpu", "split": "test"}
    return evaluate(model, out, **(settings | options))


def checked(folder: Path, model: Loaded, **options: Any) -> Verified:
    return verify(folder, model, device="cpu", **options)


# edits


@dataclass
class Draft:
    """A run folder as a forger opens it."""

    folder: Path
    manifest: dict[str, Any]
    records: pd.DataFrame
    timing: pd.DataFrame
    examples: pd.DataFrame

    @classmethod
    def of(cls, folder: Path) -> "Draft":
        tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
        return cls(folder, read_run(folder).manifest.model_dump(mode="json"), **tables)

    def save(self, seal: bool) -> None:
        """Write everything back, with a new seal and digests of examples or with the old ones."""
        if seal and len(self.examples):
            digests = self.examples["example_file"].map(lambda name: file_digest(self.folder / name))
            self.examples["example_digest"] = digests
        for name, schema in TABLES.items():
            table = pa.Table.from_pandas(getattr(self, name), schema=schema, preserve_index=False)
            file = self.folder / f"{name}.parquet"
            pq.write_table(table.replace_schema_metadata(None), file, compression="zstd", write_statistics=False)
        if seal:
            manifest = Manifest.model_validate(self.manifest).model_dump(mode="json")
            self.manifest["seal"] = seal_of(self.folder, manifest)
        (self.folder / "manifest.json").write_text(to_json(self.manifest))

    def everywhere(self, column: str, old: object, new: object) -> None:
        for name in TABLES:
            table = getattr(self, name)
            table.loc[table[column] == old, column] = new

    def forge_parts(self) -> None:
        """Put the finished batches where the edited manifest has them, with digests that agree."""
        before, after = read_run(self.folder).manifest, Manifest.model_validate(self.manifest)
        for i, old in enumerate(before.attacks):
            for j, threat in enumerate(before.threats):
                was, claimed = rebuild(old), rebuild(after.attacks[i])
                assert was is not None
                assert claimed is not None
                there = ThreatModel(after.threats[j].norm, after.threats[j].eps)
                source = work_of(before, was, 0, ThreatModel(threat.norm, threat.eps))
                target = Work(self.folder, work_of(after, claimed, 0, there), examples=False)
                for part in Work(self.folder, source, examples=False).by_batch.values():
                    target.keep(part, torch.empty(0))


def setting(**changes: Any) -> Callable[[Draft], None]:
    def edit(draft: Draft) -> None:
        draft.manifest |= changes

    return edit


def inside(field: str, **changes: Any) -> Callable[[Draft], None]:
    def edit(draft: Draft) -> None:
        draft.manifest[field] |= changes

    return edit


def cell(column: str, change: Callable[[Any], Any], *, broken: bool) -> Callable[[Draft], None]:
    """Change one record of an attacked image, at the largest eps, that was first broken there or stands."""

    def edit(draft: Draft) -> None:
        records = draft.records
        chosen = (records["broken"] == broken) & (records["forward"] > 0) & (records["eps"] == records["eps"].max())
        row = records.index[chosen][0]
        records.loc[row, column] = change(records.loc[row, column])

    return edit


def broken_by_attack(records: pd.DataFrame) -> "pd.Series[bool]":
    return records["broken"] & (records["clean_prediction"] == records["label"])


def stands(records: pd.DataFrame, rows: "pd.Series[bool]") -> None:
    records.loc[rows, ["broken", "margin", "fell_at", "stage"]] = [False, -0.5, -1, ""]
    records.loc[rows, "prediction"] = records.loc[rows, "label"]


def all_stand(draft: Draft) -> None:
    stands(draft.records, broken_by_attack(draft.records))
    draft.examples = draft.examples.head(0)
    smaller = draft.records["eps"] == draft.records["eps"].min()
    passes = draft.records[smaller].set_index(["attack", "sample_id"])[["forward", "backward"]]
    carried = ~smaller & (draft.records["forward"] == 0) & (draft.records["clean_prediction"] == draft.records["label"])
    keys = draft.records.loc[carried, ["attack", "sample_id"]].apply(tuple, axis=1)
    draft.records.loc[carried, ["forward", "backward"]] = passes.loc[list(keys)].to_numpy()
    retime(draft)


def retime(draft: Draft) -> None:
    """Make the table of times what the records want."""
    rows = []
    right = draft.records["clean_prediction"] == draft.records["label"]
    for (attack, norm, eps), table in draft.records[right].groupby(["attack", "norm", "eps"], sort=False):
        given = table[table["forward"] > 0]
        for start in range(0, len(given), BATCH):
            part = given.iloc[start : start + BATCH]
            passes = [int(part[column].sum()) for column in ("forward", "backward")]
            rows.append((attack, "", norm, eps, len(part), *passes, 0.1))
    draft.timing = pd.DataFrame(rows, columns=TIMING.names)


def one_stands(draft: Draft) -> None:
    """The last image that an attack broke at the largest radius is robust after all."""
    records = draft.records
    row = records.index[broken_by_attack(records) & (records["forward"] > 0) & (records["eps"] == 0.2)][-1]
    stands(records, records.index == row)
    keys = ["attack", "norm", "eps", "sample_id"]
    same = (draft.examples[keys] == records.loc[row, keys]).all(axis=1)
    draft.examples = draft.examples[~same]


def attack_deleted(draft: Draft) -> None:
    gone = draft.manifest["attacks"].pop()["id"]
    for name in TABLES:
        table = getattr(draft, name)
        setattr(draft, name, table[table["attack"] != gone])


def records_dropped(draft: Draft) -> None:
    draft.records = draft.records[draft.records["attack"] == draft.records["attack"][0]]


def renamed(draft: Draft) -> None:
    old, new = PGD(steps=10).info, PGD(steps=100).info
    assert draft.manifest["attacks"][0] == old.model_dump(mode="json")
    draft.manifest["attacks"][0] = new.model_dump(mode="json")
    draft.everywhere("attack", old.id, new.id)


def other_id(draft: Draft) -> None:
    """Everywhere an id of 100 steps, with the parameters as they are."""
    draft.manifest["attacks"][0] |= {"id": PGD(steps=100).info.id, "label": "PGD-100"}
    draft.everywhere("attack", PGD(steps=10).info.id, PGD(steps=100).info.id)


def described(**changes: Any) -> Callable[[Draft], None]:
    """Change what the manifest says of its first attack."""

    def edit(draft: Draft) -> None:
        draft.manifest["attacks"][0] |= changes

    return edit


def renamed_in_parts(draft: Draft) -> None:
    renamed(draft)
    draft.forge_parts()


def eps_edited(draft: Draft) -> None:
    draft.manifest["threats"][1]["eps"] = 0.22
    draft.everywhere("eps", 0.2, 0.22)


def eps_edited_in_parts(draft: Draft) -> None:
    eps_edited(draft)
    draft.forge_parts()


def norm_edited(draft: Draft) -> None:
    for threat in draft.manifest["threats"]:
        threat["norm"] = "L2"
    draft.everywhere("norm", "Linf", "L2")


def norm_edited_in_parts(draft: Draft) -> None:
    norm_edited(draft)
    draft.forge_parts()


def in_parts(edit: Callable[[Draft], None]) -> Callable[[Draft], None]:
    def both(draft: Draft) -> None:
        edit(draft)
        draft.forge_parts()

    return both


def without_parts(edit: Callable[[Draft], None]) -> Callable[[Draft], None]:
    """Also delete the finished batches, but not the examples beside them."""

    def both(draft: Draft) -> None:
        edit(draft)
        for file in draft.folder.glob("parts/*/*.parquet"):
            file.unlink()

    return both


def fewer_images(draft: Draft) -> None:
    ids = draft.records["sample_id"].unique()[: N - 8]
    draft.manifest["data"]["n"] = N - 8
    draft.records = draft.records[draft.records["sample_id"].isin(ids)]
    draft.examples = draft.examples[draft.examples["sample_id"].isin(ids)]
    retime(draft)


def relabelled(draft: Draft) -> None:
    draft.records.loc[draft.records["sample_id"] == draft.records["sample_id"][0], "label"] += 1


def wrong_image_is_right(draft: Draft) -> None:
    records = draft.records
    wrong = records["clean_prediction"] != records["label"]
    records.loc[wrong, "clean_prediction"] = records.loc[wrong, "label"]
    stands(records, wrong)


def clean_class_edited(draft: Draft) -> None:
    records = draft.records
    wrong = records["clean_prediction"] != records["label"]
    other = (records["clean_prediction"] + 1) % 10
    other = other.where(other != records["label"], (other + 1) % 10)
    records.loc[wrong, ["clean_prediction", "prediction"]] = other[wrong]


def clean_margin_edited(draft: Draft) -> None:
    wrong = draft.records["clean_prediction"] != draft.records["label"]
    draft.records.loc[wrong, "margin"] *= 1.1


def hashed(draft: Draft) -> None:
    draft.records.loc[0, "sample_hash"] = "0" * 32


def timing_of_passes(draft: Draft) -> None:
    draft.timing.loc[0, "backward"] -= 5


def seconds_edited(draft: Draft) -> None:
    draft.timing["seconds"] /= 10


def passes_edited(draft: Draft) -> None:
    """Half the passes, in the records and in the table of times."""
    for table in (draft.records, draft.timing):
        table[["forward", "backward"]] //= 2
    draft.records["fell_at"] = draft.records["fell_at"].where(draft.records["fell_at"] < 1, 1)
    retime(draft)


def fell_later(draft: Draft) -> None:
    records = draft.records
    rows = broken_by_attack(records) & (records["forward"] > 0) & (records["eps"] == 0.2)
    records.loc[rows, "fell_at"] = 1


def reordered(draft: Draft) -> None:
    draft.records = draft.records.iloc[[1, 0, *range(2, len(draft.records))]]


def duplicated(draft: Draft) -> None:
    draft.records = draft.records.iloc[[0, 0, *range(1, len(draft.records))]]


def dropped(draft: Draft) -> None:
    draft.records = draft.records.iloc[1:]


def duplicated_for_another(draft: Draft) -> None:
    draft.records = draft.records.iloc[[0, 0, *range(2, len(draft.records))]]


def verdict_edited(draft: Draft) -> None:
    worse = {"pass": "suspicious"}.get(draft.manifest["trust"]["verdict"], "pass")
    draft.manifest["trust"]["verdict"] = worse


def finding_edited(draft: Draft) -> None:
    draft.manifest["trust"]["findings"][-1]["sentence"] = "All checks ran."


def findings_dropped(draft: Draft) -> None:
    draft.manifest["trust"] |= {"verdict": "pass"}
    kept = [one for one in draft.manifest["trust"]["findings"][:-1] if one["outcome"] == "pass"]
    draft.manifest["trust"]["findings"] = kept


def version_edited(draft: Draft) -> None:
    draft.manifest["versions"]["torch"] = "1.0"


def change_example(draft: Draft, change: Callable[[Tensor], Tensor]) -> None:
    file = draft.folder / draft.examples["example_file"].iloc[0]
    save_file({"x_adv": change(load_file(file)["x_adv"].clone()).contiguous()}, file)


def swapped(draft: Draft) -> None:
    rows = draft.examples["example_row"].to_numpy().copy()
    same_file = draft.examples["example_file"] == draft.examples["example_file"].iloc[0]
    first, second = draft.examples.index[same_file][:2]
    rows[[first, second]] = rows[[second, first]]
    draft.examples["example_row"] = rows


def clean_copy(draft: Draft) -> None:
    images = load_images("digits", "test")
    first = draft.examples.iloc[0]
    clean = images.x[images.ids.index(first["sample_id"])]
    row = int(first["example_row"])
    change_example(draft, lambda x: torch.cat([x[:row], clean[None], x[row + 1 :]]))


def outside(draft: Draft) -> None:
    change_example(draft, lambda x: (x + 0.3).clamp(0, 1))


def off_the_grid(draft: Draft) -> None:
    change_example(draft, lambda x: x * torch.nan)


def example_deleted(draft: Draft) -> None:
    draft.examples = draft.examples.iloc[1:]


def example_listed_twice(draft: Draft) -> None:
    draft.examples = pd.concat([draft.examples, draft.examples.head(1)])


def example_of_nobody(draft: Draft) -> None:
    draft.examples = pd.concat([draft.examples, draft.examples.head(1).assign(sample_id="nobody")])


def broken_without_example(draft: Draft) -> None:
    records = draft.records
    row = records.index[~records["broken"]][0]
    changes = {"broken": True, "prediction": (records.loc[row, "label"] + 1) % 10, "margin": 0.5, "fell_at": 1}
    records.loc[row, list(changes)] = list(changes.values())


def stands_at_larger(draft: Draft) -> None:
    """What the smaller radius broke stands at the larger one."""
    records = draft.records
    carried = broken_by_attack(records) & (records["forward"] == 0)
    stands(records, records.index == records.index[carried][0])


def examples_hidden(draft: Draft) -> None:
    draft.manifest["examples"] = False


COMPUTED, SEAL = "found by computing", "found by a published seal alone"
EDITS: dict[str, tuple[Callable[[Draft], None], str]] = {
    "all broken images stand, no examples": (all_stand, COMPUTED),
    "all broken images stand, no parts": (without_parts(all_stand), COMPUTED),
    "one broken image stands": (one_stands, COMPUTED),
    "an image stands at a larger eps only": (stands_at_larger, COMPUTED),
    "broken without an example": (broken_without_example, COMPUTED),
    "a deleted attack": (attack_deleted, COMPUTED),
    "records of an attack dropped": (records_dropped, COMPUTED),
    "PGD-10 is called PGD-100": (renamed, COMPUTED),
    "PGD-10 is called PGD-100, also in parts": (renamed_in_parts, COMPUTED),
    "PGD-10 is called PGD-100, no parts": (without_parts(renamed), COMPUTED),
    "attack id": (other_id, COMPUTED),
    "attack label": (described(label="PGD-100"), COMPUTED),
    "attack tier": (described(tier="AutoAttack"), COMPUTED),
    "attack kind": (described(kind="score"), COMPUTED),
    "attack effort": (described(effort=1000), COMPUTED),
    "attack parameters that the id does not show": (described(unset=["keep"]), COMPUTED),
    "attack of another name": (described(name="mine:attack"), COMPUTED),
    "eps": (eps_edited, COMPUTED),
    "eps, also in parts": (eps_edited_in_parts, COMPUTED),
    "norm": (norm_edited, COMPUTED),
    "norm, also in parts": (norm_edited_in_parts, COMPUTED),
    "seed": (setting(seed=1), COMPUTED),
    "seed, also in parts": (in_parts(setting(seed=1)), COMPUTED),
    "batch size": (setting(batch_size=13), COMPUTED),
    "search": (inside("search", form="plain", copied=False, folded=0, channels_last=False), COMPUTED),
    "search, also in parts": (in_parts(inside("search", folded=8)), COMPUTED),
    "search form, also in parts": (in_parts(inside("search", form="plain")), COMPUTED),
    "search in words": (inside("search", note="a copy"), SEAL),
    "device": (setting(device="cuda:0"), COMPUTED),
    "version": (version_edited, COMPUTED),
    "version, also in parts": (in_parts(version_edited), SEAL),
    "revision": (setting(revision="0123456"), COMPUTED),
    "fingerprint": (setting(fingerprint="0" * 16), COMPUTED),
    "fewer images": (fewer_images, COMPUTED),
    "data digest": (inside("data", digest="sha256:0"), COMPUTED),
    "model digest": (inside("model", digest="sha256:0"), COMPUTED),
    "activation": (inside("model", activation="silu"), COMPUTED),
    "training config": (inside("model", config="0"), COMPUTED),
    "training family": (inside("model", family="0"), COMPUTED),
    "training seed": (inside("model", seed=7), COMPUTED),
    "model name": (inside("model", label="another"), SEAL),
    "model group": (inside("model", group="mine"), SEAL),
    "trust verdict": (verdict_edited, COMPUTED),
    "trust sentence": (finding_edited, COMPUTED),
    "trust findings dropped": (findings_dropped, COMPUTED),
    "trust removed": (setting(trust=None), SEAL),
    "sample hash": (hashed, COMPUTED),
    "label": (relabelled, COMPUTED),
    "clean mistakes are right": (wrong_image_is_right, COMPUTED),
    "clean prediction": (clean_class_edited, COMPUTED),
    "clean margin": (clean_margin_edited, COMPUTED),
    "margin of a standing image": (cell("margin", lambda value: value - 0.1, broken=False), COMPUTED),
    "margin of a broken image": (cell("margin", lambda value: value + 0.1, broken=True), COMPUTED),
    "distance Linf": (cell("distance_linf", lambda value: value * 0.9, broken=True), COMPUTED),
    "distance L2": (cell("distance_l2", lambda value: value * 0.9, broken=True), COMPUTED),
    "distance L1": (cell("distance_l1", lambda value: value * 0.9, broken=True), COMPUTED),
    "distance of a standing image": (cell("distance_l2", lambda value: value * 0.9, broken=False), COMPUTED),
    "prediction": (cell("prediction", lambda value: (value + 5) % 10, broken=True), COMPUTED),
    "violation": (cell("violation", lambda _: "outside the ball", broken=False), COMPUTED),
    "stage": (cell("stage", lambda _: "PGD", broken=True), COMPUTED),
    "fell at": (fell_later, COMPUTED),
    "forward passes": (cell("forward", lambda value: value - 1, broken=False), COMPUTED),
    "backward passes": (cell("backward", lambda value: value - 1, broken=False), COMPUTED),
    "all passes": (passes_edited, COMPUTED),
    "passes in the table of times": (timing_of_passes, COMPUTED),
    "seconds in the table of times": (seconds_edited, SEAL),
    "duplicated row": (duplicated, COMPUTED),
    "row in place of another": (duplicated_for_another, COMPUTED),
    "dropped row": (dropped, COMPUTED),
    "reordered rows": (reordered, COMPUTED),
    "swapped examples": (swapped, COMPUTED),
    "example is the clean image": (clean_copy, COMPUTED),
    "example outside the ball": (outside, COMPUTED),
    "example of NaN": (off_the_grid, COMPUTED),
    "example not listed": (example_deleted, COMPUTED),
    "example listed twice": (example_listed_twice, COMPUTED),
    "example of no image": (example_of_nobody, COMPUTED),
    "examples hidden": (examples_hidden, SEAL),
    "numerics": (setting(numerics="0" * 16), SEAL),
    "threads": (setting(threads=3), COMPUTED),
    "draws": (setting(draws=9), COMPUTED),
    "notes": (setting(notes=["all is well"]), SEAL),
    "command": (setting(command="satbench eval"), SEAL),
    "created": (setting(created="2020-01-01T00:00:00+00:00"), SEAL),
    "host": (setting(host="elsewhere"), SEAL),
    "seconds": (setting(seconds=1.0), SEAL),
}
EXAMPLE_FILES = ("example is the clean image", "example outside the ball", "example of NaN")  # not read by tables
