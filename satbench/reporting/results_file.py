"""The results of a study as one small file, from which its page and its tests can be computed again.

The file is JSON, compressed by gzip. It holds the manifest of each run and, image by image, what `packed` keeps.
"""

import gzip
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from satbench.core.bounded import MIB, gunzipped, read_bounded
from satbench.core.errors import FAULTS, BadInput
from satbench.core.parameters import FromZero, Index
from satbench.core.parsing import parsed
from satbench.reporting.background import NOTHING, Background
from satbench.reporting.examples import Broken
from satbench.reporting.joined import Measured, images_name, join_runs
from satbench.reporting.packed import (
    PackedRecords,
    Strict,
    pack_bytes,
    pack_records,
    portable,
    unpack_bytes,
    unpack_records,
)
from satbench.reporting.pictures import Picture
from satbench.reporting.trained import Trained
from satbench.results.schema import Manifest
from satbench.results.store import Run
from satbench.results.training_log import Epoch
from satbench.specs.study import Reported

RESULTS_FILE = "results.json.gz"
VERSION = 1
MOST_BYTES, MOST_UNPACKED = 64 * MIB, 512 * MIB
PIXELS = {"image": np.uint8, "perturbation": np.int8, "attacked": np.uint8}
AGAIN = "make it again with `satbench report`"

Side = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class StudyResults:
    """What a page is made of: `curves` are logs of trainings by name, `reference` the activation to compare with."""

    title: str
    runs: tuple[Run, ...]
    curves: Mapping[str, Sequence[Epoch]]
    notes: tuple[str, ...] = ()
    reference: str = "relu"
    trained: tuple[Trained, ...] = ()
    reported: tuple[Reported, ...] = ()
    background: Background = NOTHING

    @cached_property
    def networks(self) -> list[Measured]:
        """The runs of each network joined."""
        return join_runs(self.runs)


class _Images(Strict):
    """Images in the order of their positions."""

    name: str
    ids: list[str]
    labels: list[Index]


class _Run(PackedRecords):
    """A run; `images` is its position in the list of images."""

    manifest: Manifest
    images: Index


class _Picture(Broken):
    """A `Picture`; its arrays have the shape (H, W, C) and are packed."""

    network: str
    shape: tuple[Side, Side, Annotated[int, Field(ge=1, le=4)]]
    image: str
    perturbation: str
    attacked: str


class _Background(Strict):
    plan: str
    commands: list[str]
    seconds: dict[str, FromZero]
    pictures: list[_Picture]


class _File(Strict):
    version: int = Field(ge=VERSION, le=VERSION)
    title: str
    notes: list[str]
    reference: str
    images: list[_Images]
    runs: list[_Run]
    curves: dict[str, list[Epoch]]
    trained: list[Trained]
    reported: list[Reported]
    background: _Background


def encoded(results: StudyResults) -> bytes:
    """The file's content; equal results give equal bytes on one machine.

    Raises `BadInput` where two runs show different images, or labels, under one name and sample id.
    """
    images = images_of(results.runs)
    positions = {name: {sample: place for place, sample in enumerate(known)} for name, known in images.items()}
    content = {
        "version": VERSION,
        "title": results.title,
        "notes": list(results.notes),
        "reference": results.reference,
        "images": [
            {"name": name, "ids": list(known), "labels": [label for _, label in known.values()]}
            for name, known in images.items()
        ],
        "runs": [_encoded(run, list(images).index(_name(run)), positions[_name(run)]) for run in results.runs],
        "curves": {name: [row.to_dict() for row in rows] for name, rows in sorted(results.curves.items())},
        "trained": [vars(one) for one in results.trained],
        "reported": [one.model_dump(mode="json") for one in results.reported],
        "background": {
            "plan": results.background.plan,
            "commands": list(results.background.commands),
            "seconds": dict(sorted(results.background.seconds.items())),
            "pictures": [_encoded_picture(one) for one in results.background.pictures],
        },
    }
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)


