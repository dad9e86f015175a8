"""The finished batches of a run, each in a file of its own that any worker may write.

`parts/<work>/<batch>.parquet`: `work` is a hash of everything that decides a result but the images (network, attack,
threat, seed, versions), `batch` one of the images in it. The broken examples, where they are kept, are beside it. A
part is written whole, once, and two workers that compute the same one write the same outcomes, so a killed run
resumes, a larger one reuses what is there, and several workers share a folder.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from satbench.core.files import atomic_file
from satbench.models.weights import write_safetensors
from satbench.numerics.threat import ThreatModel
from satbench.results.store import MOST_BYTES, PARTS, read_parquet

OUTCOMES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("sample_hash", pa.string()),
        ("label", pa.int32()),
        ("broken", pa.bool_()),
        ("prediction", pa.int32()),
        ("margin", pa.float32()),
        ("correct_share", pa.float32()),  # NaN for an example that violates the threat
        ("distance_linf", pa.float32()),
        ("distance_l2", pa.float32()),
        ("distance_l1", pa.float32()),
        ("fell_at", pa.int32()),
        ("forward", pa.int32()),
        ("backward", pa.int32()),
        ("bad_gradient", pa.bool_()),
        ("violation", pa.string()),
        ("example_file", pa.string()),  # relative to the run's folder; "" where none is kept
        ("example_row", pa.int32()),
    ]
)
ROW = 8  # bytes that every row takes at least, for the hash of an image has 16 bytes that cannot be packed
KEY = ["sample_id", "sample_hash", "label"]  # what an outcome belongs to
Key = tuple[str, str, int]
Columns = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Part:
    """What happened to some images: `columns` are those of `OUTCOMES`, each (N,).

    `numerics` is the fingerprint of the machine that computed it, "" where it was not noted.
    """

    columns: Columns
    seconds: float
    notes: tuple[str, ...]
    numerics: str = ""

    def __len__(self) -> int:
        return len(self.columns["label"])

    @property
    def keys(self) -> list[Key]:
        """Which images it is about."""
        return list(zip(*(self.columns[name].tolist() for name in KEY), strict=True))

    def take(self, rows: Sequence[int]) -> "Part":
        """Some of its images, with their share of its time."""
        columns = {name: column[list(rows)] for name, column in self.columns.items()}
        return replace(self, columns=columns, seconds=self.seconds * len(rows) / len(self))


def work_name(
    identity: Mapping[str, object],
    stage: str,
    position: int,
    threat: ThreatModel | None,
    seed: int,
    search: object,
    device: str,
) -> str:
    """The folder name for everything that decides a result but the images.

    `stage` is the id of an attack or of the part of an ensemble at `position`; it is "" and `threat` None for the
    network's answers to images as they are. `search` is `SearchInfo.identity`, `device` is a type such as "cpu", and
    `identity` is `resume.identity`.
    """
    decisive = {**identity, "attack": stage, "position": position, "threat": repr(threat)}
    decisive |= {"seed": seed, "search": search, "device": device}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:20]


class Work:
    """The parts of one step at one threat, in a folder or, without one, in memory only.

    Parts that other workers write meanwhile are found by their name; `held` knows those that were there at first.
    """

    def __init__(self, run: Path | None, name: str, examples: bool) -> None:
        self.run, self.name, self.examples = run, name, examples
        self.folder = run / PARTS / name if run else None
        self.by_batch: dict[str, Part] = {}
        for file in sorted(self.folder.glob("[!.]*.parquet")) if self.folder else ():
            part = self._read(file)
            if part is not None:
                self.by_batch[file.stem] = part
        self.places = {key: (batch, row) for batch, part in self.by_batch.items() for row, key in enumerate(part.keys)}

    def part(self, batch: str) -> Part | None:
        """The part of this name, if it is there by now."""
        if batch not in self.by_batch and self.folder is not None:
            file = self.folder / f"{batch}.parquet"
            part = self._read(file) if file.is_file() else None
            if part is not None:
                self.by_batch[batch] = part
        return self.by_batch.get(batch)

    def held(self, keys: Sequence[Key]) -> list[Part]:
        """What was known at first of these images, whatever batch they were in."""
        found: dict[str, list[int]] = {}
        for key in keys:
            if key in self.places:
                batch, row = self.places[key]
                found.setdefault(batch, []).append(row)
        return [self.by_batch[batch].take(rows) for batch, rows in found.items()]

    def keep(self, part: Part, examples: Tensor) -> Part:
        """Store a part and the `examples` of its broken images, in order; returns it with their places filled in."""
        name = batch_name(part.keys)
        broken = part.columns["broken"]
        files, rows = np.full(len(part), "", object), np.full(len(part), -1)
        if self.folder and self.examples and len(examples):
            files[broken] = f"{PARTS}/{self.name}/{name}.safetensors"
            rows[broken] = range(int(broken.sum()))
            with atomic_file(self.folder / f"{name}.safetensors") as temporary:
                write_safetensors(temporary, {"x_adv": examples.contiguous()})
        part = replace(part, columns={**part.columns, "example_file": files, "example_row": rows})
        self._write(name, part)
        self.by_batch[name] = part
        return part

    def move(self, new: str) -> None:
        """Store the parts under another name; the files of their examples stay where they are."""
        assert self.folder is not None
        after = Work(self.run, new, self.examples)
        for batch, part in self.by_batch.items():
            after._write(batch, part)
            (self.folder / f"{batch}.parquet").unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self, name: str, part: Part) -> None:
        if self.folder:
            said = {"seconds": repr(part.seconds), "notes": json.dumps(part.notes), "numerics": part.numerics}
            columns = [pa.array(part.columns[field.name], field.type, from_pandas=True) for field in OUTCOMES]
            table = pa.Table.from_arrays(columns, schema=OUTCOMES)
            said["digest"] = self._digest(name, table, *said.values())
            with atomic_file(self.folder / f"{name}.parquet") as temporary:
                pq.write_table(table.replace_schema_metadata(said), temporary, compression="zstd")

    def _read(self, file: Path) -> Part | None:
        """A stored part, or None, so that it is computed again, when it is damaged, edited or without its examples."""
        try:
            table = read_parquet(file, OUTCOMES, file.stat().st_size // ROW, MOST_BYTES)
            said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            seconds, notes, digest = float(said["seconds"]), tuple(json.loads(said["notes"])), said.pop("digest")
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None
        if digest != self._digest(file.stem, table, *said.values()):
            return None
        columns = {name: table.column(name).to_numpy() for name in OUTCOMES.names}
        part = Part(columns, seconds, notes, said.get("numerics", ""))
        if self.examples and part.columns["broken"].any():
            assert self.run is not None
            files = set(part.columns["example_file"][part.columns["broken"]].tolist())
            if not all(name and (self.run / name).is_file() for name in files):
                return None
        return part

    def _digest(self, batch: str, table: pa.Table, *said: str) -> str:
        content = json.dumps([self.name, batch, table.to_pydict(), *said])
        return hashlib.sha256(content.encode()).hexdigest()


def batch_name(keys: Sequence[Key]) -> str:
    """The file name of the part about exactly these images, in this order."""
    return hashlib.sha256("\n".join("\t".join(map(str, key)) for key in keys).encode()).hexdigest()[:20]
