"""The finished batches of a run, each in a file of its own, so that a killed run resumes and a larger one reuses them.

`parts/<work>/<batch>.parquet`: `work` is a hash of everything that decides a result but the images (network, attack,
threat, seed, versions), `batch` one of the images in it. The broken examples, where they are kept, are beside it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from satbench.core.files import atomic_file
from satbench.models.weights import write_safetensors
from satbench.numerics.threat import ThreatModel
from satbench.results.store import PARTS

OUTCOMES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("sample_hash", pa.string()),
        ("label", pa.int32()),
        ("broken", pa.bool_()),
        ("prediction", pa.int32()),
        ("margin", pa.float32()),
        ("correct_share", pa.float32()),
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
KEY = ["sample_id", "sample_hash", "label"]  # what an outcome belongs to
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Part:
    """One batch of an attack: `outcomes` has the columns of `OUTCOMES`."""

    outcomes: pd.DataFrame
    seconds: float
    notes: tuple[str, ...]


def work_name(
    identity: Mapping[str, object],
    stage: str,
    position: int,
    threat: ThreatModel,
    seed: int,
    search: object,
    device: str,
) -> str:
    """The folder name for everything that decides a result but the images.

    `stage` is the id of an attack or of the part of an ensemble at `position`, `search` is `SearchInfo.identity`,
    `device` is a type such as "cpu", and `identity` is `resume.identity`.
    """
    decisive = {**identity, "attack": stage, "position": position, "threat": repr(threat)}
    decisive |= {"seed": seed, "search": search, "device": device}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:20]


class Work:
    """The finished batches of one attack at one threat, in a folder or, without one, in memory only."""

    def __init__(self, run: Path | None, name: str, examples: bool) -> None:
        self.run, self.name, self.examples = run, name, examples
        self.folder = run / PARTS / name if run else None
        self.by_batch: dict[str, Part] = {}
        for file in sorted(self.folder.glob("[!.]*.parquet")) if self.folder else ():
            part = self._read(file)
            if part is not None:
                self.by_batch[file.stem] = part
        self.by_sample = {
            key: (batch, row) for batch, part in self.by_batch.items() for row, key in enumerate(keys_of(part.outcomes))
        }

    def batch(self, keys: Sequence[Key]) -> Part | None:
        """The finished batch of exactly these images, in this order."""
        return self.by_batch.get(_batch_name(keys))

    def samples(self, keys: Sequence[Key]) -> Part:
        """What is known of these images, whatever batch they were in, with their share of its time."""
        places = [self.by_sample[key] for key in keys if key in self.by_sample]
        parts = {batch: self.by_batch[batch] for batch, _ in places}
        found = [parts[batch].outcomes.iloc[[row]] for batch, row in places]
        outcomes = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=OUTCOMES.names)
        seconds = sum(parts[batch].seconds / len(parts[batch].outcomes) for batch, _ in places)
        return Part(outcomes, seconds, tuple(note for part in parts.values() for note in part.notes))

    def keep(self, part: Part, examples: Tensor) -> Part:
        """Store a batch and the `examples` of its broken images, in order; returns it with their places filled in."""
        name = _batch_name(keys_of(part.outcomes))
        outcomes = part.outcomes.assign(example_file="", example_row=-1)
        if self.folder and self.examples and len(examples):
            broken = outcomes["broken"].to_numpy()
            outcomes.loc[broken, "example_file"] = f"{PARTS}/{self.name}/{name}.safetensors"
            outcomes.loc[broken, "example_row"] = range(int(broken.sum()))
            with atomic_file(self.folder / f"{name}.safetensors") as temporary:
                write_safetensors(temporary, {"x_adv": examples.contiguous()})
        part = Part(outcomes, part.seconds, part.notes)
        self._write(name, part)
        self.by_batch[name] = part
        return part

    def move(self, new: str) -> None:
        """Store the finished batches under another name; the files of their examples stay where they are."""
        assert self.folder is not None
        after = Work(self.run, new, self.examples)
        for batch, part in self.by_batch.items():
            after._write(batch, part)
            (self.folder / f"{batch}.parquet").unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(self, name: str, part: Part) -> None:
        if self.folder:
            said = {"seconds": repr(part.seconds), "notes": json.dumps(part.notes)}
            table = pa.Table.from_pandas(part.outcomes, schema=OUTCOMES, preserve_index=False)
            said["digest"] = self._digest(name, table, said["seconds"], said["notes"])
            with atomic_file(self.folder / f"{name}.parquet") as temporary:
                pq.write_table(table.replace_schema_metadata(said), temporary, compression="zstd")

    def _read(self, file: Path) -> Part | None:
        """A stored batch, or None, so that it is computed again, when it is damaged, edited or without its examples."""
        try:
            table = pq.read_table(file)
            said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            seconds, notes, digest = float(said["seconds"]), tuple(json.loads(said["notes"])), said["digest"]
        except (OSError, KeyError, ValueError, pa.ArrowException):
            return None
        if not table.schema.equals(OUTCOMES) or digest != self._digest(
            file.stem, table, said["seconds"], said["notes"]
        ):
            return None
        outcomes = table.to_pandas()
        if self.examples and outcomes["broken"].any():
            assert self.run is not None
            files = outcomes.loc[outcomes["broken"], "example_file"].unique()
            if not all(name and (self.run / name).is_file() for name in files):
                return None
        return Part(outcomes, seconds, notes)

    def _digest(self, batch: str, table: pa.Table, *said: str) -> str:
        content = json.dumps([self.name, batch, table.to_pydict(), *said])
        return hashlib.sha256(content.encode()).hexdigest()


def keys_of(outcomes: pd.DataFrame) -> list[Key]:
    """Which images these rows are about."""
    return list(outcomes[KEY].itertuples(index=False, name=None))


def _batch_name(keys: Sequence[Key]) -> str:
    return hashlib.sha256("\n".join("\t".join(map(str, key)) for key in keys).encode()).hexdigest()[:20]
