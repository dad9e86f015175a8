"""Summaries of earlier satbenches: one file with the rows of all runs. Read by `satbench migrate` alone.

Since version 5 every run has a file of its own, see `run_file`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput
from satbench.core.parsing import parsed
from satbench.core.strict_json import read_json
from satbench.specs.attack import AttackInfo

SEALED = 4  # the version with a digest
OLD_VERSIONS = (1, 2, 3, SEALED)
RESTORE = "restore it from version control"


def read_summary(path: Path) -> dict[str, Any]:
    """A summary of an earlier version as JSON holds it.

    Raises `BadInput` where it is none, and where its digest, which version 4 has, is not that of its content.
    """
    try:
        raw = read_json(path)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"summary {path} is missing or damaged ({type(error).__name__}); {RESTORE}") from None
    if not isinstance(raw, dict) or set(raw) - {"attacks", "digest"} != {"schema_version", "rows"}:
        raise BadInput(f"summary {path} is not an object with schema_version, digest, attacks and rows; {RESTORE}")
    version = raw["schema_version"]
    if version not in OLD_VERSIONS:
        raise BadInput(f"summary {path} is of schema {version!r}, which cannot be migrated; {RESTORE}")
    if "digest" in raw and version != SEALED:
        raise BadInput(f"summary {path} is of schema {version}, which has no digest; {RESTORE}")
    if not isinstance(raw["rows"], list):
        raise BadInput(f"summary {path}: rows is not a list; {RESTORE}")
    if version == SEALED and raw.get("digest") != summary_digest(raw.get("attacks"), raw["rows"]):
        raise BadInput(f"summary {path} does not match its digest: it was changed after it was written; {RESTORE}")
    return raw


def described(path: Path, raw: Mapping[str, Any]) -> dict[str, AttackInfo]:
    """The attacks that a summary describes, by id; `path` is for messages."""
    attacks = parsed(list[AttackInfo], raw.get("attacks", []), f"summary {path}, list of attacks", RESTORE)
    return {one.id: one for one in attacks}


def summary_digest(attacks: object, rows: object) -> str:
    """SHA-256 of what a summary of version 4 says, as JSON holds it."""
    said = json.dumps([SEALED, attacks, rows], sort_keys=True)
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"
