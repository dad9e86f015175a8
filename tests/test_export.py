"""Networks exported for others: folders with a model card, and repositories on a Hub of this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_server import Hub, serving
from huggingface_hub import constants
from safetensors.torch import save_file
from typer.testing import CliRunner

from satbench.cli import app
from satbench.models.weights import load_model_file, model_digest, save_model
from satbench.zoo import load
from satbench.zoo.fetch import sha256_file
from satbench.zoo.loading import weights_file

EVAL = ("--attack", "fgsm", "--eps", "0.1", "--n", "20", "--no-trust")


@pytest.fixture(autouse=True)
def empty_hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    code, output = run("eval", "--model", "digits-silu", *EVAL, "--out", tmp_path / "run")
    assert code == 0, output
    return tmp_path / "run"


def test_a_measured_network_is_exported_with_its_numbers(measured: Path, tmp_path: Path) -> None:
    to = tmp_path / "out"
    code, output = run("models", "export", measured, "--to", to)
    assert code == 0, output
    written = sorted(file.name for file in to.iterdir())
    assert written == ["README.md", "config.json", "model.safetensors", "state_dict.pt"]
    original, again = load("digits-silu"), load(str(to / "model.safetensors"))
    assert again.info.digest == original.info.digest
    assert (again.info.recipe, again.info.seed) == ("digits-sat", 0)
    state = torch.load(to / "state_dict.pt", weights_only=True)
    assert all(torch.equal(value, state[name]) for name, value in original.model.state_dict().items())
    assert json.loads((to / "config.json").read_text())["spec"]["activation"] == "silu"
    card = (to / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: satbench\n")
    manifest = json.loads((measured / "manifest.json").read_text())
    for piece in (
        original.info.digest,
        manifest["seal"],
        "`Linf 0.2`",
        "FGSM",
        "95% Wilson",
        "Images are float gray (one channel) in [0, 1]",
        "# [0, 1] gray (one channel) to logits",
        sha256_file(to / "config.json"),
    ):
        assert piece in card
    usage = card.partition("```python\n")[2].partition("```")[0].replace("DIR", str(to))
    scope: dict[str, Any] = {}
    exec(usage, scope)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(scope["model"](x), original.model(x))


def test_other_weights_of_a_card_are_exported_and_not_the_cards_own(tmp_path: Path) -> None:
    own = load("digits-silu")
    file = weights_file(own.info)
    assert file is not None
    model, origin = load_model_file(file)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    save_model(tmp_path / "other.safetensors", model, origin)
    words = ("--checkpoint", tmp_path / "other.safetensors", "--dataset", "digits", *EVAL)
    code, output = run("eval", "--model", "digits-silu", *words, "--out", tmp_path / "run")
    assert code == 0, output
    code, output = run("models", "export", tmp_path / "run", "--to", tmp_path / "out")
    assert code == 0, output
    again = load(str(tmp_path / "out" / "model.safetensors"))
    assert again.info.digest == model_digest(model) != own.info.digest
    for card in ((tmp_path / "out" / "README.md").read_text(), run("card", tmp_path / "run")[1]):
        assert "- licence: `none stated`" in card  # which is that of the card's own weights alone
        assert "--checkpoint" in card


def test_a_network_of_ones_own_with_weights_of_satbench_stays_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_sign.py").write_text(
        "from satbench.models import Classifier\nfrom satbench.zoo import load\n\n"
        "class Negative(Classifier):\n    def forward(self, x):\n        return -super().forward(x)\n\n"
        "def build():\n    model = load('digits-silu').model\n    model.__class__ = Negative\n    return model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    file = weights_file(load("digits-silu").info)
    assert file is not None
    words = ("--checkpoint", file, "--dataset", "digits", *EVAL, "--out", tmp_path / "run")
    code, output = run("eval", "--model", "own_sign:build", *words)
    assert code == 0, output
    monkeypatch.setenv("SATBENCH_PLUGINS", "own_sign")
    code, output = run("models", "export", tmp_path / "run", "--to", tmp_path / "out")
    assert code == 0, output
    call = 'satbench.load_model("own_sign:build", "DIR/model.safetensors")'
    assert call in (tmp_path / "out" / "README.md").read_text()


def test_a_run_does_not_decide_which_code_an_export_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "named_by_a_run.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("--dataset", "digits", *EVAL, "--out", tmp_path / "run")
    assert run("eval", "--model", "named_by_a_run:build", *words)[0] == 0
    monkeypatch.setenv("SATBENCH_PLUGINS", "")
    code, output = run("models", "export", tmp_path / "run", "--to", tmp_path / "out")
    assert (code, "names the code named_by_a_run:build" in output) == (2, True)


def test_numbers_of_another_network_are_refused(measured: Path, tmp_path: Path) -> None:
    code, output = run("models", "export", "digits-relu", "--to", tmp_path / "out", "--measured", measured)
    assert code == 2
    assert "measured another network than digits-relu is now" in output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    code, output = run("models", "export", "digits-relu", "--to", tmp_path)
    assert (code, f"--to {tmp_path} is not empty; give a new folder" in output) == (2, True)


def test_a_network_without_licence_and_numbers_says_so(tmp_path: Path) -> None:
    code, output = run("models", "export", "torch.nn:Flatten", "--to", tmp_path / "out")
    assert code == 0, output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: unknown" in card
    assert "- licence: `none stated`" in card
    assert "Nothing was measured for this card." in card


# the Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_a_pushed_network_comes_back_by_its_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    code, output = run("models", "export", "digits-silu", "--to", tmp_path / "out", "--push", "hf:me/net")
    assert code == 0, output
    assert f"{hub.url}/me/net" in output
    assert set(hub.tokens) == {"Bearer hf_test"}
    again = load("hf:me/net")
    assert again.info.digest == load("digits-silu").info.digest
    assert 'load_model("hf:me/net")' in (tmp_path / "out" / "README.md").read_text()


def test_a_network_of_timm_is_exported_in_timms_layout(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "w.safetensors")
    hub.put(
        "me/first",
        "c" * 40,
        {
            "config.json": json.dumps(
                {"architecture": "test_resnet", "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
            ).encode(),
            "model.safetensors": (tmp_path / "w.safetensors").read_bytes(),
        },
    )
    code, output = run("models", "export", "hf:me/first", "--to", tmp_path / "out", "--licence", "Apache-2.0")
    assert code == 0, output
    files = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert files["README.md"].startswith(b"---\nlicense: apache-2.0\n")
    hub.put("me/second", "d" * 40, files)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(load("hf:me/second").model(x), load("hf:me/first").model(x))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("me/net", "give hf:OWNER/NAME"),
        ("hf:net", "give hf:OWNER/NAME"),
        ("hf:me/net", "there is no token; set HF_TOKEN"),
    ],
)
def test_what_cannot_be_pushed_is_said_before_anything_is_written(
    target: str, message: str, hub: Hub, tmp_path: Path
) -> None:
    code, output = run("models", "export", "digits-silu", "--to", tmp_path / "out", "--push", target)
    assert (code, message in output) == (2, True), output
    assert not (tmp_path / "out").exists()
    assert not hub.asked


def test_a_token_is_not_sent_by_plain_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    code, output = run("models", "export", "digits-silu", "--to", tmp_path / "out", "--push", "hf:me/net")
    assert (code, "for your token is sent there" in output) == (2, True)
