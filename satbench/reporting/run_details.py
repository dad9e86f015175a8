"""What the files of runs say beside the rows of a leaderboard, for the cards of its pages."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import pandas as pd

from satbench.reporting.details import ClassCount, Curve, Detail, Outcomes
from satbench.reporting.joined import Measured, join_runs
from satbench.reporting.names import ClassNames, threat_name
from satbench.reporting.repeat import eval_command, train_command
from satbench.reporting.run_file import Entry
from satbench.results.metrics import WORST, robust_table
from satbench.results.records import STEP
from satbench.results.schema import Manifest
from satbench.results.training_log import Epoch

CHOSEN = ("train_loss", "train_accuracy")  # of an epoch, beside the figures of the validation split


def details_of(entries: Mapping[str, Entry]) -> list[Detail]:
    """A detail for each network on each set of images, of the entries that hold runs; `entries` by file name.

    Several runs of one network are joined as in the rows. Entries of counts give nothing.
    """
    held = {name: entry for name, entry in entries.items() if entry.run is not None}
    runs = [entry.run for entry in held.values() if entry.run is not None]
    return [_detail(measured, held) for measured in join_runs(runs)]


def _detail(measured: Measured, entries: Mapping[str, Entry]) -> Detail:
    seals = [manifest.seal for manifest in measured.manifests]
    files = {
        name: entry for name, entry in entries.items() if entry.run is not None and entry.run.manifest.seal in seals
    }
    records = measured.records
    images = sorted(records["sample_id"].unique())
    under, classes = _classes(records)
    manifests = measured.manifests
    training = max((entry.training for entry in files.values()), key=len, default=())
    train = train_command(measured.model)
    return Detail(
        network=measured.model.digest,
        dataset=measured.dataset,
        split=measured.split,
        loader=measured.loader or "",
        images=hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16],
        outcomes=_outcomes(records, images),
        classes=classes,
        classes_under=under,
        evidence=tuple(dict.fromkeys(sentence for manifest in manifests for sentence in _evidence(manifest))),
        training=tuple(_curves(training)),
        examples=tuple(one for name in sorted(files) for one in files[name].examples),
        provenance=tuple(pair for manifest in manifests for pair in _provenance(manifest)),
        commands=tuple(dict.fromkeys([*([train] if train else []), *map(eval_command, manifests)])),
        downloads=tuple((f"run file {name}", f"runs/{name}") for name in sorted(files)),
    )


def _outcomes(records: pd.DataFrame, images: Sequence[str]) -> dict[tuple[str, str], Outcomes]:
    """By threat and attack, whether each image stands."""
    found = {}
    for (attack, norm, eps), rows in records.groupby(STEP):
        broken = dict(zip(rows["sample_id"], rows["broken"], strict=True))
        standing = (None if image not in broken else not broken[image] for image in images)
        found[threat_name(norm, eps), attack] = tuple(standing)
    return found


def _classes(records: pd.DataFrame) -> tuple[str, tuple[ClassCount, ...]]:
    """Each class at the largest radius, under all attacks there, and what these are called."""
    norm, eps = max(zip(records["norm"], records["eps"], strict=True), key=lambda place: place[1])
    table = robust_table(records, norm, eps)
    attacks = [name for name in table if name != WORST]
    once = records.drop_duplicates("sample_id").set_index("sample_id").loc[table.index]
    columns = {"n": 1, "clean": once["clean_prediction"] == once["label"], "robust": table[WORST]}
    counts = once.assign(**columns).groupby("label")[list(columns)].sum()
    under = f"{threat_name(norm, eps)}, {WORST if len(attacks) > 1 else attacks[0]}"
    names = ClassNames(once.index, once["label"])
    return under, tuple(ClassCount(names[label], *map(int, row)) for label, *row in counts.itertuples(name=None))


def _evidence(manifest: Manifest) -> list[str]:
    findings = manifest.trust.findings if manifest.trust else []
    return [f"{one.outcome}, {one.check}: {one.sentence}" for one in findings]


def _curves(epochs: Sequence[Epoch]) -> list[Curve]:
    """Each figure of the log that was measured at some epoch, epochs counted from 1."""
    points: dict[str, list[tuple[int, float]]] = {}
    for one in epochs:
        said = {name: getattr(one, name) for name in CHOSEN}
        said |= {f"validation {name}": value for name, value in (one.val.figures if one.val else {}).items()}
        for name, value in said.items():
            if value is not None:
                points.setdefault(name.replace("_", " "), []).append((one.epoch + 1, float(value)))
    return [Curve(name, *zip(*found, strict=True)) for name, found in points.items()]


def _provenance(manifest: Manifest) -> list[tuple[str, str]]:
    """Name and value of what identifies a run."""
    said = {
        "run, seal": manifest.seal,
        "weights": manifest.model.digest,
        "code": manifest.model.code,
        "images": manifest.data.digest,
        "evaluation seed": str(manifest.seed),
        "device": manifest.device,
        "numerics": ", ".join(filter(None, (manifest.numerics, *manifest.other_numerics))),
        "search": manifest.search.note,
        "revision": manifest.revision,
        "versions": ", ".join(f"{package} {version}" for package, version in sorted(manifest.versions.items())),
        "made": manifest.created,
    }
    return [(name, value) for name, value in said.items() if value]
