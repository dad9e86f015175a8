"""Runs and summaries of the schema before become those of today, and their records stay as they are."""

import hashlib
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from refusals import refusal
from reporting.made import old_summary, rows_in
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from satbench import evaluate
from satbench.attacks import PGD, build_attack
from satbench.attacks.base import info_of
from satbench.attacks.rapid import Rapid
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.evaluation.continued import Continued
from satbench.evaluation.executor import stages_as_run
from satbench.evaluation.migrate import UNCHECKED, attack_of, migrate, search_of
from satbench.evaluation.parts import Work, work_name
from satbench.evaluation.rebuild import rebuild
from satbench.evaluation.resume import identity
from satbench.evaluation.verify import verify
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.reporting.summary import summarise
from satbench.results.schema import SearchInfo
from satbench.results.store import Outdated, Run, read_run

TABLES = ("records.parquet", "timing.parquet", "examples.parquet")


@dataclass(frozen=True)
class Mine:
    steps: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return PGD(steps=self.steps)(model, x, y, threat, randomness)


def name_parts_as_before(run: Run) -> None:
    """Of schema 3: the search was part of the name as a sentence, and answers to clean images were not stored."""
    said = run.manifest
    for info, threat in itertools.product(said.attacks, said.threats):
        attack = rebuild(info)
        stages = (info,) if attack is None else map(info_of, stages_as_run(attack, "Transfer" in info.id))
        for position, stage in enumerate(stages):
            decisive = {**identity(said), "attack": stage.id, "position": position, "seed": said.seed, "device": "cpu"}
            decisive |= {"threat": repr(ThreatModel(threat.norm, threat.eps)), "search": said.search.note}
            before = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:20]
            ball = ThreatModel(threat.norm, threat.eps)
            now = work_name(identity(said), stage.id, position, ball, said.seed, said.search.identity, "cpu")
            if (run.path / "parts" / now).is_dir():
                Work(run.path, now, examples=False).move(before)


def sealed(folder: Path, manifest: dict[str, Any]) -> str:
    """The seal of schema 3: SHA-256 of the manifest without it, and of the tables' digests."""
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    for name in TABLES:
        file = folder / name
        of_file = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "absent"
        digest.update(f"\n{name} {of_file}".encode())
    return digest.hexdigest()


def downgrade(run: Run, **changes: Any) -> None:
    """Make a run what satbench wrote at schema 3: attacks by their reprs alone, the search as a sentence."""
    raw = json.loads((run.path / "manifest.json").read_text())
    name_parts_as_before(run)
    raw |= {"schema_version": 3, "attacks": [one["id"] for one in raw["attacks"]], "search": raw["search"]["note"]}
    raw |= changes
    raw["seal"] = sealed(run.path, raw)
    (run.path / "manifest.json").write_text(json.dumps(raw, indent=2))


def measured(out: Path, **options: Any) -> Run:
    """A run without what schema 3 did not store."""
    settings: dict[str, Any] = {"attack": "pgd", "eps": 0.2, "n": 24, "device": "cpu", "trust": False}
    run = evaluate("digits-relu", out, **settings | options)
    said = run.manifest
    clean = out / "parts" / work_name(identity(said), "", 0, None, said.seed, said.search.identity, "cpu")
    shutil.rmtree(clean, ignore_errors=run.reused)
    return run


def call(*words: str) -> Result:
    return CliRunner().invoke(app, words)


CASES: dict[str, dict[str, Any]] = {
    "parameters": {"attack": ["fgsm", "sat-pgd:steps=3", "pgd:steps=4,restarts=2,momentum=0.5"], "save_examples": True},
    "ensemble": {"attack": "autoattack:version=custom,components=apgd-ce+apgd-dlr", "n": 6, "eps": 0.9},
    "foolbox": {"attack": "foolbox:LinfPGD,steps=4"},
    "bf16": {"search": "bf16"},
    "surrogate ensemble": {
        "search": "surrogate",
        "attack": "autoattack:version=custom,components=apgd-ce+apgd-dlr",
        "n": 6,
        "eps": 0.9,
    },
    "transfer": {"source": "digits-silu", "attack": ["pgd:steps=3", "rapid"]},
    "from outside": {"attack": Mine(3)},
    "named": {"attack": "satbench.attacks.gradient:fgsm:loss=margin"},
}


