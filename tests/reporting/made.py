"""Small runs with countable records, stored and read back through the public doors."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from satbench.attacks.base import info_of
from satbench.core.eps import Threat
from satbench.evaluation.migrate import attack_of
from satbench.reporting.pictures import Picture
from satbench.reporting.run_file import Entry, encoded, read_entry
from satbench.reporting.summary import Row, canonical
from satbench.reporting.summary_file import SEALED, summary_digest
from satbench.results.schema import (
    SCHEMA_VERSION,
    TIMING,
    DataInfo,
    Finding,
    Manifest,
    ModelInfo,
    SearchInfo,
    Trust,
)
from satbench.results.store import Run, write_run
from satbench.specs.attack import AttackInfo

PGD = "PGD(steps=50, step_size=None, loss='ce', init='uniform', restarts=1, keep='best')"
FGSM = "PGD(steps=1, step_size=None, loss='ce', init='zero', restarts=1, keep='best')"
AA = "AutoAttack(version='standard', components='', unit=250)"
EPS = 8 / 255
Outcomes = Sequence[bool]
MakeRun = Callable[..., Run]


def known(id: str) -> AttackInfo:
    """What a run says of the attack of this id; of an id that is none of satbench's, that it is foreign."""
    return info_of(attack_of(id))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    return runs_in(tmp_path)


def runs_in(folder: Path) -> MakeRun:
    """A function that stores a run of one model in a new subfolder.

    `robust` maps (attack, norm, eps) to an outcome per image, `clean` gives theirs. Every attacked image costs 51
    forward and 50 backward passes, or what `passes` says.
    """
    count = 0

    def make(
        activation: str | None,
        clean: Outcomes,
        robust: dict[tuple[str, str, float], Outcomes],
        seed: int | None = 0,
        **changes: object,
    ) -> Run:
        nonlocal count
        count += 1
        settings: dict[str, object] = {
            "recipe": "digits-cnn",
            "method": "pgd-at",
            "label": f"digits-cnn {activation} seed {seed}",
            "digest": f"sha256:{activation}-{seed}",
            "trained_for": Threat(norm="Linf", eps=EPS),
            "config": f"sha256:config-{activation}",
        }
        hashed = str(changes.pop("hashed", "h"))
        violations = changes.pop("violations", ())
        trust, passes = changes.pop("trust", None), changes.pop("passes", (51, 50))
        draws, shares = changes.pop("draws", 1), changes.pop("shares", None)
        threats = changes.pop("threats", sorted({key[1:] for key in robust}))
        bad = changes.pop("bad_gradients", ())
        dataset, split = str(changes.pop("dataset", "digits")), str(changes.pop("split", "test"))
        settings |= changes
        rows = [
            {
                "sample_id": f"test/{i:05d}",
                "sample_hash": f"{hashed}{i}",
                "label": 1,
                "clean_prediction": 1 if clean[i] else 2,
                "attack": attack,
                "norm": norm,
                "eps": eps,
                "broken": not stands,
                "prediction": 1 if stands else 2,
                "margin": -1.0 if stands else 1.0,
                "distance_linf": 0.0,
                "distance_l2": 0.0,
                "distance_l1": 0.0,
                "fell_at": -1 if stands else 5 * clean[i],
                "forward": passes[0] * clean[i],  # type: ignore[index]
                "backward": passes[1] * clean[i],  # type: ignore[index]
                "stage": "",
                "violation": "outside the ball" if i in violations else "",  # type: ignore[operator]
                "correct_share": shares[i] if shares else float(stands),  # type: ignore[index]
                "bad_gradient": i in bad,  # type: ignore[operator]
            }
            for (attack, norm, eps), outcomes in robust.items()
            for i, stands in enumerate(outcomes)
        ]
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            model=ModelInfo(ref="runs/x", activation=activation, seed=seed, **settings),  # type: ignore[arg-type]
            data=DataInfo(name=dataset, split=split, n=len(clean), digest="sha256:data"),
            threats=[Threat(norm=norm, eps=eps) for norm, eps in threats],  # type: ignore[attr-defined]
            attacks=[known(id) for id in sorted({key[0] for key in robust})],
            seed=0,
            batch_size=8,
            search=SearchInfo(form="folded", note="a folded copy"),
            examples=False,
            trust=trust,
            notes=[],
            draws=draws,  # type: ignore[arg-type]
            device="cpu",
            versions={"satbench": "0.1.0", "torch": "2.11.0"},
            revision="abc1234",
            command="satbench eval",
            seconds=1.0,
            created="2025-01-01T00:00:00Z",
            host="somewhere",
        )
        return write_run(folder / f"run{count}", manifest, pd.DataFrame(rows), pd.DataFrame(columns=TIMING.names))

    return make


def old_summary(rows: Iterable[Row], version: int = SEALED) -> dict[str, Any]:
    """The rows as JSON holds them in the summary of an earlier version, in which all runs were in one file."""
    held = json.loads(encoded(Entry(rows=tuple(rows))))
    raw = {"schema_version": version, "attacks": held["attacks"], "rows": held["rows"]}
    return raw | {"digest": summary_digest(raw["attacks"], raw["rows"])} if version == SEALED else raw


def rows_in(folder: Path) -> list[Row]:
    """The rows of all files of counts in a folder."""
    return canonical([row for file in folder.glob("*.json") for row in read_entry(file).rows])


def trust(verdict: str, sentence: str = "a sentence", next_attack: str | None = None) -> Trust:
    """What a battery of two checks found, the first of which passed."""
    findings = [
        Finding(check="gradients", outcome="pass", sentence="gradients are there"),
        Finding.model_validate(
            {"check": "growing eps", "outcome": verdict, "sentence": sentence, "next_attack": next_attack}
        ),
    ]
    return Trust.model_validate(
        {"verdict": verdict, "depth": "quick", "findings": findings, "forward": 30, "backward": 20}
    )


def picture(side: int, channels: int = 3, seed: int = 0) -> Picture:
    """An image of coins, an attack of it, and the perturbation: what PNG can least compress."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (3, side, side, channels))
    arrays = pixels[0].astype("u1"), (pixels[1] - 128).clip(-127).astype("i1"), pixels[2].astype("u1")
    return Picture("net", "PGD-50 at Linf 8/255", "test/00000", "cat", "cat", "dog", EPS, *arrays)


def first(count: int, n: int) -> list[bool]:
    """The first `count` of `n` are true."""
    return [i < count for i in range(n)]
