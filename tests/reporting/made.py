"""Small runs with countable records, stored and read back through the public doors."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

from satbench.results.schema import SCHEMA_VERSION, DataInfo, Manifest, ModelInfo, Threat
from satbench.results.store import Run, write_run

PGD = "PGD(steps=50, step_size=None, loss='ce', init='uniform', restarts=1, keep='best')"
FGSM = "PGD(steps=1, step_size=None, loss='ce', init='zero', restarts=1, keep='best')"
AA = "AutoAttack(version='standard', components='')"
EPS = 8 / 255
Outcomes = Sequence[bool]
MakeRun = Callable[..., Run]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Store a run of one model; `robust` maps (attack, norm, eps) to an outcome per image, `clean` gives theirs."""
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
        }
        hashed = str(changes.pop("hashed", "h"))
        violations = changes.pop("violations", ())
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
                "distance_linf": 0.0,
                "distance_l2": 0.0,
                "distance_l1": 0.0,
                "violation": "outside the ball" if i in violations else "",  # type: ignore[operator]
            }
            for (attack, norm, eps), outcomes in robust.items()
            for i, stands in enumerate(outcomes)
        ]
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            model=ModelInfo(ref="runs/x", activation=activation, seed=seed, **settings),  # type: ignore[arg-type]
            data=DataInfo(name=dataset, split=split, n=len(clean), digest="sha256:data"),
            threats=[Threat(norm=norm, eps=eps) for norm, eps in sorted({key[1:] for key in robust})],
            attacks=sorted({key[0] for key in robust}),
            seed=0,
            batch_size=8,
            device="cpu",
            versions={"satbench": "0.1.0", "torch": "2.11.0"},
            revision="abc1234",
            command="satbench eval",
            seconds=1.0,
            created="2025-01-01T00:00:00Z",
            host="somewhere",
        )
        return write_run(tmp_path / f"run{count}", manifest, pd.DataFrame(rows))

    return make


def first(count: int, n: int) -> list[bool]:
    """The first `count` of `n` are true."""
    return [i < count for i in range(n)]
