"""Run folders: written whole or not at all, sealed with a digest of their files, and read back strictly."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from satbench.core.errors import BadInput, reason
from satbench.core.files import atomic_file, check_output_folder, file_digest, to_json, write_text
from satbench.core.names import check_inside
from satbench.core.parsing import parsed
from satbench.core.strict_json import read_json
from satbench.results import analysis
from satbench.results.records import record_fault
from satbench.results.schema import EXAMPLES, RECORDS, SCHEMA_VERSION, TIMING, Manifest

MANIFEST = "manifest.json"
RECORDS_FILE = "records.parquet"
TIMING_FILE = "timing.parquet"
EXAMPLES_FILE = "examples.parquet"
SEALED = (RECORDS_FILE, TIMING_FILE, EXAMPLES_FILE)  # together with the manifest
PARTS = "parts"  # finished batches
MOST_ROWS = 1_000_000  # of a table of any size; a larger one has at least a byte for each row
MOST_BYTES, MOST_RATIO = 1 << 28, 64  # unpacked, for a file of any size, and for each byte of a larger one
MOST_TEXT = 1 << 31  # bytes of a column, were all its texts as long as its longest


class Outdated(BadInput):
    """A run folder or a summary of the schema before, which `satbench migrate` turns into the present one."""


@dataclass(frozen=True)
class Run:
    """One evaluation as it lies on disk: `records` has the columns of `schema.RECORDS`.

    reused: whether `evaluate` found the run finished and computed nothing. timing: its times, with the columns of
    `schema.TIMING`, where the run was not read from a folder of its own.
    """

    path: Path
    manifest: Manifest
    records: pd.DataFrame
    reused: bool = False
    timing: pd.DataFrame | None = None

    @property
    def passes(self) -> int:
        """Forward and backward passes of single images, by the attacks and the trust battery."""
        trust = self.manifest.trust
        attacks = int(self.records[["forward", "backward"]].to_numpy().sum())
        return attacks + (trust.forward + trust.backward if trust else 0)

    def summary(self) -> pd.DataFrame:
        """Clean accuracy, every attack at every threat, and their worst case, with intervals: `analysis.summary`."""
        return analysis.summary(self.records, {one.id: one.label for one in self.manifest.attacks})

    def worst_case(self) -> pd.DataFrame:
        """Accuracy against all attacks together, a row a threat: `analysis.worst_case`."""
        return analysis.worst_case(self.records)

    def by_class(self, norm: str | None = None, eps: float | str | None = None) -> pd.DataFrame:
        """Clean and robust accuracy of every class at one threat: `analysis.by_class`."""
        return analysis.by_class(self.records, norm, eps)

    def curve(self, attack: str | None = None) -> pd.DataFrame:
        """Accuracy over eps, of the worst case over all attacks or of one: `analysis.curve`.

        attack: its label as `summary` shows it, such as "PGD-50", or its id. Raises `BadInput` for one that the run
        does not have.
        """
        if attack is None:
            return analysis.curve(self.records)
        known = self.manifest.attacks
        ids = [one.id for one in known if attack in (one.id, one.label)]
        if not ids:
            raise BadInput(f"{self.path} has no attack {attack!r}; it has {', '.join(one.label for one in known)}")
        return analysis.curve(self.records, ids)


def check_run_folder(out: Path) -> None:
    """Raise `BadInput` for an output folder that is neither new nor that of a run."""
    check_output_folder(out, MANIFEST, RECORDS_FILE, PARTS)


def write_run(
    out: Path, manifest: Manifest, records: pd.DataFrame, timing: pd.DataFrame, examples: pd.DataFrame | None = None
) -> Run:
    """Store a run in folder `out`, replacing an earlier run there; other files of the folder are kept.

    The records are ordered by attack, norm, eps and sample position, and carry no time, so equal runs are equal bytes;
    times are in a file of their own. `examples`, if they are kept, has the columns of `schema.EXAMPLES` but for the
    digests of the example files, which are computed here. The manifest gets the seal of all these files.
    """
    check_run_folder(out)
    (out / MANIFEST).unlink(missing_ok=True)
    _write_table(out / RECORDS_FILE, records, RECORDS)
    _write_table(out / TIMING_FILE, timing, TIMING)
    if examples is None:
        (out / EXAMPLES_FILE).unlink(missing_ok=True)
    else:
        digests = {name: file_digest(out / name) for name in examples["example_file"].unique()}
        examples = examples.assign(example_digest=examples["example_file"].map(digests))
        _write_table(out / EXAMPLES_FILE, examples, EXAMPLES)
    write_manifest(out, manifest)
    return read_run(out)


def write_manifest(out: Path, manifest: Manifest) -> str:
    """Write the manifest of run folder `out` with the seal of all its files, which is returned."""
    manifest = manifest.model_copy(update={"seal": seal_of(out, manifest.model_dump(mode="json"))})
    write_text(out / MANIFEST, to_json(manifest.model_dump(mode="json")))
    return manifest.seal


def seal_of(path: Path, manifest: Mapping[str, object]) -> str:
    """SHA-256 over the manifest, as JSON holds it, without its seal and the tables of the run folder `path`.

    The example files are covered through their digests in the table of examples, so that a reader of figures need not
    read them. The seal has no key: it shows edits only to a reader who knows the published seal or recomputes the run.
    """
    sealed = {key: value for key, value in manifest.items() if key != "seal"}
    digest = hashlib.sha256(json.dumps(sealed, sort_keys=True).encode())
    for name in SEALED:
        digest.update(f"\n{name} {file_digest(path / name)}".encode())
    return digest.hexdigest()


def _write_table(path: Path, frame: pd.DataFrame, schema: pa.Schema) -> None:
    table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)
    with atomic_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_statistics=False)


def read_run(path: str | Path) -> Run:
    """Load the run folder at `path`.

    Raises `BadInput` when it is missing, damaged, of another schema version, or changed since its seal was computed;
    for the version before it is an `Outdated`.
    """
    path = Path(path)
    manifest_file = path / MANIFEST
    raw = read_manifest(path)
    version = raw["schema_version"]
    if version == SCHEMA_VERSION - 1:
        raise Outdated(
            f"{path} was written by an earlier satbench (schema {version}); run `satbench migrate {path}` once"
        )
    if version != SCHEMA_VERSION:
        raise BadInput(
            f"{manifest_file} has schema version {version!r}, this satbench reads {SCHEMA_VERSION}; "
            "run `satbench eval` again or use the satbench that wrote it"
        )
    manifest = parse_manifest(path, raw)
    check_seal(path, raw)
    records = _read_table(path / RECORDS_FILE, RECORDS)
    if fault := record_fault(manifest, records):
        raise BadInput(f"{path}: {fault}; run `satbench eval` again")
    return Run(path, manifest, records)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder as JSON holds it; raises `BadInput` where it is missing or damaged."""
    file = path / MANIFEST
    if not file.is_file():
        raise BadInput(f"{path} is not a run folder: it has no {MANIFEST}; make one with `satbench eval --out {path}`")
    try:
        raw = read_json(file)
        raw["schema_version"]
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is damaged ({reason(error)}); run `satbench eval` again") from None
    return dict(raw)


