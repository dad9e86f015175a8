"""Weights of torchvision and timm: no pickle runs, and a cached file with other bytes than published is refused."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.models._api import WeightsEnum

from satbench.core.errors import BadInput
from satbench.zoo import cache, load
from satbench.zoo.published import digits

TORCHVISION, TIMM = "torchvision:squeezenet1_1", "timm:test_resnet"
URL = "https://example.invalid/models"


class Trap:
    """Prints, and writes a file, when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"print('executed'); open({str(self.file)!r}, 'w').close()",)


def sprung(folder: Path, capsys: pytest.CaptureFixture[str]) -> bool:
    return (folder / "sprung").exists() or "executed" in capsys.readouterr().out


def net() -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.squeezenet1_1().eval()


@pytest.fixture(autouse=True)
def folders(home: Path, no_hosts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of the other collections too, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def publish(write: Callable[[Path], object], folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in torch.hub's folder that torchvision publishes by the hash it has now."""
    folder = folders / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    write(folder / "new")
    name = f"squeezenet1_1-{hashlib.sha256((folder / 'new').read_bytes()).hexdigest()[:8]}.pth"
    monkeypatch.setattr(WeightsEnum, "url", property(lambda _: f"{URL}/{name}"))
    return (folder / "new").rename(folder / name)


def flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)


@pytest.mark.left_out
def test_a_cached_file_of_torchvision_is_checked_and_loaded(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(lambda path: torch.save(net().state_dict(), path), folders, monkeypatch)
    found = load(TORCHVISION).model
    assert all(torch.equal(one, net().state_dict()[name.removeprefix("net.")])
               for name, one in found.state_dict().items() if name not in ("mean", "std"))  # fmt: skip
    assert "get_state_dict" not in vars(torchvision.models.SqueezeNet1_1_Weights.DEFAULT)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert cache.pinned(f"{URL}/{file.name}") == {file.name: digest}
    flip(file)
    with pytest.raises(BadInput, match=rf"{file.name} has SHA-256 [0-9a-f]{{64}}, but .* was published with"):
        load(TORCHVISION)


def test_the_whole_digest_is_pinned_where_only_its_beginning_is_published(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file with the same eight digits takes 2^32 trials; here the pin is another instead."""
    file = publish(lambda path: torch.save(net().state_dict(), path), folders, monkeypatch)
    load(TORCHVISION)
    pins = folders / "home" / "zoo.lock"
    pins.write_text(json.dumps({f"{URL}/{file.name}": {file.name: "0" * 64}}))
    with pytest.raises(BadInput, match=r"zoo\.lock has pinned 0{64}"):
        load(TORCHVISION)


def test_a_pickle_in_torch_hubs_folder_does_not_run(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither with the published hash nor with another one."""
    content = {**net().state_dict(), "x": Trap(folders / "sprung")}
    file = publish(lambda path: torch.save(content, path), folders, monkeypatch)
    with pytest.raises(BadInput, match="more than plain weights"):
        load(TORCHVISION)
    flip(file)
    with pytest.raises(BadInput, match="was published with"):
        load(TORCHVISION)
    assert not sprung(folders, capsys)
    torch.load(file, weights_only=False)
    assert sprung(folders, capsys), "the trap of this test does not work"


def test_every_classifier_of_torchvision_is_published_with_a_hash() -> None:
    classifiers = torchvision.models.list_models(module=torchvision.models)
    urls = [torchvision.models.get_model_weights(name).DEFAULT.url for name in classifiers]
    assert len(urls) >= 80
    assert all(len(digits(url)) >= 8 for url in urls)
    assert digits(f"{URL}/resnet50.pth") == digits(f"{URL}/vit-g.pth.tar") == ""


def on_hub(write: Callable[[Path], object], name: str, folders: Path) -> Path:
    """A file of timm's repository in the hub's cache, under its SHA-256."""
    repository = timm.get_pretrained_cfg(TIMM.partition(":")[2]).hf_hub_id
    folder = folders / "hub" / f"models--{repository.replace('/', '--')}"
    for part in ("blobs", "refs", f"snapshots/{'0' * 40}"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    write(folder / "new")
    blob = folder / "blobs" / hashlib.sha256((folder / "new").read_bytes()).hexdigest()
    (folder / "new").rename(blob)
    link = folder / "snapshots" / ("0" * 40) / name
    link.unlink(missing_ok=True)
    os.symlink(f"../../blobs/{blob.name}", link)
    return blob


def test_a_cached_file_of_timm_is_checked_and_loaded(folders: Path) -> None:
    plain = timm.create_model("test_resnet").eval()
    blob = on_hub(lambda path: save_file(plain.state_dict(), path), "model.safetensors", folders)
    found: Any = load(TIMM).model
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found(x), plain((x - 0.5) / 0.5))
    assert found.net.pretrained_cfg == plain.pretrained_cfg
    assert cache.pinned("hf:timm/test_resnet.r160_in1k") == {"model.safetensors": blob.name}
    flip(blob)
    with pytest.raises(BadInput, match=r"has SHA-256 .* was published with .*; delete"):
        load(TIMM)


def test_a_repository_that_changes_after_its_first_use_is_refused(folders: Path) -> None:
    for seed, expected in ((0, None), (1, r"has pinned .*take the entry 'hf:timm/test_resnet\.r160_in1k' out")):
        torch.manual_seed(seed)
        plain = timm.create_model("test_resnet")
        on_hub(lambda path, plain=plain: save_file(plain.state_dict(), path), "model.safetensors", folders)
        if expected is None:
            load(TIMM)
        else:
            with pytest.raises(BadInput, match=expected):
                load(TIMM)


def test_a_pickle_in_the_hubs_cache_does_not_run(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = timm.create_model("test_resnet").state_dict()
    on_hub(lambda path: torch.save(state, path), "pytorch_model.bin", folders)
    load(TIMM)
    (folders / "home" / "zoo.lock").unlink()
    trapped = {**state, "x": Trap(folders / "sprung")}
    blob = on_hub(lambda path: torch.save(trapped, path), "pytorch_model.bin", folders)
    with pytest.raises(BadInput, match="more than plain weights"):
        load(TIMM)
    assert not sprung(folders, capsys)
    torch.load(blob, weights_only=False)
    assert sprung(folders, capsys), "the trap of this test does not work"
