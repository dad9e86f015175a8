"""A network as a folder that others can load, and that folder as a repository of the Hugging Face Hub."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.core.files import atomic_file, to_json, write_text
from satbench.core.offline import need_network
from satbench.models.classifier import Classifier, channels_of
from satbench.models.weights import HEADER, read_metadata, write_safetensors
from satbench.specs.names import TIMM
from satbench.zoo.fetch import sha256_file
from satbench.zoo.hub import CONFIG, ENDPOINT, REPOSITORY, WEIGHTS, asking, endpoint
from satbench.zoo.libraries import ITS_OWN
from satbench.zoo.loaded import Loaded
from satbench.zoo.loading import weights_file
from satbench.zoo.remote import need_digest

STATE_DICT = "state_dict.pt"
CARD = "README.md"
FILES = (WEIGHTS[0], STATE_DICT, CONFIG)


def export(loaded: Loaded, folder: Path) -> dict[str, str]:
    """Write weights, state dict and config of `loaded` to `folder`; returns SHA-256 by file.

    A file that satbench wrote is copied, so that `hf:OWNER/NAME` gives the same network with all that is known of it. A
    network of timm gets timm's layout. Of any other one the weights alone are written, which its own code has to load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, weights = weights_file(loaded.info), folder / WEIGHTS[0]
    if source is not None:
        with atomic_file(weights) as temporary:
            shutil.copyfile(source, temporary)
        config: Mapping[str, Any] = {"library_name": "satbench", **json.loads(read_metadata(source)[HEADER])}
    else:
        network, config = _layout(loaded.model)
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
        with atomic_file(weights) as temporary:
            write_safetensors(temporary, tensors)
    with atomic_file(folder / STATE_DICT) as temporary:
        torch.save({name: tensor.detach().cpu() for name, tensor in loaded.model.state_dict().items()}, temporary)
    write_text(folder / CONFIG, to_json(config))
    return {name: sha256_file(folder / name) for name in FILES}


def _layout(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    """The module whose tensors are written, and the config beside them."""
    if not isinstance(model, Classifier):
        return model, {"library_name": "satbench"}
    spec = model.spec
    if not spec.architecture.startswith(TIMM) or spec.activation != ITS_OWN:
        return model.net, {"library_name": "satbench", "spec": spec.to_dict()}
    return model.net, {
        "architecture": spec.architecture.removeprefix(TIMM),
        "num_classes": spec.num_classes,
        "pretrained_cfg": {
            "input_size": [spec.channels, spec.image_size, spec.image_size],
            "mean": list(spec.mean),
            "std": list(spec.std),
        },
    }


def usage(loaded: Loaded, pushed_to: str | None) -> str:
    """Python that loads the exported network, from the Hub or from a folder."""
    where = "DIR/model.safetensors"
    if weights_file(loaded.info) is not None:
        call = f'satbench.load_model("{f"hf:{pushed_to}" if pushed_to else where}")'
    elif isinstance(loaded.model, Classifier) and loaded.model.spec.architecture.startswith(TIMM):
        name = loaded.model.spec.architecture
        call = f'satbench.load_model("hf:{pushed_to}")' if pushed_to else f'satbench.load_model("{name}", "{where}")'
    else:
        call = f"satbench.load_model({json.dumps(loaded.info.ref)}, {json.dumps(where)})"
    return f"import satbench\n\nmodel = {call}  # [0, 1] {colours(loaded)} to logits, in eval mode"


def colours(loaded: Loaded) -> str:
    """What the channels of its images are, in words."""
    channels = channels_of(loaded.model)
    return {1: "gray (one channel)", 3: "RGB", None: "pixels"}.get(channels, f"{channels} channels")


def repository(target: str) -> str:
    """OWNER/NAME of `hf:OWNER/NAME`; raises `BadInput` where nothing can be uploaded, as without a token."""
    name = target.removeprefix("hf:")
    found = REPOSITORY.fullmatch(name)
    if name == target or found is None or found["revision"]:
        raise BadInput(f"--push {target}: give hf:OWNER/NAME")
    need_network("the Hugging Face Hub is", "leave out --push or --offline")
    need_digest(endpoint() or "", None, f"use https ({ENDPOINT}), for your token is sent there")
    with asking(name):
        from huggingface_hub import get_token
    if get_token() is None:
        raise BadInput(f"--push {target}: there is no token; set HF_TOKEN, or run `hf auth login`")
    return name


def push(folder: Path, name: str) -> str:
    """Upload an exported folder to the repository OWNER/NAME, which is made where it is missing; returns its URL."""
    with asking(name):
        from huggingface_hub import HfApi

        client = HfApi(endpoint=endpoint())
        url = client.create_repo(name, exist_ok=True)
        client.upload_folder(repo_id=name, folder_path=folder, allow_patterns=[*FILES, CARD])
    return str(url)
