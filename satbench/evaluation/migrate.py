"""Run folders and summaries of earlier schemas, rewritten in the present one.

Before schema 4 an attack's repr was all that a run said of it, and a sentence what it said of the search. This is the
only module that reads them.
"""

import ast
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from satbench.attacks import Attack, build_attack
from satbench.attacks.adaptive import label_of
from satbench.attacks.base import info_of, scalars
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.evaluation.continued import continued
from satbench.evaluation.executor import info_as_run, stages_as_run
from satbench.evaluation.parts import Work, work_name
from satbench.evaluation.resume import identity
from satbench.evaluation.search import BF16, LABELLED, SURROGATE, WRAPPERS
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.reporting.leaderboard_folder import RUNS
from satbench.reporting.run_file import VERSION, Entry, encoded, file_name, parsed_rows
from satbench.reporting.summary import Row
from satbench.reporting.summary_file import RESTORE, SEALED, described, read_summary
from satbench.results.schema import SCHEMA_VERSION, Manifest, SearchInfo
from satbench.results.store import (
    MANIFEST,
    PARTS,
    check_seal,
    parse_manifest,
    read_manifest,
    read_timing_table,
    write_manifest,
)
from satbench.specs.attack import AttackInfo, ids, label_with_counts

NAMES = {
    "PGD": "pgd",
    "AutoAttack": "autoattack",
    "Cascade": "cascade",
    "Rapid": "rapid",
}  # by class
UNCHECKED = "it had no digest, and its figures could not be checked"  # of a summary before version 4
AROUND = {wrapper.__name__: wrapper for wrapper in WRAPPERS.values()}


def migrate(path: Path) -> Iterator[tuple[Path, str]]:
    """Rewrite a summary, or every run folder below `path`, that is of an earlier schema; each with what was done.

    Records, times and examples stay as they are and finished batches get their present names, so the run resumes and
    verifies as before; the seal covers the manifest and is computed anew. Raises `BadInput` for a path without runs,
    and for a file that is damaged, does not match its seal or is of an unknown schema.
    """
    if path.is_file():
        yield path, _migrate_summary(path)
        return
    folders = sorted({file.parent for file in path.rglob(MANIFEST)})
    if not folders:
        raise BadInput(f"no run in {path}; give run folders, folders that hold some, or a summary such as runs.json")
    for folder in folders:
        yield folder, _migrate_run(folder)


def _migrate_run(folder: Path) -> str:
    raw = read_manifest(folder)
    version, names = raw["schema_version"], raw.get("attacks")
    if version == SCHEMA_VERSION:
        return f"is of schema {SCHEMA_VERSION} already"
    if version != SCHEMA_VERSION - 1 or not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise BadInput(f"{folder} is of schema {version!r}, which cannot be migrated; run `satbench eval` again")
    check_seal(folder, raw)
    ran = read_timing_table(folder).groupby("attack", sort=False)["stage"].unique()
    random_network = raw.get("draws") != 1
    attacks = [_as_it_ran(one, [stage for stage in ran.get(one, ()) if stage], random_network) for one in names]
    described = [one.model_dump(mode="json") for one in attacks]
    search = search_of(str(raw.get("search")), names)
    present = {"schema_version": SCHEMA_VERSION, "attacks": described, "search": search.model_dump(mode="json")}
    manifest = parse_manifest(folder, raw | present)
    _name_parts(folder, manifest)
    seal = write_manifest(folder, manifest)
    return f"schema {version} to {SCHEMA_VERSION}, seal {str(raw['seal'])[:16]} to {seal[:16]}"


def _migrate_summary(path: Path) -> str:
    """Write the rows of each network on each set of images to a file of their own, and remove the summary."""
    raw = read_summary(path)
    version, entries = raw["schema_version"], raw["rows"]
    if version == 1:
        entries = list(map(_from_version_1, entries))
    known = described(path, raw) if version in (3, SEALED) else _by_repr(entries)
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in parsed_rows(f"summary {path}", entries, known, RESTORE):
        groups.setdefault((row.network, row.dataset, row.split, row.loader), []).append(row)
    for rows in groups.values():
        entry = Entry(rows=tuple(rows))
        write_text(path.parent / RUNS / file_name(entry), encoded(entry))
    path.unlink()
    unchecked = "" if version == SEALED else f"; {UNCHECKED}"
    return f"schema {version} to {VERSION}, {len(groups)} files in {path.parent / RUNS}{unchecked}"


def _by_repr(entries: Sequence[object]) -> dict[str, AttackInfo]:
    """The attacks that rows of version 1 and 2 name by their reprs alone."""
    named = {one for entry in entries if isinstance(entry, dict) for one in entry.get("attacks") or ()}
    return {one: info_of(attack_of(one)).model_copy(update={"stages": ()}) for one in named if isinstance(one, str)}


