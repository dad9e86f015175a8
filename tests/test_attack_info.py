"""What a run says of an attack: its id, its kind, and that no other module has to know the attack."""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_contract import streams
from torch import Tensor, nn
from typer.testing import CliRunner

import satbench
from satbench import attacks, evaluate
from satbench.attacks import ATTACKS, PGD, Attack, autoattack, build_attack, gradient, is_own
from satbench.attacks.base import Described, info_of, later, stages_of
from satbench.attacks.foolbox import Foolbox, names
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.evaluation.search import Bf16, Surrogate, Transfer
from satbench.evaluation.verify import verify
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.reporting.leaderboard import build
from satbench.reporting.page import write_report
from satbench.reporting.results_file import StudyResults
from satbench.reporting.summary import summarise
from satbench.specs.attack import TIERS, AttackInfo

ROOT = Path(satbench.__file__).parent
OLD = PGD(steps=7, restarts=2)

# ids


def renamed(cls: Any, name: str) -> Any:
    cls.__name__ = name
    return cls


@dataclass(frozen=True, repr=False)
class Grown(gradient.PGD):
    """PGD with a parameter more, which at 0 changes nothing."""

    damping: float = later(0.0)


@dataclass(frozen=True, repr=False)
class Changed(gradient.PGD):
    """The same with a default that changes what it does."""

    damping: float = later(0.0, default=0.5)


@dataclass(frozen=True, repr=False)
class Hasty(gradient.PGD):
    """PGD whose default of an old parameter has changed."""

    steps: int = 20


@dataclass(frozen=True, repr=False)
class Sharper(gradient.PGD):
    """PGD whose default of a later parameter has changed."""

    eot: int = later(1, default=5)


def test_a_new_parameter_that_keeps_the_behaviour_renames_no_record() -> None:
    grown = renamed(Grown, "PGD")
    assert info_of(grown(steps=7, restarts=2)).id == OLD.info.id
    assert info_of(grown(steps=7, restarts=2)).settings == OLD.info.settings
    assert info_of(grown(steps=7, restarts=2, damping=0.1)).id == OLD.info.id[:-1] + ", damping=0.1)"
    assert info_of(grown()).params["damping"] == 0.0


@pytest.mark.parametrize("changed", [Changed, Hasty, Sharper])
def test_a_changed_default_renames_the_attack(changed: Any) -> None:
    assert info_of(renamed(changed, "PGD")()).id != PGD().info.id


@dataclass(frozen=True, repr=False)
class Component(autoattack.AutoAttackComponent):
    damping: int = later(3)


def test_the_rule_holds_for_every_attack_that_describes_itself() -> None:
    assert info_of(renamed(Component, "AutoAttackComponent")("square")).id == build_attack("square", {}).info.id  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_of_the_table_describes_all_of_itself(name: str) -> None:
    attack = build_attack(name, {})
    info = info_of(attack)
    assert info.id == repr(attack)
    assert is_own(info.name)
    assert build_attack(info.name, info.params) == attack
    assert AttackInfo.model_validate_json(info.model_dump_json()) == info
    stages = stages_of(attack)
    assert [one.id for one in info.stages] == ([repr(one) for one in stages] if len(stages) > 1 else [])
    assert (info.kind == "ensemble") == (len(stages) > 1)
    assert info.tier in TIERS


# kinds


class Counts(nn.Module):
    """A small convolution that notices whether a gradient was taken."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        self.backward = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: setattr(self, "backward", True))  # type: ignore[no-untyped-call]
        return logits


def took_gradients(attack: Attack, norm: str) -> bool:
    model, x = Counts().eval(), torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    attack(model, x, y, ThreatModel(norm, {"Linf": 0.3, "L2": 2, "L1": 9}[norm]), streams(2))
    return model.backward


def small(name: str) -> Foolbox:
    """One of foolbox's attacks with few steps."""
    stated: dict[str, object] = {"steps": 3} if name == "VirtualAdversarialAttack" else {}
    few = ("steps", "binary_search_steps", "repeats")
    params = dict(Foolbox(name, stated).parameters)
    return Foolbox(name, {key: min(value, 5) if key in few else value for key, value in params.items()})  # type: ignore[call-overload]


@pytest.mark.left_out
def test_foolboxes_kinds_are_what_its_attacks_ask_the_network_for() -> None:
    kinds: dict[str, str] = {}
    for name in names():
        try:
            attack = small(name)
        except BadInput as error:
            assert "needs the package" in str(error)  # noqa: PT017
            continue
        found = took_gradients(attack, attack._norms(attack._build())[0])
        kinds[name] = attack.info.kind
        assert found == (kinds[name] == "gradient"), name
        assert attack.info.is_black_box != found
    assert len(kinds) > 40


def test_kinds_of_the_table_are_what_they_ask_for() -> None:
    assert {name for name in ATTACKS if info_of(build_attack(name, {})).is_black_box} == {"square"}
    assert not took_gradients(build_attack("square", {}), "Linf")
    assert took_gradients(build_attack("fgsm", {}), "Linf")
    custom = info_of(build_attack("autoattack", {"version": "custom", "components": "square"}))
    assert custom.is_black_box
    assert not info_of(build_attack("autoattack", {})).is_black_box


def test_a_search_says_what_it_is_built_around() -> None:
    wrapped = Transfer(Bf16(PGD(steps=3)), source="net@01").info
    assert [layer.name for layer in wrapped.layers] == ["transfer", "bf16", "pgd"]
    assert (wrapped.kind, wrapped.tier, wrapped.effort) == ("transfer", TIERS[0], 3)


