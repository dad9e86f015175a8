"""A config file in the place of a recipe's name."""

import json
from pathlib import Path

import pytest
import yaml
from refusals import refusal
from tiny_training import contents, tiny, write_rows
from typer.testing import CliRunner

from satbench import train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.recipes import RECIPES, named, recipe
from satbench.training import TrainConfig


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.fixture(scope="module")
def config(dataset: str) -> TrainConfig:
    return tiny(dataset, **{"optimizer.weight_decay": 1e-5, "averaging": "ema", "averaging.decay": 1e-3})


@pytest.fixture(scope="module")
def first(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config, tmp_path_factory.mktemp("first") / "run", "cpu").folder


@pytest.mark.one_in(4)
@pytest.mark.parametrize("kind", ["config.json", "bare.json", "wrapped.yaml", "bare.yml"])
def test_a_run_trained_again_from_its_config_has_the_same_bytes(
    kind: str, config: TrainConfig, first: Path, tmp_path: Path
) -> None:
    file = tmp_path / kind
    whole = json.loads((first / "config.json").read_text())
    written = whole if kind in ("config.json", "wrapped.yaml") else whole["config"]
    file.write_text(json.dumps(written) if file.suffix == ".json" else yaml.safe_dump(written))
    assert recipe(file) == recipe(str(file)) == config
    words = ["train", str(file), "--device", "cpu", "--out", str(tmp_path / "again")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    again = contents(tmp_path / "again")
    assert {name: again[name] for name in contents(first)} == contents(first)


def test_parameters_in_a_file_are_read_as_on_the_command_line(tmp_path: Path) -> None:
    file, settings = tmp_path / "mine.yaml", RECIPES["digits-sat"]().model_dump()
    file.write_text(yaml.safe_dump(settings | {"method": {"name": "pgd_at", "params": {"step_size": "2/255"}}}))
    assert recipe(file).method.params == {"step_size": 2 / 255}
    for wrong, line in (
        ({"epochs": True}, "field 'epochs': give a whole number from 1 to 1000000 .given True."),
        ({"data": {"val": "abc"}}, r"field 'data\.val': give a share between 0 and 1, a number of images"),
    ):
        file.write_text(yaml.safe_dump(settings | wrong))
        with pytest.raises(BadInput, match=line):
            recipe(file)


def test_a_setting_given_twice_is_refused() -> None:
    done = CliRunner().invoke(app, ["train", "digits-sat", "--epochs", "1", "--set", "epochs=3"])
    assert (done.exit_code, done.stderr) == (2, "satbench: epochs is given twice; give it once\n")


def test_equal_settings_have_equal_names_and_digests_however_they_were_written(tmp_path: Path) -> None:
    start = RECIPES["digits-sat"]()
    once = start.with_values({"epochs": 3, "schedule": "constant"})
    twice = named(start.with_values({"schedule": "constant"}).with_values({"epochs": 3}))
    assert once.recipe == twice.recipe == "digits-sat [epochs=3, schedule=constant]"
    assert once == twice
    assert once.digest("0") == once.model_copy(update={"recipe": "mine"}).digest("0") != start.digest("0")
    assert start.with_values({"method.steps": "10"}).digest("0") == start.digest("0")
    explicit = RECIPES["cifar10-pgd-at"]().with_values({"method.steps": "10", "averaging.start": "0"})
    assert explicit.recipe == "cifar10-pgd-at [averaging.start=0]"
    relu = once.with_values({"activation": "relu"})
    assert relu.digest("0") != once.digest("0")
    assert relu.family("0") == once.family("0") != start.family("0")


def test_an_edited_file_is_named_after_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    edited = RECIPES["digits-sat"]().model_dump() | {"recipe": "digits-sat [epochs=3]", "epochs": 7}
    file.write_text(yaml.safe_dump(edited))
    assert recipe(file).recipe == "digits-sat [epochs=7]"
    file.write_text(yaml.safe_dump(edited | {"recipe": "mine"}))
    assert recipe(file).recipe == "mine"
    with pytest.raises(BadInput, match=r"is a folder; give its .*config\.json"):
        recipe(tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "any.yaml"
    file.write_text(yaml.safe_dump(RECIPES[name]().model_dump(mode="json")))
    assert recipe(file) == recipe(name) == RECIPES[name]()


def test_options_replace_parts_of_a_file(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    settings = {"recipe": "mine", "dataset": "digits", "model": "mlp", "activation": "relu", "method": "standard"}
    file.write_text(yaml.safe_dump(settings | {"epochs": 3, "batch_size": 64, "threat": {"norm": "L2", "eps": "1/2"}}))
    with file.open("a") as end:
        end.write("optimizer: {lr: 1e-2}\naveraging: {name: ema, params: {decay: 9e-1}}\n")
    found = recipe(file)
    assert (found.optimizer.lr, found.averaging.params, found.threat.eps) == (0.01, {"decay": 0.9}, 0.5)
    words = [str(file), "--epochs", "1", "--set", "model.depth=1", "--device", "cpu"]
    dry = CliRunner().invoke(app, ["train", *words, "--dry-run"])
    assert dry.stdout.startswith("mine [epochs=1, model.depth=1]: mlp relu, standard, L2 0.5, 1 epochs\n"), dry.output
    shown = CliRunner().invoke(app, ["recipes", str(file)])
    assert '"recipe": "mine"' in shown.stdout
    assert "learning rate over 3 epochs:" in shown.stdout


def test_a_recipe_is_meant_before_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits-sat").write_text("{")
    assert recipe("digits-sat") == RECIPES["digits-sat"]()
    with pytest.raises(BadInput, match=r"^unknown recipe 'digits-satt'; did you mean digits-sat"):
        recipe("digits-satt")


def changed(config: TrainConfig, **changes: object) -> str:
    return json.dumps(config.model_dump() | changes)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("none.json", None, "no such file: .*give a config.json"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[]", "holds a list; expected a mapping"),
        ("a.json", '{"epochs": 1, "epochs": 2}', "has 'epochs' twice"),
        ("a.yaml", "epochs: 1\nepochs: 2", "has 'epochs' twice"),
        ("a.yaml", "a: [", "cannot be read as YAML"),
        ("a.json", '{"schema_version": 1, "config": {}}', "has schema version 1, this satbench reads 2"),
        ("a.json", '{"schema_version": 2, "config": {}, "seed": 1}', "unknown field 'seed' beside config"),
        ("a.json", '{"schema_version": 2, "config": 3}', "give a mapping"),
        ("a.json", {"epoch": 3}, "field 'epoch': unknown field; did you mean epochs"),
        ("a.json", {"epochs": 0}, "field 'epochs': .*given 0"),
        ("a.json", {"activation": "sillu"}, "field 'activation': unknown activation 'sillu'"),
        ("a.json", {"optimizer": {"lr": 0.1, "momentun": 0.9}}, r"optimizer\.momentun"),
        ("a.json", {"method": {"name": "pgd_ta"}}, "unknown method 'pgd_ta'; did you mean pgd_at"),
        ("a.json", {"method": {"name": "pgd_at", "params": {"stepz": 2}}}, "unknown parameter 'stepz'"),
        ("a.json", {"method": {"name": "pgd_at", "params": {"steps": 0}}}, "steps"),
        ("a.json", {"schedule": {"name": "triangle", "params": {"peak": 2}}}, "peak of schedule 'triangle' is 2"),
        ("a.json", {"averaging": {"name": "ema", "params": {"decay": 2}}}, "decay of averaging 'ema' is 2"),
        ("a.json", {"model": {"name": "cnn-small", "params": {"widht": 4}}}, "unknown parameter 'widht'"),
        ("a.json", {"model": {"name": "cnn-smal", "params": {}}}, "unknown model 'cnn-smal'"),
        ("a.json", {"augment": "crop-flipp"}, "unknown augmentation 'crop-flipp'"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(
    name: str, text: str | dict[str, object] | None, line: str, config: TrainConfig, tmp_path: Path
) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text if isinstance(text, str) else changed(config, **text))
    with pytest.raises(BadInput, match=line) as caught:
        recipe(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    for command in (["train", str(file), "--dry-run"], ["recipes", str(file)]):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, refusal(done.stderr)) == (2, f"satbench: {caught.value}")
