"""The quick trust battery with the settings that every evaluation gives it, as a job that one worker does."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from pandas.util import hash_pandas_object
from pydantic import ValidationError
from torch import nn

from satbench.core.files import to_json, write_text
from satbench.core.home import claimed
from satbench.core.strict_json import read_json
from satbench.data import Images
from satbench.evaluation.compute import PAUSE
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import Trust
from satbench.results.store import PARTS
from satbench.specs.attack import AttackInfo, ids
from satbench.trust import examine

PASSES = 10  # of an evaluation's attacks for one of its trust battery, at least


def quick_trust(
    model: nn.Module,
    images: Images,
    threats: Sequence[ThreatModel],
    seed: int,
    records: pd.DataFrame,
    attacks: Sequence[AttackInfo],
) -> Trust:
    """Check a measured model for at most a tenth of the passes of its `records`, at the largest radius of one norm."""
    passes = int(records[["forward", "backward"]].to_numpy().sum())
    largest = max((one for one in threats if one.norm == threats[0].norm), key=lambda one: one.eps)
    budget = passes // PASSES
    return examine(model, images, largest, seed=seed, depth="quick", budget=budget, records=records, attacks=attacks)


def trust_part(
    out: Path,
    identity: Mapping[str, object],
    seed: int,
    records: pd.DataFrame,
    attacks: Sequence[AttackInfo],
    check: Callable[[], Trust],
    patient: bool,
) -> Trust | None:
    """What `check` finds in these records of the run in `out`: found there, or computed here and stored.

    None, unless `patient`, while another worker computes it. The file is named after what decides the verdict.
    """
    content = hashlib.sha256(hash_pandas_object(records, index=False).to_numpy().tobytes()).hexdigest()
    decisive = json.dumps([identity, seed, ids(attacks), content], sort_keys=True, default=str)
    name = hashlib.sha256(decisive.encode()).hexdigest()[:20]
    file = out / PARTS / f"trust-{name}.json"
    while True:
        found = _read(file, name)
        if found is not None:
            return found
        with claimed(out, file.stem) as mine:
            if mine and _read(file, name) is None:
                trust = check()
                said = trust.model_dump(mode="json")
                write_text(file, to_json({"trust": said, "digest": _digest(name, said)}))
                return trust
        if not patient and not mine:
            return None
        time.sleep(0 if mine else PAUSE)


def _read(file: Path, name: str) -> Trust | None:
    """A stored verdict, or None, so that it is computed again, when it is missing, damaged or edited."""
    try:
        held = read_json(file)
        return Trust.model_validate(held["trust"]) if held["digest"] == _digest(name, held["trust"]) else None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None


def _digest(name: str, said: object) -> str:
    return hashlib.sha256(json.dumps([name, said], sort_keys=True).encode()).hexdigest()
