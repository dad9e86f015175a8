"""An evaluation as a value: spelled in many ways, carried to another machine, and named by its content."""

import inspect
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner

from satbench import EvaluationSpec, evaluate
from satbench.attacks import PGD
from satbench.attacks.base import info_of
from satbench.cli import app
from satbench.cli.evaluate import command
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.evaluation.rebuild import spec_of
from satbench.evaluation.request import make_request
from satbench.numerics.threat import ThreatModel

FIELDS: dict[str, Any] = {
    "model": "digits-relu",
    "attacks": "pgd:steps=3,loss=margin",
    "threats": "Linf:8/255",
    "n": 20,
}


def digest(fields: Mapping[str, Any]) -> str:
    return make_request(EvaluationSpec(**fields)).spec.digest


SAME: dict[str, dict[str, Any]] = {
    "order of keys": dict(reversed(FIELDS.items())),
    "radius as a number": FIELDS | {"threats": [{"eps": 8 / 255, "norm": "Linf"}]},
    "threat as an object": FIELDS | {"threats": [ThreatModel("Linf", 8 / 255)] * 2},
    "defaults written out": FIELDS | {"seed": 0, "search": "folded", "trust": True, "split": None, "draws": None},
    "order of an attack's parameters": FIELDS | {"attacks": ["pgd:loss=margin,steps=3"]},
    "an attack's defaults written out": FIELDS | {"attacks": ["pgd:loss=margin,restarts=1,steps=3,init=uniform"]},
    "an attack's info": FIELDS | {"attacks": [info_of(PGD(steps=3, loss="margin"))]},
}
OTHER: dict[str, dict[str, Any]] = {
    "model": {"model": "digits-silu"},
    "checkpoint": {"checkpoint": Path("a.safetensors")},
    "source": {"source": "digits-silu"},
    "dataset": {"dataset": "mnist"},
    "split": {"split": "val"},
    "image_size": {"image_size": 8},
    "loader": {"loader": "torchvision"},
    "n": {"n": 21},
    "attacks": {"attacks": "pgd:steps=4,loss=margin"},
    "threats": {"threats": "Linf"},
    "seed": {"seed": 1},
    "search": {"search": "plain"},
    "batch_size": {"batch_size": 8},
    "draws": {"draws": 1},
    "threads": {"threads": 1},
    "save_examples": {"save_examples": True},
    "trust": {"trust": False},
    "name": {"name": "mine"},
    "group": {"group": "ours"},
}


@pytest.mark.parametrize("spelling", SAME)
def test_one_evaluation_has_one_digest_however_it_is_spelled(spelling: str) -> None:
    assert digest(SAME[spelling]) == digest(FIELDS)


def test_every_field_decides_the_digest() -> None:
    assert set(OTHER) == set(EvaluationSpec.model_fields)
    assert len({digest(FIELDS), *(digest(FIELDS | change) for change in OTHER.values())}) == 1 + len(OTHER)


class Later(EvaluationSpec):
    """The spec with a field that is added later."""

    crop: int | None = None


def test_a_new_field_renames_no_evaluation_that_leaves_it_out() -> None:
    assert make_request(Later(**FIELDS)).spec.digest == digest(FIELDS)
    assert make_request(Later(**FIELDS, crop=4)).spec.digest != digest(FIELDS)


def test_arguments_and_options_make_the_same_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = make_request("digits-relu", "pgd:loss=margin", "Linf", "8/255", 3, fields={"n": 20, "trust": False}).spec
    assert asked.digest == digest(FIELDS | {"trust": False})
    monkeypatch.chdir(tmp_path)
    words = [
        "eval",
        "--model",
        "digits-relu",
        "--attack",
        "pgd:loss=margin",
        "--steps",
        "3",
        "--n",
        "20",
        "--no-trust",
        "--device",
        "cpu",
    ]
    for threat in (["--eps", "8/255"], ["--threat", f"Linf:{8 / 255!r}"]):
        done = CliRunner().invoke(app, [*words, *threat])
        assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "reports" / "runs").iterdir()
    assert folder.name.endswith(f"-{asked.digest[:8]}")