def _as_it_ran(text: str, stages: Sequence[str], random_network: bool) -> AttackInfo:
    """The info of the attack of this repr, whose `stages` ran, with all the stages that it has in such a run.

    Whether the network draws random numbers decides between versions of AutoAttack of which no stage was needed.
    """
    attack = attack_of(text)
    for whole, ran in _ways(attack, random_network):
        info = info_as_run(whole, ran)
        if set(stages) <= {stage.id for stage in info.stages}:
            return info
    return info_of(attack).model_copy(update={"stages": tuple(info_of(attack_of(stage)) for stage in stages)})


def _ways(attack: Attack, random_network: bool) -> Iterator[tuple[Attack, tuple[Attack, ...]]]:
    """The attack as a run may have continued it, with its stages as they may have run."""
    for whole in (attack, continued(attack, random_network), continued(attack, not random_network)):
        for to_the_end in (False, True):
            yield whole, stages_as_run(whole, to_the_end)


def search_of(sentence: str, attacks: Sequence[str]) -> SearchInfo:
    """What a run searched on that said it in this sentence, with attacks of these reprs."""
    made = sentence.partition(", for a faster form failed")[0]
    folded = re.match(r"folded (\d+) batch norm", made)
    plain = sentence == "the network as it is"
    labelled = [one for one in (BF16, SURROGATE) if any(f"{LABELLED[one].__name__}(" in text for text in attacks)]
    form = labelled[0] if labelled else "plain" if plain else "folded"
    return SearchInfo.model_validate(
        {
            "form": form,
            "precision": "bf16" if form == BF16 else "float32",
            "copied": not plain and not sentence.startswith("the model itself"),
            "folded": int(folded[1]) if folded else 0,
            "channels_last": "channels last" in made,
            "note": sentence,
        }
    )


def _name_parts(folder: Path, said: Manifest) -> None:
    """Give finished batches the names that they have since no sentence is part of them."""
    device = said.device.partition(":")[0]
    for info, threat in itertools.product(said.attacks, said.threats):
        ball = ThreatModel(threat.norm, threat.eps)
        ways = [tuple(map(info_of, stages)) for _, stages in _ways(attack_of(info.id), said.draws != 1)]
        for position, stage in {one for stages in (*ways, info.stages) for one in enumerate(ids(stages))}:
            before, now = (
                work_name(identity(said), stage, position, ball, said.seed, search, device)
                for search in (said.search.note, said.search.identity)
            )
            if (folder / PARTS / before).is_dir():
                Work(folder, before, examples=False).move(now)


@dataclass(frozen=True)
class _Described:
    """Stands for an attack of which nothing but its repr is there."""

    info: AttackInfo

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        raise BadInput(f"attack {self.info.id} is known by its description alone; name the one that ran with --attack")


def attack_of(text: str) -> Attack:
    """The attack of this repr: one of satbench's own, or a stand-in that only has an `info`; it imports nothing."""
    name, params = _parsed(text)
    built: Attack | None = None
    try:
        if name in AROUND:
            built = AROUND[name](attack_of(str(params.pop("attack"))), **params)
        elif name in NAMES:
            built = build_attack(NAMES[name], params)
        elif name == "AutoAttackComponent":
            built = build_attack(str(params.pop("name")), params)
        elif name == "Foolbox":
            built = build_attack(f"foolbox:{params.pop('name')}", params)
    except (BadInput, KeyError, TypeError):
        built = None
    if built is not None and info_of(built).id == text:
        return built
    name, params = _parsed(text)
    label = label_with_counts(name, params)
    if name == "Adaptive" and "attack" in params:
        name = str(params.pop("attack"))
        label = label_of(name, scalars(params))
    return _Described(AttackInfo.foreign(text, name, label, scalars(params)))


def _parsed(text: str) -> tuple[str, dict[str, Any]]:
    """Class name and parameters of a repr; a text that is no such call is its own name. Other calls stay text."""
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text, {}
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        return text, {}
    return call.func.id, {keyword.arg: _value(text, keyword.value) for keyword in call.keywords if keyword.arg}


def _value(text: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, RecursionError, MemoryError):
        return ast.get_source_segment(text, node)


def _from_version_1(entry: object) -> object:
    """The entry with a `config` of what the seeds of one model had in common in version 1."""
    if not isinstance(entry, dict):
        return entry
    entry = {key: value for key, value in entry.items() if key != "trust" or value is not None}
    if entry.get("recipe") is None or entry.get("seed") is None:
        return entry
    shared = json.dumps([entry.get(key) for key in ("recipe", "activation", "method", "trained_for")])
    return entry | {"config": hashlib.sha256(shared.encode()).hexdigest()[:16]}
