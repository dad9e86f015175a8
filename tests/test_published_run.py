"""What is given to others of a run: its commands, its model card, and its file for a leaderboard."""

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from huggingface_hub import ModelCard
from torch import nn
from typer.testing import CliRunner

from satbench import evaluate
from satbench.attacks.base import info_of
from satbench.cli import app
from satbench.data import load_images
from satbench.evaluation import sweep
from satbench.evaluation.pictures import examples_of
from satbench.models.weights import model_digest
from satbench.recipes import named, recipe
from satbench.reporting.repeat import eval_command, load_statement, train_command
from satbench.reporting.run_details import details_of
from satbench.reporting.run_file import Entry, encoded, file_name, read_entry
from satbench.results.schema import ModelInfo
from satbench.results.store import Run, read_run
from satbench.specs.attack import ids
from satbench.zoo import load
from satbench.zoo.loading import weights_file

N = 40


def call(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    words = ["--attack", "fgsm", "--attack", "pgd:steps=3,restarts=2", "--eps", "0.1,0.2", "--n", N, "--save-examples"]
    done = call("eval", "--model", "digits-silu", *words, "--device", "cpu", "--out", out)
    assert done.exit_code == 0, done.output
    return read_run(out)


@pytest.fixture(scope="module")
def entry_file(run: Run) -> Path:
    path = run.path.parent / file_name(Entry(run))
    path.write_text(encoded(Entry(run)))
    return path


# commands


def test_the_command_of_a_run_finds_it_finished(run: Run) -> None:
    words = shlex.split(eval_command(run.manifest))
    assert words[:2] == ["satbench", "eval"]
    done = call(*words[1:], "--device", "cpu", "--out", run.path)
    assert "nothing was computed" in done.output


@pytest.mark.parametrize(
    "text",
    [
        "fgsm",
        "pgd:steps=7,loss=margin,restarts=2,momentum=0.75,early_stop=false",
        "pgd:steps=4,step_size=2/255,keep=last,patience=3",
        "sat-pgd:steps=10",
        "autoattack",
        "autoattack:version=rand",
        "apgd-t",
        "square",
        "cascade",
        "rapid",
        "foolbox:LinfDeepFoolAttack,steps=20",
    ],
)
def test_every_attack_is_spelled_as_the_command_line_reads_it(text: str, run: Run) -> None:
    (attack,) = sweep.attacks([text], None, None)
    words = shlex.split(eval_command(run.manifest.model_copy(update={"attacks": [info_of(attack)]})))
    (again,) = sweep.attacks([words[words.index("--attack") + 1]], None, None)
    assert info_of(again).id == info_of(attack).id


@pytest.mark.parametrize("values", [{}, {"epochs": 3, "optimizer.lr": 0.05}, {"method": "trades", "method.beta": 3.0}])
def test_the_command_of_a_training_makes_its_config(values: dict[str, object]) -> None:
    config = named(recipe("digits-sat").with_values({"activation": "gelu", "seed": 4, **values}))
    info = ModelInfo(ref="x", digest="d", label="l", recipe=config.recipe, activation="gelu", seed=4)
    words = shlex.split(train_command(info) or "")
    assert words[:3] == ["satbench", "train", "digits-sat"]
    given = {"activation": words[words.index("--activation") + 1], "seed": words[words.index("--seed") + 1]}
    given |= dict(words[place + 1].split("=", 1) for place, word in enumerate(words) if word == "--set")
    assert named(recipe(words[2]).with_values(given)) == config


def test_a_network_of_others_has_no_command_of_a_training(run: Run) -> None:
    assert train_command(run.manifest.model.model_copy(update={"recipe": None})) is None


def test_other_weights_are_in_the_commands_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_with_weights.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), tmp_path / "mine.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = "--checkpoint mine.pt --dataset digits --attack fgsm --eps 0.01 --n 20 --no-trust --device cpu --out run"
    assert call("eval", "--model", "mine_with_weights:build", *words.split()).exit_code == 0
    run = read_run("run")
    again = call(*shlex.split(eval_command(run.manifest))[1:], "--device", "cpu", "--out", "run")
    assert "nothing was computed" in again.output
    card = call("card", "run").stdout
    assert eval_command(run.manifest) in card
    namespace: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], namespace)  # type: ignore[index]
    assert model_digest(namespace["model"]) == run.manifest.model.digest
    monkeypatch.setenv("SATBENCH_PLUGINS", "mine_with_weights")
    assert call("verify", "run").exit_code == 0
    assert call("verify", "run", "--model", "mine_with_weights:build", "--checkpoint", "mine.pt").exit_code == 0
    other = call("verify", "run", "--model", "mine_with_weights:build")
    assert (other.exit_code, "--checkpoint" in other.output) == (2, True)


