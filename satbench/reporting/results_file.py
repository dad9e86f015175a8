"""The results of a study as one small file, from which its page and its tests can be computed again.

The file is JSON, compressed by gzip. It holds the manifest of each run and, image by image, only what tables, tests and
figures need: whether the prediction was right without and under each attack, the passes, and the stage that broke the
image. Margins, distances, wrong predictions and pixel hashes are not in it.
"""

import base64
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
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from satbench.core.bounded import MIB, gunzipped, read_bounded
from satbench.core.errors import FAULTS, BadInput
from satbench.core.parameters import Count, FromZero, Index
from satbench.core.parsing import parsed
from satbench.reporting.background import NOTHING, Background
from satbench.reporting.pictures import Picture
from satbench.reporting.summary import Measured, images_name, join_runs
from satbench.reporting.trained import Trained
from satbench.results.records import STEP
from satbench.results.schema import Manifest
from satbench.results.store import Run, read_timing
from satbench.results.training_log import Epoch
from satbench.specs.study import Reported

RESULTS_FILE = "results.json.gz"
VERSION = 1
MOST_BYTES, MOST_UNPACKED = 64 * MIB, 512 * MIB
UNKNOWN = -1  # the prediction in place of a wrong one
TIMED = ["attack", "stage", "norm", "eps"]
SUMMED = ["images", "forward", "backward", "seconds"]
PIXELS = {"image": np.uint8, "perturbation": np.int8, "attacked": np.uint8}
MOST_ROWS = 10_000_000  # of a run
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


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Images(_Strict):
    """Images in the order of their positions."""

    name: str
    ids: list[str]
    labels: list[Index]


class _Step(_Strict):
    attack: str
    norm: str
    eps: FromZero


class _Times(_Step):
    stage: str
    images: Index
    forward: Index
    backward: Index
    seconds: FromZero


class _Run(_Strict):
    """A run: columns of its records, packed by `_pack` or `_pack_bits`.

    images: position in the list of images. sample: position of each row's image minus that of the row before.
    step, stage: positions in `steps` and `stages`. gap: forward minus backward passes. violations: by row. share:
    shares of passes, of random networks alone.
    """

    manifest: Manifest
    images: Index
    rows: Annotated[Count, Field(le=MOST_ROWS)]
    steps: list[_Step]
    stages: list[str]
    sample: str
    step: str
    stage: str
    correct: str
    broken: str
    bad_gradient: str
    forward: str
    gap: str
    share: str | None
    violations: dict[int, str]
    timing: list[_Times]


class _Picture(_Strict):
    """A `Picture`; its arrays have the shape (H, W, C) and are packed."""

    network: str
    attack: str
    sample: str
    label: str
    clean: str
    predicted: str
    largest: FromZero
    shape: tuple[Side, Side, Annotated[int, Field(ge=1, le=4)]]
    image: str
    perturbation: str
    attacked: str


class _Background(_Strict):
    plan: str
    commands: list[str]
    seconds: dict[str, FromZero]
    pictures: list[_Picture]


class _File(_Strict):
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
    images = _images(results.runs)
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
            runs.append(_decoded(path / f"{place}", run, file.images[run.images]))
        except (ValueError, IndexError, zlib.error) as error:
            raise BadInput(f"{path}, field 'runs.{place}': damaged ({type(error).__name__}); {advice}") from None
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


def _images(runs: Sequence[Run]) -> dict[str, dict[str, tuple[str, int]]]:
    """The hash and label of each image by sample id, for each set of images."""
    found: dict[str, dict[str, tuple[str, int]]] = {}
    for run in runs:
        known = found.setdefault(_name(run), {})
        once = run.records.drop_duplicates("sample_id")
        for sample, pixels, label in once[["sample_id", "sample_hash", "label"]].itertuples(index=False, name=None):
            if known.setdefault(sample, (pixels, int(label))) != (pixels, int(label)):
                raise BadInput(f"sample {sample} of {_name(run)} differs between two runs; give runs on the same data")
    return found


