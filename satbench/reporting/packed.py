"""Records of a run, packed for files that are kept: image by image, only what tables, tests and figures need.

That is whether the prediction was right without and under each attack, the passes, and the stage that broke the image.
Margins, distances, wrong predictions and pixel hashes are left out.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from satbench.core.bounded import MIB
from satbench.core.parameters import Count, FromZero, Index
from satbench.results.records import STEP
from satbench.results.schema import Manifest
from satbench.results.store import Run, read_timing

KEPT = 2  # parts of the path of a network, STUDY_JOB/training
UNKNOWN = -1  # the prediction in place of a wrong one
TIMED = ["attack", "stage", "norm", "eps"]
SUMMED = ["images", "forward", "backward", "seconds"]
MOST_ROWS = 10_000_000  # of a run
MOST_TEXT = 64 * MIB


class Strict(BaseModel):
    """A part of a file, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Step(Strict):
    attack: str
    norm: str
    eps: FromZero


class _Times(_Step):
    stage: str
    images: Index
    forward: Index
    backward: Index
    seconds: FromZero


class PackedRecords(Strict):
    """Columns of a run's records, packed by `pack` or `pack_bits`.

    sample: position of each row's image minus that of the row before. step, stage: positions in `steps` and `stages`.
    gap: forward minus backward passes. violations: by row. share: shares of passes, of random networks alone.
    """

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


def portable(manifest: Manifest) -> dict[str, Any]:
    """The manifest for a file that is published: of an absolute path of the network only the last parts are said."""
    said = manifest.model_dump(mode="json")
    for field in ("ref", "checkpoint"):
        path = PurePath(said["model"][field] or "")
        if path.is_absolute():
            said["model"][field] = PurePath(*path.parts[-KEPT:]).as_posix()
    return said


def pack_records(run: Run, positions: Mapping[str, int]) -> dict[str, Any]:
    """The fields of `PackedRecords`; `positions` gives the position of each sample id in the list of images."""
    records = run.records
    steps, step_codes = _coded(list(records[STEP].itertuples(index=False, name=None)))
    stages, stage_codes = _coded(records["stage"].tolist())
    samples = np.array([positions[sample] for sample in records["sample_id"]])
    forward, backward = (records[name].to_numpy() for name in ("forward", "backward"))
    said = enumerate(records["violation"])
    timing = read_timing(run).groupby(TIMED, sort=False)[SUMMED].sum().reset_index()
    random = run.manifest.draws > 1
    return {
        "rows": len(records),
        "steps": [dict(zip(STEP, step, strict=True)) for step in steps],
        "stages": stages,
        "sample": pack(np.diff(samples, prepend=0)),
        "step": pack(step_codes),
        "stage": pack(stage_codes),
        "correct": pack_bits(records["clean_prediction"] == records["label"]),
        "broken": pack_bits(records["broken"]),
        "bad_gradient": pack_bits(records["bad_gradient"]),
        "forward": pack(forward),
        "gap": pack(forward - backward),
        "share": pack(records["correct_share"].to_numpy(), "<f4") if random else None,
        "violations": {row: text for row, text in said if text},
        "timing": [dict(zip(timing, row, strict=True)) for row in timing.itertuples(index=False, name=None)],
    }


def unpack_records(
    packed: PackedRecords, ids: Sequence[str], labels: Sequence[int], hashes: Sequence[str] | str = ""
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records and times of a run on images of these ids and labels, with the columns of `results.schema`.

    What was not packed is filled in: hashes are `hashes`, a wrong prediction is -1, distances are 0 and margins NaN.
    Raises ValueError, IndexError or zlib.error for damaged data.
    """
    rows = packed.rows
    positions = np.cumsum(unpack(packed.sample, rows))
    steps = [packed.steps[code] for code in _codes(packed.step, rows, len(packed.steps))]
    if positions.min() < 0 or positions.max() >= len(ids) or len(labels) != len(ids):
        raise ValueError("positions outside the list of images")
    known = np.array(labels)[positions]
    forward = unpack(packed.forward, rows)
    broken = unpack_bits(packed.broken, rows)
    records = pd.DataFrame(
        {
            "sample_id": np.array(ids, dtype=object)[positions],
            "sample_hash": hashes if isinstance(hashes, str) else np.array(hashes, dtype=object)[positions],
            "label": known,
            "clean_prediction": np.where(unpack_bits(packed.correct, rows), known, UNKNOWN),
            "attack": [step.attack for step in steps],
            "norm": [step.norm for step in steps],
            "eps": [step.eps for step in steps],
            "broken": broken,
            "prediction": np.where(broken, UNKNOWN, known),
            "margin": np.nan,
            "correct_share": ~broken if packed.share is None else unpack(packed.share, rows, "<f4"),
            "distance_linf": 0.0,
            "distance_l2": 0.0,
            "distance_l1": 0.0,
            "fell_at": UNKNOWN,
            "forward": forward,
            "backward": forward - unpack(packed.gap, rows),
            "bad_gradient": unpack_bits(packed.bad_gradient, rows),
            "stage": [packed.stages[code] for code in _codes(packed.stage, rows, len(packed.stages))],
            "violation": [packed.violations.get(row, "") for row in range(rows)],
        }
    )
    return records, pd.DataFrame([one.model_dump() for one in packed.timing], columns=[*TIMED, *SUMMED])


def _coded(values: Sequence[Any]) -> tuple[list[Any], npt.NDArray[np.int64]]:
    """The distinct values in the order of their first place, and the position of each value among them."""
    codes, distinct = pd.factorize(pd.Series(values, dtype=object))
    return list(distinct), codes


def _codes(text: str, rows: int, count: int) -> list[int]:
    codes: list[int] = unpack(text, rows).tolist()
    if min(codes) < 0 or max(codes) >= count:
        raise ValueError("a code without a value")
    return codes


def pack(values: npt.NDArray[Any], kind: str = "<i4") -> str:
    """The values as numbers of `kind`, by zlib and base64."""
    return pack_bytes(values.astype(kind).tobytes())


def pack_bits(values: "pd.Series[bool]") -> str:
    """A bit a value."""
    return pack_bytes(np.packbits(values.to_numpy(bool)).tobytes())


def pack_bytes(content: bytes) -> str:
    """The bytes by zlib and base64."""
    return base64.b64encode(zlib.compress(content, 9)).decode("ascii")


def pack_text(text: str) -> str:
    """The text in UTF-8, by zlib and base64."""
    return pack_bytes(text.encode())


def unpack_text(text: str) -> str:
    """What `pack_text` packed; raises ValueError for more than `MOST_TEXT` bytes, and zlib.error for damaged data."""
    content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise ValueError(f"more than {MOST_TEXT} bytes of text")
    return content.decode()


def unpack(text: str, rows: int, kind: str = "<i4") -> npt.NDArray[Any]:
    """What `pack` packed; raises as `unpack_bytes`."""
    return np.frombuffer(unpack_bytes(text, np.dtype(kind).itemsize * rows), dtype=kind)


def unpack_bits(text: str, rows: int) -> npt.NDArray[np.bool_]:
    """What `pack_bits` packed; raises as `unpack_bytes`."""
    return np.unpackbits(np.frombuffer(unpack_bytes(text, -(-rows // 8)), np.uint8), count=rows).astype(bool)


def unpack_bytes(text: str, size: int) -> bytes:
    """Exactly `size` bytes; raises ValueError for more or fewer, and zlib.error for damaged data."""
    content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes instead of {size}")
    return content