def test_a_network_from_python_has_no_command(tmp_path: Path) -> None:
    run = evaluate(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        dataset="digits",
        attack="fgsm",
        eps=0.01,
        n=8,
        trust=False,
        out=tmp_path / "run",
    )
    assert (eval_command(run.manifest), load_statement(run.manifest.model)) == ("", "")
    card = call("card", run.path).stdout
    assert "satbench eval" not in card
    assert "load_model" not in card
    assert "given from Python" in call("verify", run.path).output


# model cards


def test_a_card_has_figures_that_the_hub_reads(run: Run) -> None:
    done = call("card", run.path)
    assert done.exit_code == 0, done.output
    card = ModelCard(done.stdout)
    assert (card.data.library_name, card.data.license, card.data.datasets) == ("satbench", "mit", ["digits"])
    assert {"adversarial-robustness", "Linf-robust"} <= set(card.data.tags or ())
    found = {one.metric_name: one for one in card.data.eval_results or ()}
    assert {one.dataset_name for one in found.values()} == {"digits/test"}
    first = run.records.drop_duplicates("sample_id")
    clean = int((first["clean_prediction"] == first["label"]).sum())
    assert found["clean accuracy"].metric_value == clean / N
    fgsm = next(info for info in run.manifest.attacks if info.label == "FGSM")
    for eps in (0.1, 0.2):
        here = run.records[(run.records["attack"] == fgsm.id) & (run.records["eps"] == eps)]
        robust = found[f"robust accuracy at Linf {eps:g} under FGSM"]
        assert robust.metric_value == (N - int(here["broken"].sum())) / N
        low, high = (robust.metric_args or {})["interval"]
        assert low <= robust.metric_value <= high
    for piece in (run.manifest.seal, run.manifest.model.digest, eval_command(run.manifest), "# digits-silu"):
        assert piece in card.text


def test_a_card_of_a_network_without_runs_says_so_and_is_written_where_asked(tmp_path: Path) -> None:
    done = call("card", "digits-relu", "--out", tmp_path / "README.md")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "README.md").read_text()
    assert ModelCard(text).data.eval_results is None
    assert "Nothing was measured for this card." in text
    assert "- architecture: `cnn-small`" in text
    assert call("card", "digits-relu", "--out", tmp_path / "README.md").exit_code == 0
    (tmp_path / "README.md").write_text("# Of a project\n")
    refused = call("card", "digits-relu", "--out", tmp_path / "README.md")
    assert (refused.exit_code, "is no model card of satbench" in refused.stderr) == (2, True)
    assert (tmp_path / "README.md").read_text() == "# Of a project\n"


def test_a_card_calls_the_network_by_its_name_where_a_run_had_a_path(tmp_path: Path) -> None:
    own = load("digits-relu")
    file = weights_file(own.info)
    assert file is not None
    words = "--dataset digits --attack fgsm --eps 0.01 --n 20 --no-trust --device cpu"
    assert call("eval", "--model", file, *words.split(), "--out", tmp_path / "run").exit_code == 0
    card = call("card", "digits-relu", "--measured", tmp_path / "run").stdout
    assert "satbench eval --model digits-relu " in card
    assert str(file) not in card
    assert {f"- training config: `{own.info.config}`", f"- training images: `{own.train_digest}`"} <= set(
        card.splitlines()
    )


def test_a_card_with_a_run_of_another_network_is_refused(run: Run) -> None:
    done = call("card", "digits-relu", "--measured", run.path)
    assert (done.exit_code, "measured another network than digits-relu" in done.stderr) == (2, True)


# the file of a leaderboard