def parse_manifest(path: Path, raw: Mapping[str, object]) -> Manifest:
    """The manifest of run folder `path`; raises `BadInput` that names the first field that is wrong."""
    return parsed(Manifest, raw, str(path / MANIFEST), "run `satbench eval` again")


def check_seal(path: Path, manifest: Mapping[str, object]) -> None:
    """Refuse a run folder whose files are not those that its manifest was sealed with."""
    if not (path / RECORDS_FILE).is_file():
        raise BadInput(f"{path / RECORDS_FILE} is missing; run the same `satbench eval` again")
    if seal_of(path, manifest) != manifest.get("seal"):
        raise BadInput(
            f"{path} does not match its seal: {MANIFEST} or one of {', '.join(SEALED)} was changed after the run; "
            "run the same `satbench eval` again"
        )


def read_examples(run: Run) -> pd.DataFrame:
    """The file and row of each broken example of a run; raises `BadInput` when the run kept none."""
    if not run.manifest.examples:
        raise BadInput(f"{run.path} kept no examples; run `satbench eval` with --save-examples")
    examples = _read_table(run.path / EXAMPLES_FILE, EXAMPLES)
    for name in examples["example_file"].unique():
        check_inside(name, f"{run.path / EXAMPLES_FILE}: the file")
    return examples


