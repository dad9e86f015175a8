"""Networks of the Hugging Face Hub, `hf:OWNER/NAME[@REVISION]`: files of satbench or of timm, at a pinned commit."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from satbench.core.bounded import MIB, read_bounded
from satbench.core.errors import BadInput, reason
from satbench.core.home import home
from satbench.core.lookup import nearest
from satbench.core.offline import is_offline, need_network
from satbench.models.classifier import Classifier, ModelSpec
from satbench.models.weights import load_strictly, no_larger_than, read_weights
from satbench.zoo import cache
from satbench.zoo.libraries import ITS_OWN
from satbench.zoo.published import check_hub_file
from satbench.zoo.remote import need_digest

REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
COMMIT = re.compile("[0-9a-f]{40}")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has
CONFIG = "config.json"
MOST = 1_000_000  # a size in a config
ENDPOINT = "HF_ENDPOINT"
SHAPES = ("num_classes", "in_chans", "img_size")  # of timm's arguments, those a config may set beside `model_args`
REFUSED = ("pretrained", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "features_only")


def pinned_name(repository: str) -> str:
    """`OWNER/NAME@COMMIT`; the commit of a branch or tag is asked for once and then pinned.

    Raises `BadInput` for a malformed name, a repository or revision that is not there, and while offline where it is
    not pinned.
    """
    found = REPOSITORY.fullmatch(repository)
    if found is None:
        raise BadInput(f"hf:{repository}: give hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    if find_spec("huggingface_hub") is None:
        raise BadInput(f"hf:{repository} needs the package huggingface_hub; run pip install 'satbench[hub]'")
    name, revision = found["name"], found["revision"] or "main"
    if COMMIT.fullmatch(revision):
        return f"{name}@{revision}"
    commit = cache.pinned(f"hf:{name}").get(revision)
    if commit is None:
        need_network(
            f"the commit of hf:{name}@{revision} is", f"give it, hf:{name}@COMMIT, or import pins that have it"
        )
        need_digest(endpoint() or "", None, f"give the commit, hf:{name}@COMMIT, with its pins ({ENDPOINT})")
        with asking(repository):
            from huggingface_hub import HfApi

            commit = str(HfApi(endpoint=endpoint()).model_info(name, revision=revision).sha)
        cache.pin(f"hf:{name}", {revision: commit}, None)
        sys.stderr.write(
            f"satbench: hf:{name}: {revision} is pinned as commit {commit} in {home() / cache.PINS}; "
            f"for a later one give hf:{name}@COMMIT\n"
        )
    return f"{name}@{commit}"


def hub_file(pinned: str, *names: str) -> Path:
    """The first of these files that `OWNER/NAME@COMMIT` has, from the Hub's own cache or downloaded into it.

    Its SHA-256 is pinned at the first use and enforced from then on. Raises `BadInput` where none can be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, commit = pinned.partition("@")
    pins = cache.pinned(f"hf:{pinned}")
    for name in names:
        need_digest("" if is_offline() else endpoint() or "", pins.get(name), f"use https, or pin it ({ENDPOINT})")
        try:
            with asking(pinned):
                path = Path(
                    hf_hub_download(
                        repository, name, revision=commit, endpoint=endpoint(), local_files_only=is_offline()
                    )
                )
        except LocalEntryNotFoundError:
            need_network(f"{name} of hf:{pinned} is", "run the same command once with a network")
            raise BadInput(
                f"hf:{pinned}: {name} could not be downloaded; check the connection, or {ENDPOINT}"
            ) from None
        except EntryNotFoundError:
            continue
        check_hub_file(path, name, f"hf:{pinned}")
        return path
    raise BadInput(f"hf:{pinned} has no {' or '.join(names)}; such a repository cannot be loaded here")


def timm_network(pinned: str, weights: Path) -> Classifier:
    """The network of a repository in timm's layout: config.json names the architecture, `weights` has its tensors.

    Raises `BadInput` for a config that names none, and for weights that do not fit.
    """
    config = _config(hub_file(pinned, CONFIG))
    try:
        import timm
    except ModuleNotFoundError:
        raise BadInput(f"hf:{pinned} needs the package timm; run pip install 'satbench[timm]'") from None
    architecture, settings = config.get("architecture"), config.get("pretrained_cfg")
    if not isinstance(architecture, str) or not isinstance(settings, dict):
        raise BadInput(
            f"hf:{pinned} is neither satbench's nor timm's: its {CONFIG} has no 'architecture' and 'pretrained_cfg'; "
            "use its weights by --model package.module:callable --checkpoint FILE"
        )
    if not timm.is_model(architecture):
        raise BadInput(f"hf:{pinned}: timm has no model {architecture!r}; {nearest(architecture, timm.list_models())}")
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise BadInput(f"hf:{pinned}: 'model_args' in its {CONFIG} is no JSON object; use another repository")
    for name in arguments:
        if name in REFUSED:
            raise BadInput(f"hf:{pinned}: its {CONFIG} sets {name!r}, which no network needs; use another repository")
    if "num_classes" in config:
        arguments.setdefault("num_classes", config["num_classes"])
    tensors = read_weights(weights)
    try:
        net: Any = None
        for device in ("meta", "cpu"):  # on the first, a part that is too large takes no memory
            with no_larger_than(tensors, weights), torch.device(device):
                net = timm.create_model(architecture, pretrained=False, **arguments)
        channels, _, side = settings.get("input_size", (3, 224, 224))
        spec = ModelSpec(
            architecture=f"timm:{architecture}",
            activation=ITS_OWN,
            num_classes=net.num_classes,
            channels=channels,
            image_size=side,
            mean=tuple(float(value) for value in settings["mean"]),
            std=tuple(float(value) for value in settings["std"]),
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"hf:{pinned}: timm cannot build it from its {CONFIG} ({reason(error)})") from error
    load_strictly(net, tensors, weights)
    return Classifier(net, spec).eval()


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_bounded(path, MIB))
        _check_numbers(config)
    except BadInput:
        raise
    except (ValueError, RecursionError):
        raise BadInput(
            f"{path} is no JSON, or has a number over {MOST:,}; delete it, and the same command fetches it again"
        ) from None
    if not isinstance(config, dict):
        raise BadInput(f"{path} is no JSON object; the repository is not one of a network")
    return config


def _check_numbers(value: object) -> None:
    """Raise ValueError for a whole number that no network has as a size."""
    if isinstance(value, int) and abs(value) > MOST:
        raise ValueError(f"{value} is too large")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_numbers(inner)


def endpoint() -> str | None:
    """Where the Hub is, where that is not its usual place."""
    return os.environ.get(ENDPOINT) or None


@contextmanager
def asking(repository: str) -> Iterator[None]:
    """The client's errors in one line; those that tell which file is missing are the caller's."""
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]

    try:
        yield
    except (BadInput, EntryNotFoundError):
        raise
    except (OSError, ValueError, HTTPError) as error:
        advice = "check the name, the connection and, for a private one, your token"
        raise BadInput(f"hf:{repository} cannot be read ({reason(error)}); {advice}") from None