def test_the_file_of_a_run_is_verified_with_its_stored_examples(run: Run, entry_file: Path) -> None:
    done = call("verify", run.path, "--row", entry_file, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"{entry_file}: says what the run says" in done.stdout


def test_a_file_with_better_figures_and_a_digest_of_its_own_is_a_fault(
    run: Run, entry_file: Path, tmp_path: Path
) -> None:
    better = run.records.assign(broken=False)
    forged = tmp_path / "forged.json"
    forged.write_text(encoded(Entry(Run(run.path, run.manifest, better))))
    assert read_entry(forged).run is not None
    done = call("verify", run.path, "--row", forged, "--device", "cpu", "--sample", "1")
    assert done.exit_code == 1
    assert "FAULT" in done.stderr
    assert "column broken differs in" in done.stderr


@pytest.mark.left_out
def test_pictures_of_another_image_are_a_fault(run: Run, tmp_path: Path) -> None:
    pictures = examples_of(run)
    honest, forged = (tmp_path / name for name in ("honest.json", "forged.json"))
    honest.write_text(encoded(Entry(run, examples=pictures)))
    other = pictures[0].model_copy(update={"image": pictures[1].image})
    forged.write_text(encoded(Entry(run, examples=(other, *pictures[1:]))))
    words = ("verify", run.path, "--device", "cpu", "--sample", "1", "--row")
    assert call(*words, honest).exit_code == 0
    done = call(*words, forged)
    assert (done.exit_code, "its pictures are not those of the run" in done.stderr) == (1, True)


def test_pictures_are_compared_with_images_that_have_moved(tmp_path: Path) -> None:
    images = load_images("digits", "test").head(20)
    (tmp_path / "before").mkdir()
    np.savez(tmp_path / "before" / "rows.npz", x=images.x.numpy(), y=images.y.numpy())
    settings: dict[str, Any] = {"attack": "fgsm", "eps": 0.3, "trust": False, "save_examples": True, "device": "cpu"}
    run = evaluate("digits-silu", tmp_path / "run", dataset=f"npz:{tmp_path / 'before' / 'rows.npz'}", **settings)
    row = tmp_path / "row.json"
    row.write_text(encoded(Entry(run, examples=examples_of(run, tmp_path / "before"))))
    (tmp_path / "before").rename(tmp_path / "after")
    where = ("--dataset", f"npz:{tmp_path / 'after' / 'rows.npz'}")
    done = call("verify", run.path, "--device", "cpu", "--sample", "1", "--row", row, *where)
    assert (done.exit_code, f"{row}: says what the run says" in done.stdout) == (0, True)


def test_a_card_of_a_page_shows_what_the_records_say(run: Run, entry_file: Path) -> None:
    (detail,) = details_of({entry_file.name: read_entry(entry_file)})
    images = sorted(run.records["sample_id"].unique())
    assert detail.images == hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16]
    assert detail.outcomes is not None
    assert len(detail.outcomes) == 4
    for (threat, attack), outcomes in detail.outcomes.items():
        eps = float(threat.removeprefix("Linf "))
        here = run.records[(run.records["attack"] == attack) & (run.records["eps"] == eps)].set_index("sample_id")
        assert list(outcomes) == (~here["broken"]).loc[images].tolist()
    worst = detail.standing("Linf 0.2", ids(run.manifest.attacks))
    assert detail.classes_under == "Linf 0.2, worst case"
    assert worst is not None
    assert sum(one.robust for one in detail.classes) == sum(one is True for one in worst)
    assert sum(one.n for one in detail.classes) == N
    trust = run.manifest.trust
    assert trust is not None
    assert len(detail.evidence) == len(trust.findings)
    assert ("run, seal", run.manifest.seal) in detail.provenance
    assert detail.commands[-1] == eval_command(run.manifest)
    assert detail.downloads == ((f"run file {entry_file.name}", f"runs/{entry_file.name}"),)


@pytest.mark.left_out
def test_the_examples_of_a_run_are_on_its_card(run: Run, tmp_path: Path) -> None:
    board = tmp_path / "boards"
    assert call("leaderboard", "init", board).exit_code == 0
    bare = call("leaderboard", "add", run.path, "--dir", board)
    (file,) = (board / "runs").iterdir()
    assert bare.stdout == f"{file}\n"
    assert read_entry(file).examples == ()
    added = call("leaderboard", "add", run.path, "--examples", "--dir", board)
    assert (added.stdout, added.stderr) == (f"{file}\n", f"{file}: is there already; its examples are added\n")
    for words in (["--examples"], []):
        again = call("leaderboard", "add", run.path, *words, "--dir", board)
        assert (again.stdout, again.stderr) == ("", f"{file}: is there already\n")
    entry = read_entry(file)
    expected = examples_of(run)
    assert entry.examples == expected
    assert len({one.sample for one in expected}) == len(expected) > 0
    (detail,) = details_of({file.name: entry})
    assert detail.examples == expected
    assert call("leaderboard", "build", "--dir", board).exit_code == 0
    page = (board / "digits.html").read_text()
    assert all(png in page for one in expected for png in (one.image, one.perturbation, one.attacked))
    file.write_text(file.read_text().replace(expected[0].attacked, expected[0].image, 1))
    changed = call("leaderboard", "check", "--dir", board)
    assert (changed.exit_code, "does not match its digest: it was changed" in changed.stderr) == (2, True)
