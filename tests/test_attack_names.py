"""How an attack is spelled: the table, foolbox's, and one's own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_contract import assert_contract, images, mixed_model, streams, wrong

from satbench.attacks import ATTACKS, PGD, attack_parameters, build_attack, parse_attack
from satbench.attacks.base import stages_of, unit_of
from satbench.core.errors import BadInput
from satbench.evaluation.sweep import attacks
from satbench.numerics.threat import ThreatModel

OWN = """
from dataclasses import dataclass

import torch

from satbench.attacks import PGD


def noise(model, x, y, threat, randomness, scale=1.0):
    return threat.project(x, x + scale * threat.eps)


noise.unit = 40


def crooked(model, x, y, threat, randomness):
    model(x.requires_grad_(False).clone().requires_grad_()).sum().backward()
    return x.clone()


@dataclass(frozen=True)
class Stepped:
    steps: int = 3

    def __call__(self, model, x, y, threat, randomness):
        return PGD(steps=self.steps)(model, x, y, threat, randomness)


ready = Stepped(5)


@dataclass(frozen=True)
class Pair:
    @property
    def stages(self):
        return (PGD(steps=1), PGD(steps=2))

    def __call__(self, model, x, y, threat, randomness):
        return x.clone()


def made(**parameters):
    return PGD(**parameters)


def nothing():
    return None


def failing():
    raise KeyError("no such weights")


shelf = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the current folder that is nowhere else."""
    (tmp_path / "own_attacks.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "broken_attacks.py").write_text("import torch\nraise ValueError('half\\ndone')\n", encoding="utf-8")
    (tmp_path / "needy_attacks.py").write_text("import missing_dependency\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield
    assert sys.path == before
    for name in ("own_attacks", "broken_attacks", "needy_attacks"):
        sys.modules.pop(name, None)


def build(text: str) -> Any:
    return build_attack(*parse_attack(text))


@pytest.mark.parametrize(
    ("text", "name", "params"),
    [
        ("pgd", "pgd", {}),
        ("pgd:steps=20,loss=margin", "pgd", {"steps": 20, "loss": "margin"}),
        ("pgd: steps = 20 , step_size = 2/255", "pgd", {"steps": 20, "step_size": 2 / 255}),
        ("pgd:step_size=sat", "pgd", {"step_size": "sat"}),
        ("autoattack:version=custom,components=fab+square", "autoattack",
         {"version": "custom", "components": "fab+square"}),
        ("foolbox:LinfPGD", "foolbox:LinfPGD", {}),
        ("foolbox:LinfPGD,steps=3", "foolbox:LinfPGD", {"steps": 3}),
        ("foolbox:LinfPGD:steps=3,rel_stepsize=.5", "foolbox:LinfPGD", {"steps": 3, "rel_stepsize": 0.5}),
        ("my.attacks:make", "my.attacks:make", {}),
        ("attacks:make", "attacks:make", {}),
        ("my.attacks:make:a=1e-3,b=true,c=FALSE,d=none,e=3/4,f=-2,g=name,h=2.", "my.attacks:make",
         {"a": 0.001, "b": True, "c": False, "d": None, "e": 0.75, "f": -2, "g": "name", "h": 2.0}),
        ("my.attacks:make,a=-1.5e+2,b=1/0,c=1e,d=x/y", "my.attacks:make",
         {"a": -150.0, "b": "1/0", "c": "1e", "d": "x/y"}),
    ],
)  # fmt: skip
def test_the_command_line_is_read(text: str, name: str, params: dict[str, Any]) -> None:
    found = parse_attack(text)
    assert found == (name, params)
    assert [type(value) for value in found[1].values()] == [type(value) for value in params.values()]


def test_a_step_size_in_units_of_l2_or_l1_can_be_written() -> None:
    """Step sizes are in the threat's own units, and an L1 radius of 12 is usual."""
    assert build("pgd:step_size=2.5") == PGD(step_size=2.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg", "unknown attack 'pdg'; did you mean pgd"),
        ("pdg:steps=3", "unknown attack 'pdg'; did you mean pgd"),
        ("pgd:step=3", "unknown parameter 'step' of attack 'pgd'; did you mean steps"),
        ("pgd:steps", "key=value"),
        ("pgd:steps=0", "steps.*0.*whole number from 1"),
        ("pgd:steps=-3", "whole number from 1"),
        ("pgd:steps=many", "whole number from 1"),
        ("pgd:steps=1.5", "whole number from 1"),
        ("pgd:steps=true", "whole number from 1"),
        ("pgd:steps=²", "whole number from 1"),
        ("pgd:steps=--5", "whole number from 1"),
        ("pgd:restarts=0", "restarts"),
        ("pgd:loss=cw", "unknown loss 'cw'"),
        ("pgd:loss=margn", "did you mean margin"),
        ("pgd:init=random", "unknown init"),
        ("pgd:keep=first", "unknown keep"),
        ("pgd:keep=last,restarts=2", "keep='last'"),
        ("pgd:step_size=0", "positive"),
        ("pgd:step_size=-1/255", "negative"),
        ("pgd:step_size=nan", "finite"),
        ("pgd:step_size=fast", "not a number"),
        ("fgsm:steps=2", "unknown parameter 'steps' of attack 'fgsm'"),
        ("cascade:stages=2", "unknown parameter 'stages' of attack 'cascade'"),
        ("apgd_ce", "unknown attack 'apgd_ce'; did you mean apgd-ce"),
    ],
)
def test_bad_spellings_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        build(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.one_in(10)
@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "knn-guided"])  # for kNN alone, see test_knn
def test_every_name_of_the_table_is_an_attack_under_contract(name: str) -> None:
    """At a radius at which every attack wins, because the black-box ones are slow to give up."""
    attack = build(name)
    assert build(name) == attack
    assert repr(build(name)) == repr(attack)
    assert hash(attack) == hash(build(name))
    model = mixed_model()
    x, y = images(model, 3)
    x_adv = assert_contract(attack, ThreatModel("Linf", 0.9), model, x, y)
    assert wrong(mixed_model(), x_adv, y).all() or name in ("fgsm", "sat-pgd")
    assert set(attack_parameters(name)) >= ({"unit"} if unit_of(attack) else set())