def read_results(path: Path, advice: str = AGAIN) -> StudyResults:
    """The results in a file whose content `encoded` made.

    Records lack what the file does not hold: hashes are "", a wrong prediction is -1, distances are 0 and margins NaN.
    Raises `BadInput`, naming file and field and ending in `advice`, when anything is missing, unknown or damaged.
    """
    try:
        raw = json.loads(gunzipped(read_bounded(path, MOST_BYTES), MOST_UNPACKED))
    except BadInput:
        raise
    except (*FAULTS, OSError, zlib.error) as error:
        raise BadInput(f"{path} is missing or damaged ({type(error).__name__}); {advice}") from None
    file = parsed(_File, raw, str(path), advice)
    runs = []
    for place, run in enumerate(file.runs):
        try:
            images = file.images[run.images]
            records, timing = unpack_records(run, images.ids, images.labels)
        except (ValueError, IndexError, zlib.error) as error:
            raise BadInput(f"{path}, field 'runs.{place}': damaged ({type(error).__name__}); {advice}") from None
        runs.append(Run(path / f"{place}", run.manifest, records, timing=timing))
    said = file.background
    try:
        pictures = tuple(_decoded_picture(one) for one in said.pictures)
    except (ValueError, zlib.error) as error:
        raise BadInput(f"{path}, field 'background.pictures': damaged ({type(error).__name__}); {advice}") from None
    background = Background(said.plan, tuple(said.commands), said.seconds, pictures)
    return StudyResults(
        title=file.title,
        runs=tuple(runs),
        curves=file.curves,
        notes=tuple(file.notes),
        reference=file.reference,
        trained=tuple(file.trained),
        reported=tuple(file.reported),
        background=background,
    )


def _name(run: Run) -> str:
    data = run.manifest.data
    return images_name(data.name, data.split, data.loader)


def images_of(runs: Sequence[Run]) -> dict[str, dict[str, tuple[str, int]]]:
    """The hash, "" where none is known, and the label of each image by sample id, for each set of images.

    Raises `BadInput` where two runs show different images, or labels, under one name and sample id. Where hashes are
    not known, only runs on equal ids are compared, by the digest of their images.
    """
    found: dict[str, dict[str, tuple[str, int]]] = {}
    digests: dict[tuple[str, frozenset[str]], str] = {}
    for run in sorted(runs, key=lambda run: not run.records["sample_hash"].any()):  # first those that know hashes
        known = found.setdefault(_name(run), {})
        once = run.records.drop_duplicates("sample_id")
        digest, ids = run.manifest.data.digest, frozenset(once["sample_id"])
        if len(ids) == run.manifest.data.n and digests.setdefault((_name(run), ids), digest) != digest:
            raise BadInput(f"the {len(ids)} images of {_name(run)} differ between two runs; give runs on the same data")
        for sample, pixels, label in once[["sample_id", "sample_hash", "label"]].itertuples(index=False, name=None):
            there = known.setdefault(sample, (pixels, int(label)))
            if there[1] != label or (pixels and there[0] != pixels):
                raise BadInput(f"sample {sample} of {_name(run)} differs between two runs; give runs on the same data")
    return found


def _encoded(run: Run, images: int, positions: Mapping[str, int]) -> dict[str, Any]:
    return {
        "manifest": portable(run.manifest),
        "images": images,
        **pack_records(run, positions),
    }


def _encoded_picture(one: Picture) -> dict[str, Any]:
    arrays = {key: getattr(one, key) for key in PIXELS}
    packed = {key: pack_bytes(array.tobytes()) for key, array in arrays.items()}
    return vars(one) | {"shape": one.image.shape} | packed


def _decoded_picture(one: _Picture) -> Picture:
    arrays: dict[str, Any] = {
        key: np.frombuffer(unpack_bytes(getattr(one, key), math.prod(one.shape)), kind).reshape(one.shape)
        for key, kind in PIXELS.items()
    }
    return Picture(**one.model_dump(exclude={"shape", *PIXELS}), **arrays)
