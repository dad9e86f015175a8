"""Attacks rebuilt from the reprs of a run's records, and those that are run again only where they are named."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from forgery import checked, measured, network
from torch import Tensor, nn

from satbench.attacks import PGD
from satbench.attacks.foolbox import Foolbox
from satbench.evaluation.rebuild import rebuild
from satbench.models.weights import model_digest
from satbench.seeding import Randomness
from satbench.threat import ThreatModel
from satbench.zoo import Loaded


@pytest.fixture(scope="module")
def model() -> Loaded:
    return network()


REPRS = [
    "PGD(steps=10, step_size=None, loss='ce', init='uniform', restarts=1, keep='best')",
    "PGD(steps=3, step_size=0.01, loss='margin', init='zero', restarts=2, keep='best', momentum=0.9)",
    "AutoAttack(version='custom', components='apgd-ce+square', unit=250)",
    "AutoAttackComponent(name='fab-t', unit=8, version='plus')",
    "Cascade(unit=250)",
    "Rapid()",
    repr(Foolbox("LinfPGD", stated={"steps": 5})),
    repr(Foolbox("LinfDeepFoolAttack", unit=8)),
]


@pytest.mark.parametrize("text", REPRS)
def test_an_attack_is_rebuilt_from_its_repr(text: str) -> None:
    for wrapped in (text, f"Bf16(attack={text})", f"Transfer(attack={text}, source='net@0123')"):
        assert repr(rebuild(wrapped)) == wrapped


@pytest.mark.parametrize(
    "text",
    [
        "PGD(steps=10",
        "PGD(steps=0)",
        "PGD(steps=print(1))",
        "PGD(10)",
        "PGD(mood='good')",
        "eval('1')",
        "__import__('os').system('true')",
        "Adaptive(attack='os:system', command='true')",
        "Bf16(attack=Mine())",
        "Bf16(attack='PGD()')",
        "lambda: 0",
        "",
    ],
)
def test_what_is_no_own_attack_is_not_built(text: str) -> None:
    assert rebuild(text) is None


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