# attacks from outside


@dataclass(frozen=True)
class Mine:
    steps: int = 5
    restarts: int = 2

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return PGD(steps=self.steps)(model, x, y, threat, randomness)


@dataclass(frozen=True)
class Proud(Mine):
    """It describes itself as stronger than it is."""

    @property
    def info(self) -> AttackInfo:
        return PGD().info.model_copy(update={"id": "Proud()", "tier": "AutoAttack", "label": "the best"})


def test_an_attack_from_outside_is_foreign_and_known_by_its_repr() -> None:
    info = info_of(Mine())
    assert (info.id, info.kind, info.tier) == ("Mine(steps=5, restarts=2)", "foreign", "another attack")
    assert (info.label, info.effort, info.params) == ("Mine-5x2", 10, {"steps": 5, "restarts": 2})
    assert info.name.endswith("test_attack_info:Mine")
    assert not is_own(info.name)


def test_an_attack_from_outside_may_describe_itself_but_not_rank_itself() -> None:
    info = info_of(Proud())
    assert (info.id, info.label, info.kind) == ("Proud()", "the best", "gradient")
    assert (info.tier, info.name.rpartition(":")[2]) == ("another attack", "Proud")


# one file, one line

CORNERS = '''
"""Random corners of the ball."""

from dataclasses import dataclass

import torch

from satbench.attacks.base import Described, crafting, describe
from satbench.numerics.seeding import rows, uniform


@dataclass(frozen=True, repr=False)
class Corners(Described):
    """The first of `tries` random corners of the ball that is misclassified, else the last."""

    tries: int = 2

    @property
    def info(self):
        return describe(self, "corners", "decision", "another attack", f"Corners-{self.tries}")

    def __call__(self, model, x, y, threat, randomness):
        best, standing = x.clone(), torch.arange(len(x))
        for _ in range(self.tries):
            if not len(standing):
                break
            clean = x[standing]
            signs = torch.where(uniform(clean, rows(randomness, standing)) < 0.5, -1.0, 1.0)
            tried = threat.project(clean, clean + threat.eps * signs)
            with crafting(model), torch.no_grad():
                right = model(tried).argmax(1) == y[standing]
            best[standing] = tried
            standing = standing[right]
        return best
'''


@pytest.fixture
def corners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file among satbench's attacks, and its line in the table."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "corners.py").write_text(CORNERS, encoding="utf-8")
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path / "source")])
    monkeypatch.setitem(ATTACKS, "corners", "corners:Corners")
    yield
    sys.modules.pop("satbench.attacks.corners", None)


@pytest.mark.left_out
def test_an_attack_is_one_file_and_one_line(corners: None, tmp_path: Path) -> None:
    words = ["--model", "digits-relu", "--attack", "corners:tries=3", "--attack", "pgd", "--eps", "0.2", "--n", "60"]
    done = CliRunner().invoke(app, ["eval", *words, "--device", "cpu", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "Corners-3" in done.stdout
    run = evaluate("digits-relu", tmp_path / "run", ["corners:tries=3", "pgd"], eps=0.2, n=60, device="cpu")
    assert run.reused
    info = run.manifest.attacks[0]
    assert (info.id, info.name, info.params) == ("Corners(tries=3)", "corners", {"tries": 3})
    broken = run.records[run.records["attack"] == info.id]["broken"]
    assert 0 < broken.sum() < 60

    assert run.manifest.trust is not None
    (finding,) = (one for one in run.manifest.trust.findings if one.check == "records, black-box attack")
    assert "the search without gradients in Corners(tries=3) breaks" in finding.sentence

    seen = verify(run, device="cpu")
    assert (seen.faults, seen.skipped[1:]) == ([], [])
    assert seen.exact == seen.attacked > 0

    page = write_report(tmp_path / "report", StudyResults("T", (run,), {})).index.read_text()
    assert "Corners-3" in page
    board = build(summarise([run]))["digits-Linf-0.2.md"]
    assert "worst case of Corners-3, PGD-10" in board


# no code parses an id

SPELLED = re.compile(r"(PGD|AutoAttack|AutoAttackComponent|Cascade|Rapid|Foolbox|Adaptive|Bf16|Surrogate|Transfer)\(")


def test_nothing_but_the_migration_reads_an_id() -> None:
    parsers, spelled, users = set(), set(), set()
    for file in ROOT.rglob("*.py"):
        module = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and "ast" in {alias.name for alias in node.names}:
                parsers.add(module)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SPELLED.match(node.value):
                spelled.add(module)
            if isinstance(node, ast.ImportFrom) and node.module == "satbench.evaluation.migrate":
                users.add(module)
    assert parsers == {"evaluation/migrate.py", "evaluation/sources.py"}  # the latter reads import statements
    assert spelled == set()
    assert users == {"cli/migrate.py"}


def test_every_attack_of_satbench_describes_itself() -> None:
    """A class of an attack without an `info` of its own would be called foreign."""
    own = [build_attack(name, {}) for name in ATTACKS]
    own += [Bf16(PGD()), Surrogate(PGD()), Transfer(PGD(), source="a"), Foolbox("LinfPGD")]
    assert all(isinstance(attack, Described) and info_of(attack).kind != "foreign" for attack in own)
    assert replace(PGD(), steps=3).info != PGD().info
