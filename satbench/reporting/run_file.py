"""One entry of a leaderboard as a small JSON file with a digest of everything in it.

A file holds one of two things. `Entry.run` is a run: its manifest, what `packed` keeps of its records image by image,
the log of the network's training where that was found, and pictures of some images that it broke, where these were
asked for. `Entry.rows` are counts alone, of runs whose records are no longer known.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from satbench.core.eps import Threat, format_eps
from satbench.core.errors import BadInput
from satbench.core.names import path_part
from satbench.core.parameters import Count
from satbench.core.parsing import parsed
from satbench.core.strict_json import read_json
from satbench.reporting.examples import EACH, Example
from satbench.reporting.joined import infos_by_id
from satbench.reporting.packed import (
    PackedRecords,
    Strict,
    pack,
    pack_records,
    pack_text,
    portable,
    unpack,
    unpack_records,
    unpack_text,
)
from satbench.reporting.summary import Row, canonical, key
from satbench.results.metrics import UNION
from satbench.results.records import record_fault
from satbench.results.schema import SCHEMA_VERSION, Manifest
from satbench.results.store import Run
from satbench.results.training_log import Epoch
from satbench.specs.attack import AttackInfo, ids

VERSION = 5  # earlier ones are of one file for all runs, see `summary_file`
RESTORE = "restore it from version control, or remove it and add its run again"
HASH_BITS = "<u2"  # of the hash of each image's pixels, enough to notice that images were changed


@dataclass(frozen=True)
class Entry:
    """What one file holds: a run with the log of its network's training and some examples, or rows of counts.

    The run of an entry that was read has the file as its path. Its records lack what `packed` leaves out, and a
    `sample_hash` is shortened to 16 bits.
    """

    run: Run | None = None
    training: tuple[Epoch, ...] = ()
    examples: tuple[Example, ...] = ()
    rows: tuple[Row, ...] = ()


class _Images(Strict):
    """Images in the order of their positions: ids as a packed JSON list, labels and shortened hashes as numbers."""

    n: Count
    ids: str
    labels: str
    hashes: str


class _RunFile(Strict):
    schema_version: int
    manifest: Manifest
    images: _Images
    records: PackedRecords
    training: list[Epoch]
    examples: Annotated[tuple[Example, ...], Field(max_length=EACH)] = ()


class _CountsFile(Strict):
    schema_version: int
    attacks: list[AttackInfo]
    rows: list[dict[str, Any]]


def encoded(entry: Entry) -> str:
    """The file's text: a line a field, or a line an item of a list. Equal entries give equal text on one machine."""
    if entry.run is None:
        known = infos_by_id(info for row in entry.rows for info in row.attacks)
        content: dict[str, Any] = {
            "attacks": [known[id].model_dump(mode="json") for id in sorted(known)],
            "rows": [_stored(row) for row in canonical(entry.rows)],
        }
    else:
        once = entry.run.records.drop_duplicates("sample_id")
        positions = {sample: place for place, sample in enumerate(once["sample_id"])}
        content = {
            "manifest": portable(entry.run.manifest),
            "images": {
                "n": len(once),
                "ids": pack_text(json.dumps(list(positions), separators=(",", ":"))),
                "labels": pack(once["label"].to_numpy()),
                "hashes": pack(np.array([_short(one) for one in once["sample_hash"]]), HASH_BITS),
            },
            "records": pack_records(entry.run, positions),
            "training": [one.to_dict() for one in entry.training],
        }
        if entry.examples:
            content["examples"] = [one.model_dump() for one in entry.examples]
    content = json.loads(json.dumps({"schema_version": VERSION, **content}))  # as a reader has it
    return _laid_out({**content, "digest": _digest(content)})


def read_entry(path: Path) -> Entry:
    """The entry in a file that `encoded` made.

    Raises `BadInput`, naming file and field, when anything is missing, unknown, damaged or of the wrong type, when the
    digest is not that of the content, and for records that no run writes. The digest has no key: it shows edits only to
    a reader who knows the published one or the run.
    """
    where = f"run file {path}"
    try:
        raw = read_json(path)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{where} is missing or damaged ({type(error).__name__}); {RESTORE}") from None
    if not isinstance(raw, dict) or raw.get("schema_version") != VERSION:
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        raise BadInput(f"{where} has schema version {version!r}, this satbench reads {VERSION}; {RESTORE}")
    digest = raw.pop("digest", None)
    entry = _counts(where, raw) if "rows" in raw else _run(where, path, raw)
    if digest != _digest(raw):
        raise BadInput(f"{where} does not match its digest: it was changed after it was written; {RESTORE}")
    return entry


def file_name(entry: Entry) -> str:
    """Model, data set, threats, seed and digest: of the run's seal, or of the counts. Equal for equal entries."""
    if entry.run is None:
        network, data = entry.rows[0].network, entry.rows[0].dataset
        threats = [Threat(norm=row.norm, eps=row.eps) for row in entry.rows if row.norm != UNION]
        digest = hashlib.sha256(json.dumps([_stored(row) for row in entry.rows], sort_keys=True).encode()).hexdigest()
    else:
        manifest = entry.run.manifest
        network, data, threats, digest = manifest.model, manifest.data.name, manifest.threats, manifest.seal
    recipe = f"{network.recipe.partition(' [')[0]} {network.activation or ''}" if network.recipe else network.label
    seed = "" if network.seed is None else f"-seed{network.seed}"
    return f"{path_part(f'{recipe} {data} {_range(threats)}')}{seed}-{digest[:12]}.json"