def _encoded(run: Run, images: int, positions: Mapping[str, int]) -> dict[str, Any]:
    records = run.records
    steps, step_codes = _coded(list(records[STEP].itertuples(index=False, name=None)))
    stages, stage_codes = _coded(records["stage"].tolist())
    samples = np.array([positions[sample] for sample in records["sample_id"]])
    forward, backward = (records[name].to_numpy() for name in ("forward", "backward"))
    said = enumerate(records["violation"])
    timing = read_timing(run).groupby(TIMED, sort=False)[SUMMED].sum().reset_index()
    random = run.manifest.draws > 1
    return {
        "manifest": run.manifest.model_dump(mode="json"),
        "images": images,
        "rows": len(records),
        "steps": [dict(zip(STEP, step, strict=True)) for step in steps],
        "stages": stages,
        "sample": _pack(np.diff(samples, prepend=0)),
        "step": _pack(step_codes),
        "stage": _pack(stage_codes),
        "correct": _pack_bits(records["clean_prediction"] == records["label"]),
        "broken": _pack_bits(records["broken"]),
        "bad_gradient": _pack_bits(records["bad_gradient"]),
        "forward": _pack(forward),
        "gap": _pack(forward - backward),
        "share": _pack(records["correct_share"].to_numpy(), "<f4") if random else None,
        "violations": {row: text for row, text in said if text},
        "timing": [dict(zip(timing, row, strict=True)) for row in timing.itertuples(index=False, name=None)],
    }


def _decoded(path: Path, run: _Run, images: _Images) -> Run:
    rows = run.rows
    positions = np.cumsum(_unpack(run.sample, rows))
    steps = [run.steps[code] for code in _codes(run.step, rows, len(run.steps))]
    if positions.min() < 0 or positions.max() >= len(images.ids) or len(images.labels) != len(images.ids):
        raise ValueError("positions outside the list of images")
    labels = np.array(images.labels)[positions]
    forward = _unpack(run.forward, rows)
    broken = _unpack_bits(run.broken, rows)
    records = pd.DataFrame(
        {
            "sample_id": np.array(images.ids, dtype=object)[positions],
            "sample_hash": "",
            "label": labels,
            "clean_prediction": np.where(_unpack_bits(run.correct, rows), labels, UNKNOWN),
            "attack": [step.attack for step in steps],
            "norm": [step.norm for step in steps],
            "eps": [step.eps for step in steps],
            "broken": broken,
            "prediction": np.where(broken, UNKNOWN, labels),
            "margin": np.nan,
            "correct_share": ~broken if run.share is None else _unpack(run.share, rows, "<f4"),
            "distance_linf": 0.0,
            "distance_l2": 0.0,
            "distance_l1": 0.0,
            "fell_at": UNKNOWN,
            "forward": forward,
            "backward": forward - _unpack(run.gap, rows),
            "bad_gradient": _unpack_bits(run.bad_gradient, rows),
            "stage": [run.stages[code] for code in _codes(run.stage, rows, len(run.stages))],
            "violation": [run.violations.get(row, "") for row in range(rows)],
        }
    )
    timing = pd.DataFrame([one.model_dump() for one in run.timing], columns=[*TIMED, *SUMMED])
    return Run(path, run.manifest, records, timing=timing)


def _encoded_picture(one: Picture) -> dict[str, Any]:
    arrays = {key: getattr(one, key) for key in PIXELS}
    packed = {key: base64.b64encode(zlib.compress(array.tobytes(), 9)).decode() for key, array in arrays.items()}
    return vars(one) | {"shape": one.image.shape} | packed


def _decoded_picture(one: _Picture) -> Picture:
    arrays: dict[str, Any] = {
        key: np.frombuffer(_bytes(getattr(one, key), math.prod(one.shape)), kind).reshape(one.shape)
        for key, kind in PIXELS.items()
    }
    return Picture(**one.model_dump(exclude={"shape", *PIXELS}), **arrays)


def _coded(values: Sequence[Any]) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The distinct values in the order of their first place, and the position of each value among them."""
    codes, distinct = pd.factorize(pd.Series(values, dtype=object))
    return list(distinct), codes


def _codes(text: str, rows: int, count: int) -> list[int]:
    codes: list[int] = _unpack(text, rows).tolist()
    if min(codes) < 0 or max(codes) >= count:
        raise ValueError("a code without a value")
    return codes


def _pack(values: npt.NDArray[Any], kind: str = "<i4") -> str:
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes(), 9)).decode("ascii")


def _pack_bits(values: "pd.Series[bool]") -> str:
    return base64.b64encode(zlib.compress(np.packbits(values.to_numpy(bool)).tobytes(), 9)).decode("ascii")


def _unpack(text: str, rows: int, kind: str = "<i4") -> npt.NDArray[Any]:
    return np.frombuffer(_bytes(text, 4 * rows), dtype=kind)


def _unpack_bits(text: str, rows: int) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(_bytes(text, -(-rows // 8)), np.uint8), count=rows).astype(bool)


def _bytes(text: str, size: int) -> bytes:
    """Exactly `size` bytes; raises ValueError for more or fewer, and zlib.error for damaged data."""
    content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes instead of {size}")
    return content
