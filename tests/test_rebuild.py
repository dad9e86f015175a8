"""Attacks rebuilt from what a run says of them, and those that are run again only where they are named."""

import importlib
from dataclasses import dataclass
from pathlib import Path

import pytest
from forgery import checked, measured, network
from torch import Tensor, nn

from satbench.attacks import PGD, Attack
from satbench.attacks.autoattack import AutoAttack, AutoAttackComponent
from satbench.attacks.base import info_of
from satbench.attacks.cascade import Cascade
from satbench.attacks.foolbox import Foolbox
from satbench.attacks.gradient import sat_pgd
from satbench.attacks.rapid import Rapid
from satbench.evaluation.rebuild import rebuild
from satbench.evaluation.search import Bf16, Surrogate, Transfer
from satbench.models.weights import model_digest
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo
from satbench.zoo import Loaded


@pytest.fixture(scope="module")
def model() -> Loaded:
    return network()


OWN = [
    PGD(),
    PGD(steps=3, step_size=0.01, loss="margin", init="zero", restarts=2, momentum=0.9),
    sat_pgd(),
    AutoAttack("custom", "apgd-ce+square"),
    AutoAttackComponent("fab", unit=8, version="plus"),
    Cascade(),
    Rapid(early_stop=False),
    Foolbox("LinfPGD", stated={"steps": 5}),
    Foolbox("LinfDeepFoolAttack", unit=8),
]


@pytest.mark.parametrize("attack", OWN, ids=repr)
def test_an_attack_is_rebuilt_from_what_a_run_says_of_it(attack: Attack) -> None:
    """After a way through JSON, as in a manifest."""
    for made in (attack, Bf16(attack), Surrogate(attack), Transfer(Bf16(attack), source="net@0123")):
        read = AttackInfo.model_validate_json(info_of(made).model_dump_json())
        assert read == info_of(made)
        assert rebuild(read) == made


def edited(attack: Attack = PGD(), **changes: object) -> AttackInfo:  # noqa: B008 - frozen
    return info_of(attack).model_copy(update=changes)


PARAMS = info_of(PGD()).params


@pytest.mark.parametrize(
    "info",
    [
        edited(params=PARAMS | {"steps": 0}),
        edited(params=PARAMS | {"steps": "print(1)"}),
        edited(params=PARAMS | {"steps": 11}),
        edited(params=PARAMS | {"mood": "good"}),
        edited(id="PGD(steps=100)"),
        edited(name="rapid"),
        edited(name="no such"),
        edited(name="os:system", params={"command": "true"}),
        edited(name="test_rebuild:refuses", params={}),
        edited(Bf16(PGD()), name="float16"),
        edited(Bf16(PGD()), wraps=edited(name="os:system")),
        edited(Bf16(PGD()), params={"attack": "PGD()"}),
        edited(Transfer(PGD(), source="a"), params={}),
    ],
    ids=lambda info: f"{info.name}-{info.id[:16]}",
)
def test_what_is_no_own_attack_is_not_built(info: AttackInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anything imported that a run folder names."""

    monkeypatch.setenv("SATBENCH_PLUGINS", "")  # in which other tests of this process have named modules
    wanted, real = [], importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: wanted.append(name) or real(name))
    assert rebuild(info) is None
    assert all(name.startswith("satbench.") for name in wanted)


@dataclass(frozen=True)
class Mine:
    """PGD under a name of one's own."""

    steps: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return PGD(steps=self.steps)(model, x, y, threat, randomness)


def test_an_attack_from_outside_is_run_again_only_where_it_is_named(model: Loaded, tmp_path: Path) -> None:
    run = measured(model, tmp_path, attack=[Mine(5)], eps="0.1")
    seen = checked(run.path, model)
    assert (seen.faults, seen.attacked) == ([], 0)
    assert any("Mine(steps=5) was not run again" in sentence for sentence in seen.skipped)
    seen = checked(run.path, model, attack=[Mine(5)])
    assert (seen.faults, seen.skipped) == ([], [])
    assert seen.exact > 0


def test_a_transfer_attack_is_run_again_where_its_source_is_named(model: Loaded, tmp_path: Path) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    source = Loaded(other, model.info.model_copy(update={"label": "other", "digest": model_digest(other)}))
    run = measured(model, tmp_path, attack="pgd:steps=10", source=source, eps="0.2")
    seen = checked(run.path, model)
    assert (seen.faults, seen.attacked) == ([], 0)
    assert any("--from" in sentence for sentence in seen.skipped)
    seen = checked(run.path, model, source=source)
    assert (seen.faults, seen.skipped) == ([], [])
    assert seen.exact > 0