@pytest.mark.one_in(8)
@pytest.mark.parametrize("case", CASES)
def test_a_run_of_the_schema_before_becomes_what_it_would_be_today(case: str, tmp_path: Path) -> None:
    run = measured(tmp_path / "run", **CASES[case])
    tables = {name: (run.path / name).read_bytes() for name in TABLES if (run.path / name).is_file()}
    parts = {file: file.read_bytes() for file in run.path.glob("parts/*/*.parquet")}
    downgrade(run)
    assert not any(file.is_file() for file in parts)
    assert [folder for folder, _ in migrate(tmp_path)] == [run.path]
    assert {file: file.read_bytes() for file in run.path.glob("parts/*/*.parquet")} == parts
    found = read_run(run.path)
    drop = {"name"} if case == "from outside" else set()  # its module was not part of the repr
    dumped = [[one.model_dump(exclude=drop) for one in each.manifest.attacks] for each in (found, run)]
    assert dumped[0] == dumped[1]
    assert found.manifest.model_dump(exclude={"attacks", "seal"}) == run.manifest.model_dump(
        exclude={"attacks", "seal"}
    )
    assert {name: (run.path / name).read_bytes() for name in tables} == tables
    if case not in ("from outside", "named", "transfer"):
        assert verify(found, device="cpu").faults == []
        assert measured(run.path, **CASES[case]).reused


SENTENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "the network as it is": ("PGD(steps=1)", {"form": "plain", "copied": False}),
    "folded 8 batch norms, channels last, float32": ("PGD(steps=1)", {"folded": 8, "channels_last": True}),
    "folded 1 batch norm, for a faster form failed (RuntimeError: channels last), float32": ("PGD()", {"folded": 1}),
    "a plain copy, bf16 with logits off by 0.3%": ("Bf16(attack=PGD())", {"form": "bf16", "precision": "bf16"}),
    "channels last, float32, surrogate derivative of ReLU": (
        "Transfer(attack=Surrogate(attack=PGD()), source='a@0')",
        {"form": "surrogate", "channels_last": True},
    ),
    "the model itself, for no copy of it would do (other logits)": ("PGD()", {"copied": False}),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_the_sentence_about_a_search_becomes_fields(sentence: str) -> None:
    attack, wanted = SENTENCES[sentence]
    assert search_of(sentence, [attack]) == SearchInfo(**{"form": "folded", "note": sentence} | wanted)