def test_identities_differ_from_name_to_name() -> None:
    assert len({repr(build(name)) for name in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("own_attacks:noise", "Adaptive(attack='own_attacks:noise')"),
        ("own_attacks:noise:scale=1/2", "Adaptive(attack='own_attacks:noise', scale=0.5)"),
        ("own_attacks:Stepped:steps=2", "Adaptive(attack='own_attacks:Stepped', steps=2)"),
        ("own_attacks:ready", "Adaptive(attack='own_attacks:ready')"),
        ("own_attacks:made:steps=2,loss=margin", "Adaptive(attack='own_attacks:made', steps=2, loss='margin')"),
        ("satbench.attacks.gradient:fgsm", "Adaptive(attack='satbench.attacks.gradient:fgsm')"),
        ("own_attacks:crooked", "Adaptive(attack='own_attacks:crooked')"),
    ],
)
def test_an_attack_of_ones_own(own: None, text: str, identity: str) -> None:
    attack = build(text)
    assert repr(attack) == identity
    assert attack == build(text)
    assert hash(attack) == hash(build(text))
    model = mixed_model()
    x, y = images(model, 2)
    assert_contract(attack, ThreatModel("Linf", 0.1), model, x, y)


def test_parameters_reach_an_attack_of_ones_own(own: None) -> None:
    model = mixed_model().eval()
    x, y = images(model, 2)
    threat = ThreatModel("Linf", 0.1)
    half = build("own_attacks:noise:scale=1/2")(model, x, y, threat, streams(2))
    assert torch.equal(half, (x + 0.05).clamp(0, 1))
    stepped = build("own_attacks:Stepped:steps=2")(model, x, y, threat, streams(2))
    assert torch.equal(stepped, PGD(steps=2)(model, x, y, threat, streams(2)))
    made = build("own_attacks:made:steps=1,loss=margin")(model, x, y, threat, streams(2))
    assert torch.equal(made, PGD(steps=1, loss="margin")(model, x, y, threat, streams(2)))


