"""What is on this machine: listing, pulling, removing, shared caches, shared pins, and work without a network."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from released_checkpoints import DATA, INDEX, NAME, RELEASE, card, write_checkpoint
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.progress import silent
from satbench.data import load_images
from satbench.zoo import cache, load
from satbench.zoo.card import SatbenchCard
from satbench.zoo.fetch import fetch, sha256_file
from satbench.zoo.registry import read_cards


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with the files of one network."""
    root = tmp_path_factory.mktemp("mirror")
    (root / RELEASE).mkdir()
    write_checkpoint(root / RELEASE / RELEASE, 0)
    return root


@pytest.fixture(autouse=True)
def from_the_mirror(home: Path, no_hosts: None, monkeypatch: pytest.MonkeyPatch, release: Path) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", str(release))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: object) -> None:
        raise AssertionError(f"a connection to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def listed(*words: object) -> list[str]:
    code, output = run("models", "list", "--json", *words)
    assert code == 0, output
    return [entry["name"] for entry in json.loads(output)]


# list


def test_the_list_for_programs_has_every_card_with_what_was_published() -> None:
    code, output = run("models", "list", "--json")
    assert code == 0
    entries = {entry["name"]: entry for entry in json.loads(output)}
    assert list(entries) == list(read_cards())
    silu = entries["resnet50-silu"]
    assert (silu["parameters"], silu["trained_for"]) == (25_557_032, {"norm": "Linf", "eps": 4 / 255})
    assert (silu["state"], silu["architecture"], silu["activation"]) == ("no", "resnet50", "silu")
    assert {"figure": "clean", "steps": 0, "percent": 69.7, "source": "readme"} in silu["published"]
    assert silu["registry"].endswith("model_zoo.yaml")
    assert entries["digits-silu"]["state"] == "packaged"


@pytest.mark.left_out
def test_conditions_of_the_list_hold_together() -> None:
    cards = read_cards()
    assert listed("resnet50-*") == [name for name in cards if name.startswith("resnet50-")]
    assert listed("--family", "efficientnet") == [name for name in cards if name.startswith("effnet")]
    assert listed("--activation", "mish") == ["resnet50-mish"]
    assert listed("--activation", "silu", "--family", "cnn") == ["digits-silu"]
    assert listed("--threat", "Linf:0.2") == ["digits-relu", "digits-silu", "digits-smoothrelu"]
    assert listed("--threat", "Linf:4/255", "--activation", "elu") == ["resnet50-elu"]
    assert len(listed("--threat", "Linf")) == len(cards)
    assert listed("--threat", "L2") == []
    own = [name for name, card in cards.items() if isinstance(card, SatbenchCard)]
    assert listed("--fetched") == own
    load(NAME)
    assert listed("--fetched", "--family", "efficientnet") == [NAME]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threat", "Linf:8"), "did you mean 8/255"),
        (("--threat", "l2"), "--threat l2, field 'norm'"),
        (("--activation", "sulu"), "silu"),
        (("resnet51-*",), "no network of the registry fits"),
        (("resnet51-*", "--json"), "no network of the registry fits 'resnet51-*'"),
        (("--family", "vit", "--json"), "--family vit: no architecture begins so; known: cnn-small"),
    ],
)
def test_conditions_that_cannot_be_are_said_in_one_line(words: tuple[str, ...], message: str) -> None:
    code, output = run("models", "list", *words)
    assert (code, output.count("\n")) == (2, 1)
    assert message in output


# pull and rm


def test_pull_takes_patterns_and_tells_size_and_licence_before(home: Path, release: Path, monkeypatch) -> None:
    notice = f"{NAME}: downloading at least {4 * card().parameters / 1e6:.1f} MB; licence: repository MIT"
    monkeypatch.setenv("SATBENCH_MIRROR", str(home.parent))
    code, output = run("models", "pull", NAME, "--offline")
    assert code == 2
    assert "downloading" not in output
    monkeypatch.setenv("SATBENCH_MIRROR", str(release))
    code, output = run("models", "pull", "effnet-b[0]", "digits-*")
    assert code == 0, output
    assert notice in output
    assert f"{NAME}: {cache.converted(NAME)}\n" in output
    assert "digits-silu: " in output
    assert "downloading" not in run("models", "pull", NAME)[1]


def test_a_pull_of_several_says_the_sum_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SATBENCH_MIRROR")
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    names = [name for name in read_cards() if name.startswith("resnet50-s")]
    total = sum(4 * read_cards()[name].parameters for name in names) / 1e6
    output = run("models", "pull", "resnet50-s*")[1]
    assert output.startswith(f"{len(names)} networks to download, at least {total:,.1f} MB: {', '.join(names)}\n")


def test_rm_frees_what_was_downloaded_and_keeps_the_pins(home: Path) -> None:
    load(NAME)
    pins = (home / "zoo.lock").read_text()
    (home / "models" / f".{NAME}.safetensors.x").write_bytes(b"killed")
    code, output = run("models", "rm", "effnet-*[01]")
    assert code == 0
    assert f"{NAME}: 42." in output  # two files of 21 MB
    assert "effnet-b1: nothing to delete" in output
    assert [path for path in home.rglob("*") if path.is_file() and path.parent.name != "locks"] == [home / "zoo.lock"]
    assert (home / "zoo.lock").read_text() == pins


# shared caches