class Noisy(nn.Module):
    """Draws random numbers, so attacks run without early stop."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits + 0.5 * logits.new_empty(logits.shape).normal_()


@pytest.mark.left_out
def test_stages_that_were_not_needed_are_named_as_they_would_have_run(tmp_path: Path) -> None:
    from satbench.zoo import load

    network = Noisy(load("digits-relu").model)
    settings: dict[str, Any] = {"eps": 0.9, "n": 4, "device": "cpu", "trust": False, "dataset": "digits", "draws": 3}
    run = evaluate(network, tmp_path / "run", Continued(Rapid(), "rand"), **settings)
    stages = [one.id for one in run.manifest.attacks[0].stages]
    assert (len(stages), stages[0]) == (3, "Rapid(early_stop=False)")
    assert set(run.records["stage"]) <= {"", stages[0]}  # the other two had nothing to do
    downgrade(run)
    list(migrate(run.path))
    assert [one.id for one in read_run(run.path).manifest.attacks[0].stages] == stages


def test_an_old_folder_is_named_with_the_command_and_left_as_it_is(tmp_path: Path) -> None:
    run = measured(tmp_path / "run")
    downgrade(run)
    before = (run.path / "manifest.json").read_bytes()
    wanted = (
        f"satbench: {run.path} was written by an earlier satbench (schema 3); run `satbench migrate {run.path}` once\n"
    )
    with pytest.raises(Outdated):
        read_run(run.path)
    folder = str(run.path)
    assert call("leaderboard", "init", str(tmp_path / "boards")).exit_code == 0
    for words in (
        ("report", folder, "--out", str(tmp_path / "report")),
        ("verify", folder),
        ("leaderboard", "add", folder, "--dir", str(tmp_path / "boards")),
        ("eval", "--model", "digits-relu", "--attack", "fgsm", "--eps", "0.2", "--device", "cpu", "--out", folder),
    ):
        done = call(*words)
        assert (done.exit_code, refusal(done.stderr) + "\n") == (2, wanted), words
    assert (run.path / "manifest.json").read_bytes() == before
    done = call("migrate", folder)
    assert done.exit_code == 0, done.output
    seal = read_run(run.path).manifest.seal
    assert done.stdout == f"{folder}: schema 3 to 4, seal {json.loads(before)['seal'][:16]} to {seal[:16]}\n"
    assert call("migrate", folder).stdout == f"{folder}: is of schema 4 already\n"


def test_what_cannot_be_migrated_is_refused(tmp_path: Path) -> None:
    run = measured(tmp_path / "run")
    downgrade(run)
    edited = shutil.copytree(run.path, tmp_path / "edited")
    raw = json.loads((edited / "manifest.json").read_text())
    (edited / "manifest.json").write_text(json.dumps(raw | {"attacks": ["Rapid()"]}))
    older = shutil.copytree(run.path, tmp_path / "older")
    (older / "manifest.json").write_text(json.dumps(raw | {"schema_version": 2}))
    empty, summary = tmp_path / "empty", tmp_path / "runs.json"
    empty.mkdir()
    summary.write_text('{"schema_version": 9, "rows": []}')
    for path, message in (
        (edited, "does not match its seal"),
        (older, "schema 2, which cannot be migrated"),
        (empty, "no run in"),
        (tmp_path / "nowhere", "no run in"),
        (summary, "schema 9, which cannot be migrated"),
    ):
        done = call("migrate", str(path))
        assert done.exit_code == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_summary_of_an_earlier_version_has_the_rows_of_today(version: int, tmp_path: Path) -> None:
    rows = summarise([measured(tmp_path / "run", attack=["pgd:steps=3", "fgsm"])])
    path = tmp_path / "runs.json"
    raw = old_summary(rows, version)
    assert len(raw["attacks"]) == 2
    if version == 2:
        del raw["attacks"]
    path.write_text(json.dumps(raw))
    said = f"schema {version} to 5, 1 files in {tmp_path / 'runs'}" + ("" if version == 4 else f"; {UNCHECKED}")
    assert list(migrate(path)) == [(path, said)]
    assert not path.exists()
    assert rows_in(tmp_path / "runs") == rows


def test_a_summary_with_a_digest_is_of_no_earlier_version(tmp_path: Path) -> None:
    """An edited row is not given a new digest because the file says that it is of an earlier version."""
    path = tmp_path / "runs.json"
    raw = old_summary([])
    for version in (1, 2, 3):
        path.write_text(json.dumps(raw | {"schema_version": version}))
        with pytest.raises(BadInput, match=f"is of schema {version}, which has no digest"):
            list(migrate(path))


def test_an_edited_summary_is_not_migrated(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    raw = old_summary(summarise([measured(tmp_path / "run", n=8)]))
    raw["rows"][0]["robust"] = 0
    path.write_text(json.dumps(raw))
    with pytest.raises(BadInput, match="does not match its digest"):
        list(migrate(path))
    assert path.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("damage", "message"), [
    (lambda raw: raw["attacks"].pop(), "row .*'attacks'.*is not in the list of attacks"),
    (lambda raw: raw["attacks"][0].pop("kind"), "list of attacks"),
    (lambda raw: raw.update(attacks={}), "list of attacks: give a list"),
    (lambda raw: raw["rows"][0].update(attacks=[["x"]]), "is not in the list of attacks"),
])  # fmt: skip
def test_a_summary_whose_attacks_are_missing_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    raw = old_summary(summarise([measured(tmp_path / "run", n=8)]), 3)
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(BadInput, match=message) as refusal:
        list(migrate(path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "PGD(steps=10",
        "PGD(steps=0)",
        "PGD(steps=print(1))",
        "PGD(10)",
        "AutoAttack(version='standard', components='')",
        "__import__('os').system('true')",
        "Adaptive(attack='os:system', command='true')",
        "Bf16(attack=Mine())",
        "Bf16(attack='PGD()')",
        "Transfer()",
        "lambda: 0",
        "",
        "(" * 3000,
    ],
)
def test_a_repr_that_is_none_of_satbenchs_is_foreign(text: str) -> None:
    info = info_of(attack_of(text))
    assert info.id == text
    inner = list(info.layers)[-1]
    assert (inner.kind, inner.tier) == ("foreign", "another attack")


def test_a_repr_of_satbenchs_is_the_attack() -> None:
    for attack in (PGD(), Rapid(), build_attack("cascade", {}), build_attack("foolbox:LinfPGD", {})):
        assert attack_of(repr(attack)) == attack
