"""Everything of the user's own by `package.module:callable`: it works, is recorded, and no result file imports it."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import own_code
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import contents, tiny
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from typer.testing import CliRunner

from satbench import evaluate, load_model, train, verify
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.plugins import PLUGINS, SOCKETS, allowed, check_allowed, spelled
from satbench.data import as_images, load_images, training_splits
from satbench.models import ModelSpec, build_model
from satbench.models.weights import Provenance, load_model_file, save_model
from satbench.recipes import recipe
from satbench.specs.study import Study
from satbench.study import jobs_of, run_study
from satbench.study.folder import StudyFolder
from satbench.study.worker import work
from satbench.training.state import STATE

TESTS = Path(__file__).parent
OWN = {
    "recipe": "own_code:recipe:epochs=2",
    "model": "own_code:net:width=3,norm=none",
    "activation": "own_code:Swish:beta=1/2",
    "method": "own_code:Counting:scale=0.5",
    "augmentation": "own_code:brighten:most=0.1",
    "evaluator": "own_code:Confidence:scale=0.5",
    "data set": "own_code:data:n=48",
    "network": "own_code:plain_net:width=5,activation=silu",
    "attack": "own_code:sign:steps=2",
}
OPTIONS = [OWN["recipe"], "--model", OWN["model"], "--activation", OWN["activation"], "--method", OWN["method"]]
OPTIONS += ["--dataset", OWN["data set"], "--set", f"augment={OWN['augmentation']}", "--device", "cpu"]
OPTIONS += ["--set", f"measure.evaluators=clean+pgd+{OWN['evaluator']}"]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, "")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of which everything is the user's own."""
    out = tmp_path_factory.mktemp("own") / "run"
    done = CliRunner().invoke(app, ["train", *OPTIONS, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


def stop(done: int, total: int, words: str) -> None:
    if done > total / 2 + 1:
        raise KeyboardInterrupt


def test_every_socket_is_shown_with_its_signature_and_has_an_example_here() -> None:
    assert list(OWN) == list(SOCKETS)
    shown = CliRunner().invoke(app, ["plugins"]).output
    for socket in SOCKETS.values():
        assert f"{socket.command} {socket.option}" in shown
        assert socket.signature in shown
    assert PLUGINS in shown


# training


def test_a_run_records_its_callables_and_their_arguments(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())["config"]
    assert config["model"] == {"name": "own_code:net", "params": {"width": 3, "norm": "none"}}
    assert config["method"] == {"name": "own_code:Counting", "params": {"scale": 0.5}}
    assert config["activation"] == "own_code:Swish:beta=0.5"
    assert (config["dataset"], config["augment"]) == (OWN["data set"], OWN["augmentation"])
    assert config["measure"]["evaluators"] == ["clean", "pgd", OWN["evaluator"]]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(1 / 6 <= row["val_confidence"] <= 0.5 for row in rows)
    model, origin = load_model_file_allowed(run)
    assert isinstance(origin, Provenance)
    assert (model.spec.architecture, model.spec.activation) == ("own_code:net", "own_code:Swish:beta=0.5")
    assert (origin.method, origin.dataset) == ("own_code:Counting", OWN["data set"])
    assert [type(one).__name__ for one in model.net] == ["Conv2d", "Identity", "Swish", "Flatten", "Linear"]
    assert model.net[2].beta == 0.5


def load_model_file_allowed(run: Path) -> tuple[Any, Any]:
    os.environ[PLUGINS] = "own_code"  # the fixture puts it back
    return load_model_file(run / "best.safetensors")


def test_an_interrupted_run_continues_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    settings = recipe(str(run / "config.json"))
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "cut", "cpu", progress=stop)
    seen = load_file(tmp_path / "cut" / STATE)["method.seen"]
    assert seen.sum() == 2 * 16  # the first epoch: two whole batches of 40 images
    train(settings, tmp_path / "cut", "cpu")
    found = contents(tmp_path / "cut")
    assert found == {name: content for name, content in contents(run).items() if name in found}


def test_every_part_of_ones_own_decides_the_weights(run: Path, tmp_path: Path) -> None:
    changes = {
        "method.scale": 1,
        "augment": "own_code:brighten",
        "activation": "own_code:Swish",
        "dataset": "own_code:data",
    }
    for key, value in changes.items():
        train(recipe(str(run / "config.json")).with_values({key: value}), tmp_path / key, "cpu")
        assert contents(tmp_path / key)["last.safetensors"] != contents(run)["last.safetensors"], key


def test_awp_wraps_a_method_of_ones_own(tmp_path: Path) -> None:
    config = recipe(OWN["recipe"]).with_values({"method": "awp:method=own_code:Counting,scale=0.5"})
    assert "own_code:Counting" in config.own_code
    train(config, tmp_path / "run", "cpu")


# measuring


def test_the_run_is_measured_only_where_its_code_may_be_imported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advice = "names the code own_code:net, which is not satbench's; if you trust it, set SATBENCH_PLUGINS=own_code"
    with pytest.raises(BadInput, match=advice):
        evaluate(str(run), attack="fgsm", eps=0.1, out=tmp_path / "out", device="cpu")
    monkeypatch.setenv(PLUGINS, "else, own_code")
    manifest = evaluate(str(run), attack="fgsm", eps=0.1, out=tmp_path / "out", device="cpu").manifest
    assert (manifest.data.name, manifest.data.n) == (OWN["data set"], 12)
    assert manifest.model.code
    assert (manifest.model.activation, manifest.model.method) == ("own_code:Swish:beta=0.5", "own_code:Counting")


def test_a_network_with_arguments_and_an_attack_are_measured_and_verified(tmp_path: Path) -> None:
    torch.manual_seed(0)
    measured = evaluate(
        OWN["network"], attack=OWN["attack"], eps=0.1, dataset="own_code:data", split="test", out=tmp_path, device="cpu"
    )
    assert measured.manifest.model.ref == OWN["network"]
    assert measured.manifest.attacks[0].params == {"steps": 2}
    network = load_model(OWN["network"])
    assert [type(one).__name__ for one in network] == ["Flatten", "Linear", "SiLU", "Linear"]
    assert network[1].out_features == 5


@pytest.mark.parametrize("form", ["arrays", "tensors", "loader"])
def test_a_function_may_give_arrays_tensors_or_a_loader(form: str) -> None:
    name = f"own_code:data:form={form}"
    reference = {split: load_images("own_code:data", split) for split in ("train", "val", "test")}
    for split, images in reference.items():
        found = load_images(name, split)
        assert found.hashes == images.hashes
        assert (found.y == images.y).all()
    assert {len(reference["train"]), len(reference["val"]), len(reference["test"])} == {51, 9, 12}
    assert load_images("own_code:data").ids == reference["test"].ids
    assert len(training_splits("own_code:data:n=30", val=6, train_n=10)[0]) == 10


# arrays from Python


class Pairs:
    """As somebody's own dataset is, without torch."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.x[i], int(self.y[i])


class Stream(IterableDataset[tuple[Any, Any]]):
    """A dataset without length or index."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return zip(self.x, self.y, strict=True)


@pytest.mark.left_out
def test_python_takes_images_in_every_usual_form(tmp_path: Path) -> None:
    x, y = own_code.rows(12)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    batches = [(tensors[0][i : i + 5], tensors[1][i : i + 5]) for i in range(0, 12, 5)]
    forms: dict[str, Any] = {
        "arrays": (x, y),
        "channels last": (x.transpose(0, 2, 3, 1), y),
        "tensors": tensors,
        "tensor dataset": TensorDataset(*tensors),
        "loader": DataLoader(TensorDataset(*tensors), batch_size=5, shuffle=True),
        "dataset": Pairs(x, y),
        "batches": iter(batches),
        "list of batches": batches,
        "list of both": [x, y],
        "list of items": [*zip(x, y, strict=True)],
        "stream": Stream(x, y),
        "loader of a stream": DataLoader(Stream(x, y), batch_size=5),
    }
    torch.manual_seed(0)
    network = own_code.plain_net()
    found = {
        form: evaluate(network, attack="fgsm", eps=0.05, dataset=data, out=tmp_path / form, device="cpu")
        for form, data in forms.items()
    }
    assert len({one.manifest.data.digest for one in found.values()}) == 1
    assert found["arrays"].manifest.data.name == "arrays"
    rows = {form: (tmp_path / form / "records.parquet").read_bytes() for form in forms}
    assert len(set(rows.values())) == 1


def test_python_trains_on_arrays_and_the_run_is_bound_to_them(tmp_path: Path) -> None:
    x, y = own_code.rows(60)
    config = tiny("my-images", epochs=1)
    train(config, tmp_path / "run", "cpu", data=(x, y))
    _, origin = load_model_file(tmp_path / "run" / "best.safetensors")
    assert isinstance(origin, Provenance)
    assert origin.dataset == "my-images"
    assert train(config, tmp_path / "run", "cpu", data=TensorDataset(torch.tensor(x), torch.tensor(y))).was_finished
    with pytest.raises(BadInput, match="other images"):
        train(config, tmp_path / "run", "cpu", data=(1 - x, y))
    with pytest.raises(BadInput, match="my-images"):
        train(config, tmp_path / "other", "cpu")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "the data is a int; give"),
        ([], "it is empty"),
        ([(np.zeros((3, 8, 8), np.uint8),)], "not every item is a pair"),
        ((np.zeros((4, 8, 8), np.uint8), np.zeros(4, int)), r"shape \(4, 8, 8\)"),
        ((np.zeros((4, 3, 8, 8), np.uint8), np.zeros(3, int)), "one label an image"),
        ((np.full((4, 3, 8, 8), 7.0), np.zeros(4, int)), r"expected \[0, 1\]"),
        (Pairs([np.zeros((3, 8, 8)), np.zeros((3, 9, 9))], [0, 1]), "cannot be read as images and labels"),
    ],
    ids=["number", "empty", "no pair", "no channels", "labels", "range", "sizes"],
)
def test_what_holds_no_images_is_refused(data: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        as_images(data)


# what is refused


@pytest.mark.parametrize(
    ("key", "kind"), [("model", "model"), ("activation", "activation"), ("method", "method"), ("dataset", "data set")]
)
def test_code_that_gives_something_else_or_fails_is_refused_in_one_line(key: str, kind: str, tmp_path: Path) -> None:
    for name, words in (
        ("own_code:nothing", "NoneType"),
        ("own_code:broken", "KeyError: 'half done'"),
        ("own_code:missing", "own_code has no callable 'missing'"),
        ("no_such_code:net", "no module named 'no_such_code'|unknown data set"),
    ):
        with pytest.raises(BadInput, match=words) as refused:
            train(recipe(OWN["recipe"]).with_values({key: name}), tmp_path / "run", "cpu")
        assert "\n" not in str(refused.value)
        if "no_such" not in name:
            assert (
                SOCKETS[kind].signature in str(refused.value)
                or "images and labels" in str(refused.value)
                or kind == "data set"
            )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "own_code:net:widht=3"),
        ("activation", "own_code:Swish:betta=2"),
        ("method", "own_code:Counting:scal=1"),
        ("dataset", "own_code:data:m=3"),
        ("augment", "own_code:brighten:moost=1"),
    ],
)
def test_an_unknown_argument_is_refused_with_the_nearest(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown parameter"):
        train(recipe(OWN["recipe"]).with_values({key: value}), tmp_path / "run", "cpu")
    for name in ("own_code:recipe:epoch=1", "own_code:nothing"):
        with pytest.raises(BadInput, match=r"unknown parameter 'epoch'|returned a NoneType"):
            recipe(name)


def test_an_augmentation_keeps_shape_and_box(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="own_code:nothing made NoneType"):
        train(recipe(OWN["recipe"]).with_values({"augment": "own_code:nothing"}), tmp_path / "run", "cpu")
    from satbench.numerics.seeding import generator
    from satbench.training.augment import augment

    x = torch.rand(5, 1, 8, 8)
    changed = augment("own_code:brighten:most=9", x, generator(0, "a"))
    assert changed.shape == x.shape
    assert (changed.min() >= 0, changed.max() <= 1, (changed == 1).any()) == (True, True, True)
    assert torch.equal(changed, augment("own_code:brighten:most=9", x, generator(0, "a")))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model", "own_code:two_outputs", r"the network of own_code:two_outputs .*\(2, 2\) .* expected \(2, 3\)"),
        ("model", "own_code:without_shape", "unknown parameter 'channels' .*; give build"),
        ("activation", "own_code:Halved", "the network of own_code:net with own_code:Halved cannot be run"),
        ("augment", "own_code:tripled:by=x", "augmentation own_code:tripled:by=x: TypeError: .*; give augment"),
        ("augment", "own_code:tripled", r"augmentation own_code:tripled made pixels from 0\.?.* to [12]\..*\[0, 1\]"),
        ("dataset", "own_code:nothing", "the data of own_code:nothing/train is a NoneType"),
    ],
)
def test_code_that_fails_while_it_trains_is_named_in_one_line(key: str, value: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=words) as refused:
        train(recipe(OWN["recipe"]).with_values({key: value}), tmp_path / "run", "cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            ["--method", "own_code:Unfinished"],
            "own_code:Unfinished.loss, line ## KeyError: 'half done'; correct own_code",
        ),
        (
            ["--set", "measure.evaluators=clean+pgd+own_code:Doubtful"],
            "own_code:Doubtful.values, line ## ArithmeticError: no figure; correct own_code",
        ),
    ],
)
def test_the_command_names_the_code_that_raised_in_one_line(option: list[str], words: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", OWN["recipe"], *option, "--device", "cpu", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2, done.output
    assert re.sub(r"\d+:", "##", done.stderr.splitlines()[-1]) == f"satbench: {words}"
    assert "Traceback" not in done.output


def test_an_error_of_satbenchs_own_code_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("satbench.training.train", own_code.broken)
    done = CliRunner().invoke(app, ["train", "digits-quick", "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, KeyError)


# files


@pytest.mark.parametrize("field", ["architecture", "activation"])
def test_weights_that_name_a_function_call_nothing(field: str, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    spec = ModelSpec("mlp", "relu", 3, 1, 8, (0.5,), (0.5,), {})
    model = build_model(spec)
    trap = {"architecture": "os:mkdir", "params": {"path": str(sprung)}} if field == "architecture" else {}
    changed = {**spec.to_dict(), **trap} | ({"activation": "os:abort"} if field == "activation" else {})
    object.__setattr__(model, "spec", ModelSpec(**changed))
    origin = Provenance(
        label="a", recipe="a", method="a", dataset="a", seed=0, threat={"norm": "Linf", "eps": 0.1}, epoch=0,
        train_digest="a", config="a", family="a",
    )  # fmt: skip
    save_model(tmp_path / "weights.safetensors", model, origin)
    with pytest.raises(BadInput, match="if you trust it, set SATBENCH_PLUGINS=os"):
        load_model(tmp_path / "weights.safetensors")
    assert not sprung.exists()


def test_a_run_that_names_a_network_or_a_data_set_imports_neither(tmp_path: Path) -> None:
    def measured(place: str) -> Any:
        torch.manual_seed(0)
        network, data = OWN["network"], "own_code:data"
        return evaluate(network, attack="fgsm", eps=0.1, dataset=data, split="test", out=tmp_path / place, device="cpu")

    measured("run")
    os.environ[PLUGINS] = ""
    with pytest.raises(BadInput, match="names the code own_code:plain_net"):
        verify(tmp_path / "run", device="cpu")


def test_weights_of_a_known_network_do_not_decide_on_a_data_set(tmp_path: Path) -> None:
    train(tiny("own_code:data", epochs=1), tmp_path / "run", "cpu")
    os.environ[PLUGINS] = ""
    with pytest.raises(BadInput, match="names the code own_code:data"):
        evaluate(str(tmp_path / "run"), attack="fgsm", eps=0.1, out=tmp_path / "out", device="cpu")
    named = evaluate(
        str(tmp_path / "run"), attack="fgsm", eps=0.1, dataset="own_code:data", out=tmp_path / "out", device="cpu"
    )
    assert named.manifest.data.n == 12


def test_what_is_allowed_are_modules_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLUGINS, " my.nets , other")
    assert allowed() == ["my.nets", "other"]
    for name in ("my.nets:build", "my.nets.deep:build:width=2", "other:build", "silu", "pgd_at:steps=3"):
        check_allowed(name, "file")
    for name in ("my:build", "my.netsx:build", "others:build"):
        with pytest.raises(BadInput, match="file names the code"):
            check_allowed(name, "file")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("silu", ("silu", "")),
        ("celu:alpha=2", ("celu", "alpha=2")),
        ("my.nets:build", ("my.nets:build", "")),
        ("my.nets:build:width=2,activation=silu", ("my.nets:build", "width=2,activation=silu")),
        ("nets:build:path=a:b", ("nets:build", "path=a:b")),
        ("timm:resnet18", ("timm:resnet18", "")),
    ],
)
def test_names_are_read_in_one_way(text: str, parts: tuple[str, str]) -> None:
    assert spelled(text) == parts


@pytest.mark.left_out
def test_a_study_of_ones_own_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS)
    study = Study(
        trainings=({"recipes": "own_code:recipe", "activations": "own_code:Swish"},),
        evaluations=({"attacks": OWN["attack"], "threats": "Linf:0.1", "trust": False},),
    )
    jobs = jobs_of(study, "study")
    assert set(jobs.own_code) == {"own_code:net", "own_code:Swish", "own_code:data", "own_code:sign"}
    (run,) = run_study(jobs, tmp_path / "study", "local:1", device="cpu")
    assert (run.manifest.model.activation, run.manifest.attacks[0].name) == ("own_code:Swish", "own_code:sign")


def test_a_worker_imports_nothing_that_only_the_study_folder_names(tmp_path: Path) -> None:
    jobs = jobs_of(Study(trainings=({"recipes": "own_code:recipe"},)), "study")
    folder = StudyFolder(tmp_path, jobs, "session")
    os.environ[PLUGINS] = ""
    with pytest.raises(BadInput, match="names the code own_code:net"):
        work(str(tmp_path), folder.write_jobs(), "session", "cpu", None)
    assert not list(tmp_path.rglob("*.safetensors"))
