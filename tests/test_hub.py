"""Networks of the Hugging Face Hub, from a server on this machine with the few calls needed, and from its cache."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hub_server import Hub, serving
from huggingface_hub import constants
from safetensors.torch import save

import satbench
from satbench.core.errors import BadInput
from satbench.zoo import cache, load

DIGITS = Path(satbench.__file__).parent / "zoo/weights/digits-silu.safetensors"
FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def empty_hub(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def timm_files(seed: int = 0, **changes: Any) -> dict[str, bytes]:
    """A repository as timm writes it."""
    torch.manual_seed(seed)
    net = timm.create_model("test_resnet", num_classes=7)
    config = {
        "architecture": "test_resnet",
        "num_classes": 7,
        "pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
    }
    return {"config.json": json.dumps(config | changes).encode(), "model.safetensors": save(net.state_dict())}


def test_a_file_of_satbench_is_the_network_it_says(hub: Hub) -> None:
    hub.put("me/net", FIRST, {"model.safetensors": DIGITS.read_bytes()})
    loaded = load("hf:me/net")
    assert loaded.info.digest == load("digits-silu").info.digest
    assert loaded.info.ref == f"hf:me/net@{FIRST}"
    assert (loaded.info.method, loaded.dataset) == ("pgd_at", "digits")


@pytest.mark.parametrize("ref", ["hf:me/net", "timm:hf-hub:me/net", "timm:hf_hub:me/net", f"hf:me/net@{FIRST}"])
def test_a_repository_of_timm_is_built_from_its_config(ref: str, hub: Hub) -> None:
    hub.put("me/net", FIRST, timm_files())
    loaded = load(ref)
    assert loaded.info.ref == f"hf:me/net@{FIRST}"
    assert loaded.image_size == 96
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=7).eval()
    x = torch.rand(2, 3, 96, 96)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), net((x - mean) / std))


def test_the_commit_of_a_branch_is_pinned_at_the_first_use(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.put("me/net", FIRST, timm_files())
    first = load("hf:me/net").info.digest
    assert f"main is pinned as commit {FIRST}" in capsys.readouterr().err
    hub.put("me/net", SECOND, timm_files(seed=1))
    assert load("hf:me/net").info.digest == first
    assert load(f"hf:me/net@{SECOND}").info.digest != first
    assert cache.pinned("hf:me/net") == {"main": FIRST}
    assert sum("/api/models/" in asked for asked in hub.asked) == 1


def test_other_bytes_at_a_pinned_commit_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.put("me/net", FIRST, timm_files())
    load("hf:me/net")
    (file,) = (tmp_path / "hub").rglob("model.safetensors")
    blob = file.resolve()
    blob.write_bytes(timm_files(seed=1)["model.safetensors"])
    with pytest.raises(BadInput, match=r"model\.safetensors has SHA-256 .* was published with"):
        load("hf:me/net")


def test_offline_the_cache_serves_what_was_loaded_before(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.put("me/net", FIRST, timm_files())
    digest = load("hf:me/net").info.digest
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    asked = len(hub.asked)
    assert load("hf:me/net").info.digest == digest
    with pytest.raises(BadInput, match="offline, and the commit of hf:me/net@dev is not on this machine"):
        load("hf:me/net@dev")
    with pytest.raises(BadInput, match=rf"offline, and model\.safetensors of hf:me/net@{SECOND} is not on"):
        load(f"hf:me/net@{SECOND}")
    assert len(hub.asked) == asked


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("ref", "files", "message"),
    [
        ("hf:net", {}, "give hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        ("hf:me/../net", {}, "give hf:OWNER/NAME"),
        ("hf:me/other", {}, "hf:me/other cannot be read"),
        ("hf:me/net@v9", timm_files(), "hf:me/net@v9 cannot be read"),
        ("hf:me/net", {"README.md": b"x"}, r"has no model.safetensors or pytorch_model.bin"),
        ("hf:me/net", {**timm_files(), "config.json": b"{"}, "config.json is no JSON"),
        ("hf:me/net", timm_files(architecture=None), "is neither satbench's nor timm's"),
        ("hf:me/net", timm_files(architecture="hf-hub:other/net"), "timm has no model 'hf-hub:other/net'"),
        ("hf:me/net", timm_files(num_classes=8), "belongs to another network"),
        (
            "hf:me/net",
            timm_files(model_args={"checkpoint_path": "/x"}),
            "sets 'checkpoint_path'",
        ),
        ("hf:me/net", timm_files(model_args={"mood": 1}), "timm cannot build it from its config.json"),
        *(("hf:me/net", timm_files(model_args=args), "'model_args' .* is no JSON object") for args in ([1], "abc", 5)),
        ("hf:me/net", timm_files(num_classes=3_000_000), "has a number over 1,000,000"),
        ("hf:me/net", timm_files(num_classes=900_000), "names a larger network than it has weights for"),
        ("hf:me/net", timm_files(model_args={"layers": [100_000, 1, 1, 1]}), "names a larger network"),
        ("hf:me/net", timm_files(architecture="vit_giant_patch14_224"), "names a larger network"),
        ("hf:me/net", timm_files(pretrained_cfg={"mean": "x"}), "timm cannot build it from its config.json"),
        ("hf:me/net", {**timm_files(), "model.safetensors": b"words"}, "is not a whole safetensors file"),
    ],
)
def test_what_a_repository_lacks_is_said_in_one_line(ref: str, files: dict[str, bytes], message: str, hub: Hub) -> None:
    hub.put("me/net", FIRST, files)
    with pytest.raises(BadInput, match=message) as caught:
        load(ref)
    assert "\n" not in str(caught.value)


@pytest.mark.slow  # the client tries for some ten seconds
def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for ref in ("hf:me/net", f"hf:me/net@{FIRST}"):
        with pytest.raises(BadInput, match=r"check the .*connection") as caught:
            load(ref)
        assert "\n" not in str(caught.value)


def test_an_endpoint_of_plain_http_needs_a_commit_and_its_pins(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = timm_files()
    hub.put("me/net", FIRST, files)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(BadInput, match=r"http://hub\.example: plain HTTP .*give the commit, hf:me/net@COMMIT"):
        load("hf:me/net")
    with pytest.raises(BadInput, match=r"http://hub\.example: plain HTTP .*use https, or pin it"):
        load(f"hf:me/net@{FIRST}")


def test_pickled_weights_of_a_repository_are_not_run(hub: Hub, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.write_text, (tmp_path / "sprung", "x")

    torch.save({"a": Trap()}, tmp_path / "w.bin")
    files = {**timm_files(), "pytorch_model.bin": (tmp_path / "w.bin").read_bytes()}
    del files["model.safetensors"]
    hub.put("me/net", FIRST, files)
    with pytest.raises(BadInput, match="more than plain weights"):
        load("hf:me/net")
    assert not (tmp_path / "sprung").exists()


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("satbench.zoo.hub.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs the package huggingface_hub; run pip install 'satbench\[hub\]'"):
        load("hf:me/net")
