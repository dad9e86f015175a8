"""Networks by name, path or callable: the one way from a `--model` to something that can be measured."""

import hashlib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from satbench.device import resolve_device
from satbench.errors import BadInput
from satbench.models import ARCHITECTURES
from satbench.models.weights import load_model_file, load_strictly, model_digest, read_weights
from satbench.results.schema import ModelInfo
from satbench.zoo.card import find_card

BEST = "best.safetensors"
LAST = "last.safetensors"


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode with what is known of it.

    `dataset`, `image_size` and `train_digest` (of the images) are those it was trained on.
    """

    model: nn.Module
    info: ModelInfo
    dataset: str | None = None
    image_size: int | None = None
    train_digest: str | None = None


def load(ref: str, checkpoint: Path | None = None, device: str = "cpu") -> Loaded:
    """The network that `ref` names: a card, a training run's folder, a .safetensors file or package.module:callable.

    `checkpoint` gives weights to a callable's network. Raises `BadInput` for a name nobody knows, bytes whose digest is
    not the card's, weights that do not fit, and anything that is not a torch module.
    """
    place = resolve_device(device)
    path = Path(ref)
    if checkpoint is not None and not _is_callable(ref, path):
        raise BadInput(f"--checkpoint goes with --model package.module:callable; {ref!r} brings its own weights")
    if path.is_dir():
        loaded = _from_file(ref, _run_weights(path))
    elif path.suffix == ".safetensors":
        loaded = _from_file(ref, path)
    elif path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        read_weights(path)
        raise BadInput(
            f"{path} holds weights only; name their network: --model package.module:callable --checkpoint {path}"
        )
    elif _is_callable(ref, path):
        loaded = _from_callable(ref, checkpoint)
    elif len(path.parts) > 1 or path.is_file():
        raise BadInput(f"{ref} is no run folder or .safetensors file; give one, or a name from `satbench models`")
    else:
        loaded = _from_card(ref)
    loaded.model.to(place)
    return loaded


def load_model(name: str, checkpoint: str | Path | None = None, device: str = "cpu") -> nn.Module:
    """The named network in eval mode on `device`: float (N, C, H, W) RGB in [0, 1] to logits (N, K). See `load`."""
    return load(name, Path(checkpoint) if checkpoint is not None else None, device).model


def _is_callable(ref: str, path: Path) -> bool:
    return ":" in ref and not path.exists()


def _run_weights(folder: Path) -> Path:
    best = folder / BEST
    if not best.is_file():
        raise BadInput(
            f"{folder} is not a finished training run: it has no {BEST}; run `satbench train --out {folder}`"
        )
    return best


def _from_card(name: str) -> Loaded:
    if name in ARCHITECTURES:
        raise BadInput(f"{name!r} is an architecture without weights; train it first: satbench train --model {name}")
    card = find_card(name)
    if not card.path.is_file():
        raise BadInput(f"the weights of {name!r} are missing: {card.path}; install satbench again")
    found = hashlib.sha256(card.path.read_bytes()).hexdigest()
    if found != card.sha256:
        raise BadInput(f"{card.path} has SHA-256 {found}, its card says {card.sha256}; install satbench again")
    return _from_file(name, card.path)


def _from_file(ref: str, path: Path) -> Loaded:
    model, provenance = load_model_file(path)
    info = ModelInfo(
        ref=ref,
        digest=model_digest(model),
        label=provenance.label,
        activation=model.spec.activation,
        method=provenance.method,
        recipe=provenance.recipe,
        seed=provenance.seed,
        trained_for=provenance.threat,
    )
    return Loaded(model, info, provenance.dataset, model.spec.image_size, provenance.train_digest)


def _from_callable(ref: str, checkpoint: Path | None) -> Loaded:
    module_name, _, attribute = ref.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        build = getattr(module, attribute, None)
        if not callable(build):
            raise BadInput(f"--model {ref}: {module_name} has no callable {attribute!r}; give package.module:callable")
        model = build if isinstance(build, nn.Module) else build()
    except BadInput:
        raise
    except ModuleNotFoundError as error:
        raise BadInput(f"--model {ref}: no module named {error.name!r}; give package.module:callable") from None
    except (ImportError, RuntimeError, SyntaxError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BadInput(f"--model {ref}: {reason}; give package.module:callable that needs no arguments") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise BadInput(f"--model {ref}: {attribute}() returned a {type(model).__name__}; expected a torch.nn.Module")
    if checkpoint is not None:
        load_strictly(model, read_weights(checkpoint), checkpoint)
    model.eval()
    return Loaded(model, ModelInfo(ref=ref, digest=model_digest(model), label=attribute))


__all__ = ["Loaded", "load", "load_model"]