def test_the_name_of_an_attack_of_ones_own_in_tables_shows_its_parameters(own: None) -> None:
    labels = [build(f"own_attacks:noise{tail}").info.label for tail in ("", ":scale=0.5", ":scale=2")]
    assert labels == [f"adaptive own_attacks:noise{tail}" for tail in ("", ":scale=0.5", ":scale=2")]


@pytest.mark.parametrize(
    ("text", "advice"),
    [("pgd:", "write pgd, or"), ("own_attacks:", "give package.module:callable"), ("a.b:step:", "write a.b:step, or")],
)
def test_a_name_that_ends_with_a_colon_is_completed_where_it_can_be(text: str, advice: str) -> None:
    with pytest.raises(BadInput, match=f"attack {text!r} ends with a colon; {advice}"):
        parse_attack(text)


def test_unit_and_stages_are_those_of_the_attack(own: None) -> None:
    assert unit_of(build("own_attacks:noise")) == 40
    assert unit_of(build("own_attacks:noise:scale=2")) == 40
    assert unit_of(build("own_attacks:Stepped")) is None
    assert stages_of(build("own_attacks:Pair")) == (PGD(steps=1), PGD(steps=2))
    alone = build("own_attacks:Stepped")
    assert stages_of(alone) == (alone,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("own_attacks:noize", "own_attacks has no callable 'noize'"),
        ("own_attacks:shelf", "own_attacks has no callable 'shelf'"),
        ("own_attacks:nothing", "returned a NoneType, which is no attack"),
        ("own_attacks:failing", "KeyError: 'no such weights'"),
        ("own_attacks:noise:scal=2", "unknown parameter 'scal' of attack 'own_attacks:noise'; did you mean scale"),
        ("own_attacks:noise:model=2", "unknown parameter 'model'"),
        ("own_attacks:crooked:steps=2", "it takes none"),
        ("own_attacks:made:stepz=2", "TypeError: .*stepz"),
        ("own_attacks:made:steps=0", "steps of an attack is 0"),
        ("broken_attacks:x", "ValueError: half; correct broken_attacks"),
        ("needy_attacks:x", "no module named 'missing_dependency'"),
        ("nowhere.at_all:x", "no module named 'nowhere'"),
        (":x", "no module is named; give package.module:callable"),
        ("os:getcwd", "returned a str, which is no attack"),
    ],
)
def test_what_is_no_attack_is_refused_in_one_line(own: None, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        build(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pgd", {"steps", "restarts", "loss"}),
        ("sat-pgd", {"steps"}),
        ("foolbox:LinfPGD", {"steps", "rel_stepsize", "abs_stepsize", "random_start", "unit"}),
        ("own_attacks:Stepped", {"steps"}),
        ("own_attacks:noise", {"scale"}),
        ("own_attacks:made", set()),
    ],
)
def test_the_parameters_of_a_name(own: None, text: str, expected: set[str]) -> None:
    found = set(attack_parameters(text))
    assert found >= expected
    assert text == "pgd" or found == expected


def test_steps_are_swept_where_an_attack_has_them(own: None) -> None:
    names = [
        "fgsm",
        "pgd:loss=margin",
        "foolbox:PGD",
        "own_attacks:Stepped",
        "own_attacks:noise",
        "foolbox:PGD:steps=9",
    ]
    expected = [
        "fgsm",
        *("pgd:loss=margin,steps=2", "pgd:loss=margin,steps=3"),
        *("foolbox:PGD:steps=2", "foolbox:PGD:steps=3"),
        *("own_attacks:Stepped:steps=2", "own_attacks:Stepped:steps=3"),
        "own_attacks:noise",
        "foolbox:PGD:steps=9",
    ]
    assert [repr(attack) for attack in attacks(names, "2,3", None)] == [repr(build(text)) for text in expected]
    with pytest.raises(BadInput, match="--restarts is given, but none of"):
        attacks(["foolbox:LinfPGD", "own_attacks:noise", "autoattack"], None, "2")


@pytest.mark.left_out
def test_the_table_imports_neither_library() -> None:
    program = (
        "import sys, satbench.attacks as a; a.build_attack('pgd', {});"
        "print(sorted({'pyautoattack', 'foolbox', 'eagerpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