def test_a_spec_goes_through_json_and_gives_the_bytes_of_the_call(tmp_path: Path) -> None:
    called = evaluate("digits-relu", tmp_path / "called", "pgd:loss=margin", eps="8/255", steps=3, n=20, device="cpu")
    asked = json.loads(make_request(EvaluationSpec(**FIELDS)).spec.model_dump_json())
    carried = evaluate(EvaluationSpec(**asked), tmp_path / "carried", device="cpu")
    assert (carried.path / "records.parquet").read_bytes() == (called.path / "records.parquet").read_bytes()


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "options", [{"search": "surrogate"}, {"search": "bf16"}, {"source": "digits-silu"}, {"attack": "rapid", "n": 8}]
)
def test_the_spec_of_a_run_repeats_it(options: dict[str, Any], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"attack": "pgd:steps=3", "eps": 0.2, "n": 20, "device": "cpu"}
    run = evaluate("digits-relu", tmp_path / "run", **settings | options)
    asked = spec_of(run.manifest)
    if "source" in options:
        assert asked.source is not None
        assert asked.source.startswith("cnn-small silu@")
        asked = asked.model_copy(update=options)
    again = evaluate(asked, tmp_path / "again", device="cpu")
    assert (again.path / "records.parquet").read_bytes() == (run.path / "records.parquet").read_bytes()
    assert evaluate(asked, run.path, device="cpu").reused


def test_no_more_than_a_dozen_parameters_are_not_fields() -> None:
    given = {name for name in inspect.signature(evaluate).parameters if name != "fields"}
    given |= set(inspect.signature(command).parameters) - {
        "ctx",
        "zoo",
        "offline",
        "quiet",
        "verbose",
        "as_json",
    }  # of the process and the terminal, not of what is measured
    beside = given - set(EvaluationSpec.model_fields)
    assert beside == {
        *("out", "attack", "threat", "norm", "eps", "steps", "restarts", "data_dir", "device", "command", "progress"),
    }
    assert set(EvaluationSpec.model_fields) - given == {"attacks", "threats"}, "the command takes every other field"


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"batchsize": 3}, "--batchsize 3: unknown field; did you mean batch_size"),
    "batch size": ({"batch_size": 0}, "--batch-size 0: give a whole number from 1"),
    "threads": ({"threads": 0}, "--threads 0"),
    "half an image": ({"n": 0.5}, r"--n 0\.5: give a whole number"),
    "search": ({"search": "fast"}, "--search 'fast': Input should be 'folded'"),
    "radius": ({"threats": "Linf:8"}, "did you mean 8/255"),
    "norm": ({"threats": "L3:1"}, "unknown norm 'L3'; did you mean L2"),
    "threat": ({"threats": [{"norm": "L2"}]}, "is not a norm and an eps; write Linf:8/255"),
    "no attack": ({"attacks": []}, "no attack is given; name one"),
    "no threat": ({"threats": []}, "no threat is given; name one"),
    "attack": ({"attacks": ["pgdd"]}, "unknown attack 'pgdd'; did you mean pgd"),
    "parameter": ({"attacks": ["pgd:step=3"]}, "unknown parameter 'step'"),
    "info of a foreign attack": (
        {"attacks": [info_of(PGD()).model_copy(update={"name": "mine:attack", "id": "Mine()"})]},
        r"attack Mine\(\) is not satbench's own; name it as package\.module:callable",
    ),
    "no model": ({"model": None}, "names no model"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_spec_is_refused_in_one_line_before_a_network_is_loaded(case: str, tmp_path: Path) -> None:
    change, hint = BAD[case]
    with pytest.raises(BadInput, match=hint) as refusal:
        evaluate(EvaluationSpec(**{"model": "nowhere/run"} | change), tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_settings_beside_a_spec_are_refused(tmp_path: Path) -> None:
    for settings in ({"eps": 0.1}, {"n": 3}, {"threat": "Linf:0.1"}):
        with pytest.raises(BadInput, match="beside a spec"):
            evaluate(EvaluationSpec(**FIELDS), tmp_path, **settings)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="give attack and threat"):
        evaluate("digits-relu", tmp_path, attacks=["pgd"])


def test_images_and_networks_may_stand_for_their_names(tmp_path: Path) -> None:
    images = load_images("digits", "test")
    asked = make_request("digits-relu", "fgsm", fields={"dataset": images, "n": 5})
    assert asked.images is images
    assert (asked.spec.dataset, asked.spec.n) == ("digits", 5)
    run = evaluate("digits-relu", tmp_path, "fgsm", dataset=images, n=5, device="cpu")
    assert len(run.records) == 5


class Countable(nn.Sequential):
    """A network that Python takes for false."""

    def __len__(self) -> int:
        return 0


def test_a_network_without_a_length_is_a_network(tmp_path: Path) -> None:
    network = Countable(nn.Flatten(), nn.Linear(64, 10))
    run = evaluate(network, tmp_path, "fgsm", eps=0.1, dataset="digits", n=5, trust=False, device="cpu")
    assert len(run.records) == 5


def test_reading_a_spec_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from satbench.specs.evaluation import EvaluationSpec as E; E(model='a')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