def _range(threats: Sequence[Threat]) -> str:
    """`Linf 0.1 to 0.2`, or the norms alone where they are several."""
    norms, radii = sorted({one.norm for one in threats}), sorted({one.eps for one in threats})
    if len(norms) > 1:
        return " ".join(norms)
    return f"{norms[0]} {' to '.join(format_eps(one) for one in dict.fromkeys((radii[0], radii[-1])))}"


def differences(entry: Entry, run: Run) -> list[str]:
    """Where an entry is not of this run: a sentence for each, none where it says of the run what the run says."""
    if entry.run is None:
        return ["it holds counts alone, and no records to compare"]
    ours, theirs = entry.run, _as_read(run)
    if ours.manifest != theirs.manifest:
        said = (ours.manifest, theirs.manifest)
        fields = [name for name in Manifest.model_fields if len({repr(getattr(one, name)) for one in said}) > 1]
        return [f"its manifest is of another run: {', '.join(fields)} differ"]
    if len(ours.records) != len(theirs.records):
        return [f"it has {len(ours.records)} records, the run has {len(theirs.records)}"]
    found = []
    for column in ours.records:
        wrong = (ours.records[column] != theirs.records[column]) & ours.records[column].notna()
        if wrong.any():
            first = wrong.idxmax()
            found.append(
                f"column {column} differs in {int(wrong.sum())} records, first in record {first}: "
                f"{ours.records[column][first]}, the run has {theirs.records[column][first]}"
            )
    return found


def _as_read(run: Run) -> Run:
    """The run as its file gives it back."""
    raw = json.loads(encoded(Entry(run)))
    raw.pop("digest")
    kept = _run(str(run.path), run.path, raw).run
    assert kept is not None
    return kept


def _run(where: str, path: Path, raw: Mapping[str, Any]) -> Entry:
    file = parsed(_RunFile, raw, where, RESTORE)
    if file.manifest.schema_version != SCHEMA_VERSION:
        raise BadInput(f"{where} is of a run of schema {file.manifest.schema_version}, not {SCHEMA_VERSION}; {RESTORE}")
    images = file.images
    try:
        known = TypeAdapter(list[str]).validate_json(unpack_text(images.ids))
        labels = unpack(images.labels, images.n)
        hashes = [f"{one:04x}" for one in unpack(images.hashes, images.n, HASH_BITS)]
        if len(set(known)) != images.n:
            raise ValueError("another number of images than of ids")
        records, timing = unpack_records(file.records, known, labels.tolist(), hashes)
    except (ValueError, IndexError, zlib.error) as error:
        raise BadInput(f"{where}, fields 'images' and 'records': damaged ({type(error).__name__}); {RESTORE}") from None
    if fault := record_fault(file.manifest, records):
        raise BadInput(f"{where}: {fault}; {RESTORE}")
    return Entry(Run(path, file.manifest, records, timing=timing), tuple(file.training), file.examples)


def _counts(where: str, raw: Mapping[str, Any]) -> Entry:
    file = parsed(_CountsFile, raw, where, RESTORE)
    return Entry(rows=tuple(parsed_rows(where, file.rows, {one.id: one for one in file.attacks}, RESTORE)))


def parsed_rows(
    where: str, entries: Sequence[object], known: Mapping[str, AttackInfo], advice: str = RESTORE
) -> list[Row]:
    """Rows in canonical order, whose attacks are ids of `known`; raises `BadInput` that begins with `where`."""
    rows: dict[tuple[str | float, ...], Row] = {}
    for position, entry in enumerate(entries):
        place = f"{where}, row {position}"
        named = entry.get("attacks") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(named, list):
            unknown = [one for one in named if not isinstance(one, str) or one not in known]
            if unknown:
                raise BadInput(f"{place}, field 'attacks': {unknown[0]!r} is not in the list of attacks; {advice}")
            entry = entry | {"attacks": [known[one].model_dump(mode="json") for one in named]}
        row = parsed(Row, json.dumps(entry).encode(), place, advice)
        if rows.setdefault(key(row), row) is not row:
            raise BadInput(f"{place}, field 'attack': the same as an earlier row; {advice}")
    return canonical(list(rows.values()))


def _stored(row: Row) -> dict[str, Any]:
    """A row as a file has it: attacks by their ids, and no `extra_data` where there is none."""
    without = {"extra_data"} if row.extra_data is None else None
    return row.model_dump(mode="json", exclude=without) | {"attacks": list(ids(row.attacks))}


def _short(pixels: str) -> int:
    """16 bits of an image's hash."""
    return int(hashlib.sha256(pixels.encode()).hexdigest()[:4], 16)


def _digest(content: Mapping[str, Any]) -> str:
    return f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


def _laid_out(content: Mapping[str, Any]) -> str:
    """JSON with a line for each field, and for each item of a list."""

    fields = []
    for name, value in content.items():
        items = [json.dumps(one, ensure_ascii=False) for one in value] if isinstance(value, list) else []
        text = "[\n" + ",\n".join(items) + "\n]" if items else json.dumps(value, ensure_ascii=False)
        fields.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(fields) + "\n}\n"