@pytest.fixture
def shared(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a group, which has one network and may not be written to."""
    load(NAME)
    home.rename(home.with_name("group"))
    group = home.with_name("group")
    monkeypatch.setenv("SATBENCH_SHARED", str(group))
    monkeypatch.setenv("SATBENCH_MIRROR", str(home.with_name("empty")))
    return group


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_shared_cache_gives_its_networks_and_is_not_written(shared: Path, home: Path, no_network: None) -> None:
    before = contents(shared)
    assert load(NAME).info.label == NAME
    assert run("models", "verify", NAME) == (0, f"{NAME}: ok\n")
    assert listed("--fetched", "--family", "efficientnet") == [NAME]
    assert not home.exists()
    assert contents(shared) == before


def test_a_damaged_conversion_of_a_shared_cache_is_made_in_ones_own(shared: Path, home: Path, no_network: None) -> None:
    file = shared / "models" / f"{NAME}.safetensors"
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"damage")
    before = contents(shared)
    assert load(NAME).info.label == NAME
    assert (home / "models" / file.name).is_file()
    assert not (home / "checkpoints").exists()  # converted from the group's files
    assert contents(shared) == before


def test_pins_of_a_shared_cache_bind(shared: Path, release: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.rmtree(shared / "models")
    shutil.rmtree(shared / "checkpoints")
    (tmp_path / "other" / RELEASE).mkdir(parents=True)
    write_checkpoint(tmp_path / "other" / RELEASE / RELEASE, 1)
    monkeypatch.setenv("SATBENCH_MIRROR", str(tmp_path / "other"))
    with pytest.raises(BadInput, match=r"has SHA-256 .* has pinned"):
        load(NAME)
    monkeypatch.setenv("SATBENCH_MIRROR", str(release))
    assert load(NAME).info.label == NAME


def test_pins_that_contradict_each_other_are_named(shared: Path, home: Path) -> None:
    home.mkdir()
    (home / "zoo.lock").write_text(json.dumps({NAME: {INDEX: "0" * 64}}))
    with pytest.raises(BadInput, match=rf"{NAME}, {INDEX} is pinned as .*, elsewhere as {'0' * 64}"):
        load(NAME)


def test_a_shared_cache_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_SHARED", "/nowhere")
    with pytest.raises(BadInput, match="SATBENCH_SHARED: /nowhere is no folder"):
        load(NAME)


# pins


@pytest.mark.left_out
def test_pins_travel_in_a_file(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(NAME)
    file = tmp_path / "pins.json"
    assert run("models", "pins", "export", file) == (0, f"{file}: pins of 1 models\n")
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "second"))
    assert run("models", "pins", "import", file) == (0, f"{file}: 2 new pins\n")
    assert run("models", "pins", "import", file) == (0, f"{file}: 0 new pins\n")
    assert (tmp_path / "second" / "zoo.lock").read_bytes() == (home / "zoo.lock").read_bytes()


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({NAME: {INDEX: "1" * 64, "other": "2" * 64}}, f"{NAME}, {INDEX} is pinned as {'1' * 64}, elsewhere as"),
        ({NAME: {INDEX: "words"}}, "'words' is no SHA-256 and no commit"),
        ([1], "give a file that `satbench models pins export` wrote"),
        (None, "no such file"),
    ],
)
def test_pins_that_cannot_be_added_change_nothing(content: object, message: str, home: Path, tmp_path: Path) -> None:
    load(NAME)
    before = (home / "zoo.lock").read_text()
    if content is not None:
        (tmp_path / "pins.json").write_text(json.dumps(content))
    code, output = run("models", "pins", "import", tmp_path / "pins.json")
    assert (code, output.count("\n")) == (2, 1)
    assert message in output
    assert (home / "zoo.lock").read_text() == before


# plain HTTP


def test_a_mirror_of_plain_http_needs_known_digests(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", "http://mirror.example/")
    with pytest.raises(BadInput, match=r"http://mirror\.example: plain HTTP is used only for files of known SHA-256"):
        load(NAME)
    cache.pin(NAME, {file: sha256_file(release / RELEASE / file) for file in (INDEX, DATA)}, None)
    with pytest.raises(BadInput, match="could not be fetched"):
        load(NAME)  # asked, but there is no such server


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:9/", "http://localhost:9/", "https://mirror.example"])
def test_a_mirror_on_this_machine_or_by_https_needs_none(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", mirror)
    with pytest.raises(BadInput, match="could not be fetched"):
        fetch(NAME, RELEASE, {INDEX: "I" * 33}, silent)


# offline


@pytest.mark.parametrize("mirror", ["", "https://mirror.example"])
def test_offline_says_what_is_missing(mirror: str, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", mirror)
    words = ("eval", "--model", NAME, "--attack", "fgsm", "--dataset", "imagenet-sample", "--offline")
    code, output = run(*words)
    assert code == 2
    last = output.splitlines()[-1]
    assert "is not asked while offline; leave out --offline, or by hand: save" in last
    assert "downloading" not in output
    assert INDEX in last
    assert DATA in last
    assert os.environ.get("SATBENCH_OFFLINE") is None


def test_offline_a_folder_and_the_cache_still_serve(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    assert load(NAME).info.label == NAME
    monkeypatch.delenv("SATBENCH_MIRROR")
    assert load(NAME).info.label == NAME


@pytest.mark.parametrize("ref", ["torchvision:squeezenet1_1", "timm:test_resnet"])
def test_offline_other_collections_use_their_caches_alone(
    ref: str, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    before = torch.hub.download_url_to_file
    with pytest.raises(BadInput, match=r"is not on this machine|its weights cannot be fetched"):
        load(ref)
    assert torch.hub.download_url_to_file is before
    assert constants.HF_HUB_OFFLINE is False


def test_offline_a_data_set_is_not_downloaded(no_network: None, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    with pytest.raises(BadInput, match="offline, and mnist is not on this machine; unpack it in a folder"):
        load_images("mnist", "test", data_dir=tmp_path)