def read_timing(run: Run) -> pd.DataFrame:
    """Times and passes, with the columns of `schema.TIMING`; raises `BadInput` when they are missing or damaged."""
    return read_timing_table(run.path) if run.timing is None else run.timing


def seconds_of(run: Run) -> float:
    """What the run took: the time of its attacks, or that of its last command where this is longer."""
    return max(run.manifest.seconds, float(read_timing(run)["seconds"].sum()))


def read_timing_table(path: Path) -> pd.DataFrame:
    """What `read_timing` gives, of a run folder of any schema."""
    return _read_table(path / TIMING_FILE, TIMING)


def read_parquet(path: Path, schema: pa.Schema, most_rows: int, most_text: int = MOST_TEXT) -> pa.Table:
    """The table in a file, with the file's metadata; nothing is unpacked that is far larger than the file.

    Raises `BadInput` where its columns are not those of `schema`, ValueError for more than `most_rows` rows, or for
    texts of more than `most_text` bytes in a column, and OSError or ArrowException where it cannot be read.
    """
    with path.open("rb") as stream:  # of a path such as exp:1/x pyarrow would make a URL
        about = pq.read_metadata(stream)
        stored = about.schema.to_arrow_schema()
        if not stored.equals(schema):
            raise BadInput(f"{path} has other columns than schema version {SCHEMA_VERSION}")
        _check_size(about, path.stat().st_size, most_rows)
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        table = pq.read_table(stream, read_dictionary=texts)
    _check_texts(table, texts, most_text)
    return table.cast(schema).replace_schema_metadata(stored.metadata)


def _read_table(path: Path, schema: pa.Schema) -> pd.DataFrame:
    advice = "run `satbench eval` again"
    try:
        table = read_parquet(path, schema, max(MOST_ROWS, path.stat().st_size))
    except BadInput as error:
        raise BadInput(f"{error}; {advice}") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path} is missing or damaged ({reason(error)}); {advice}") from None
    for field, column in zip(schema, table.columns, strict=True):
        if column.null_count and not pa.types.is_floating(field.type):  # NaN is stored as null
            raise BadInput(f"{path} has empty cells in column {field.name!r}; {advice}")
    try:
        return table.to_pandas()
    except (ValueError, pa.ArrowException) as error:  # text that is not UTF-8
        raise BadInput(f"{path} is damaged ({type(error).__name__}); {advice}") from None


def _check_size(about: pq.FileMetaData, size: int, most_rows: int) -> None:
    """Raise ValueError for a table far larger than its file of `size` bytes; nothing of it is read."""
    columns = [about.row_group(i).column(j) for i in range(about.num_row_groups) for j in range(about.num_columns)]
    unpacked = sum(one.total_uncompressed_size for one in columns)
    if about.num_rows > most_rows or unpacked > max(MOST_BYTES, MOST_RATIO * size):
        raise ValueError(f"{about.num_rows:,} rows and {unpacked:,} bytes are packed into {size:,} bytes")


def _check_texts(table: pa.Table, texts: list[str], most: int) -> None:
    """Raise ValueError for texts that would be far larger in rows than they are in a dictionary."""
    for name in texts:
        longest = max((pc.max(pc.binary_length(one.dictionary)).as_py() or 0 for one in table[name].chunks), default=0)
        if longest * len(table) > most:
            raise ValueError(f"texts of {longest:,} bytes in {name}")
