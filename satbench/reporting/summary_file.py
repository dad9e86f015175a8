"""Summary rows as a file: the form in which results are committed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput
from satbench.core.files import to_json, write_text
from satbench.core.parsing import parsed
from satbench.core.strict_json import read_json
from satbench.reporting.summary import Row, canonical, infos_by_id, key, measurement
from satbench.results.store import Outdated
from satbench.specs.attack import AttackInfo, ids

SUMMARY_VERSION = 4
OLD_VERSIONS = (1, 2, 3)  # which `satbench migrate` reads
AGAIN = "restore it, or make it with `satbench leaderboard --add FOLDER`"


def merge(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Both lists as one; a new row replaces the old one of the same network, images, threat and attack.

    That also holds where the network's `config` or `group` has changed since: a group can be declared later.
    """
    measured = {measurement(row) for row in new}
    return canonical([*(row for row in old if measurement(row) not in measured), *new])


def write_summary(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON, in canonical order and atomically, each attack described once, with a digest of all.

    Equal rows give equal bytes.
    """
    known = infos_by_id(info for row in rows for info in row.attacks)
    attacks = [known[id].model_dump(mode="json") for id in sorted(known)]
    stored = [_stored(row) for row in canonical(rows)]
    digest = summary_digest(attacks, stored)
    write_text(path, to_json({"schema_version": SUMMARY_VERSION, "digest": digest, "attacks": attacks, "rows": stored}))


def _stored(row: Row) -> dict[str, Any]:
    """A row as the file has it, without `extra_data` where there is none, as in earlier files."""
    without = {"extra_data"} if row.extra_data is None else None
    return row.model_dump(mode="json", exclude=without) | {"attacks": ids(row.attacks)}


def summary_digest(attacks: object, rows: object) -> str:
    """SHA-256 of what a summary says, as JSON holds it.

    It has no key: it shows edits only to a reader who knows the published one or the runs.
    """
    said = json.dumps([SUMMARY_VERSION, attacks, rows], sort_keys=True)
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def read_summary(path: Path) -> list[Row]:
    """The rows of a file made by `write_summary`, in canonical order.

    Raises `BadInput`, naming file, row and field, when anything is missing, unknown, doubled or of the wrong type, and
    when the digest is not that of the rows; an `Outdated` for a file of an earlier version.
    """
    raw = read_raw_summary(path)
    version = raw["schema_version"]
    if version in OLD_VERSIONS:
        raise Outdated(f"summary {path} is of schema {version}; run `satbench migrate {path}` once")
    if version != SUMMARY_VERSION:
        raise BadInput(f"summary {path} has schema version {version!r}, not {SUMMARY_VERSION}; {AGAIN}")
    rows = parse_rows(path, raw["rows"], described(path, raw))
    if raw.get("digest") != summary_digest(raw.get("attacks"), raw["rows"]):
        raise BadInput(f"summary {path} does not match its digest: it was changed after it was written; {AGAIN}")
    return rows


def described(path: Path, raw: Mapping[str, Any]) -> dict[str, AttackInfo]:
    """The attacks that a summary describes, by id; `path` is for messages."""
    attacks = parsed(list[AttackInfo], raw.get("attacks", []), f"summary {path}, list of attacks", AGAIN)
    return {one.id: one for one in attacks}


def read_raw_summary(path: Path) -> dict[str, Any]:
    """A summary of any version as JSON holds it; raises `BadInput` where it is none."""
    try:
        raw = read_json(path)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"summary {path} is missing or damaged ({type(error).__name__}); {AGAIN}") from None
    if not isinstance(raw, dict) or set(raw) - {"attacks", "digest"} != {"schema_version", "rows"}:
        raise BadInput(f"summary {path} is not an object with schema_version, digest, attacks and rows; {AGAIN}")
    if "digest" in raw and raw["schema_version"] in OLD_VERSIONS:
        raise BadInput(f"summary {path} is of schema {raw['schema_version']}, which has no digest; {AGAIN}")
    if not isinstance(raw["rows"], list):
        raise BadInput(f"summary {path}: rows is not a list; {AGAIN}")
    return raw


def parse_rows(path: Path, entries: Sequence[object], known: Mapping[str, AttackInfo]) -> list[Row]:
    """Rows of a summary, in canonical order, whose attacks are the ids of `known`; `path` is for messages."""
    rows: dict[tuple[str | float, ...], Row] = {}
    for position, entry in enumerate(entries):
        where = f"summary {path}, row {position}"
        named = entry.get("attacks") if isinstance(entry, dict) else None
        if isinstance(entry, dict) and isinstance(named, list):
            unknown = [one for one in named if not isinstance(one, str) or one not in known]
            if unknown:
                raise BadInput(f"{where}, field 'attacks': {unknown[0]!r} is not in the list of attacks; {AGAIN}")
            entry = entry | {"attacks": [known[one].model_dump(mode="json") for one in named]}
        row = parsed(Row, json.dumps(entry).encode(), where, AGAIN)
        if rows.setdefault(key(row), row) is not row:
            raise BadInput(f"{where}, field 'attack': the same as an earlier row; {AGAIN}")
    return canonical(list(rows.values()))
