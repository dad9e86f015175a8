"""Weight files: safetensors that carry the spec of their network, so that the file alone rebuilds it."""

import hashlib
import json
import pickle
import struct
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from satbench.errors import BadInput
from satbench.models import ModelSpec, build_model
from satbench.models.classifier import Classifier
from satbench.results.schema import Threat

SCHEMA_VERSION = 1
HEADER = "satbench"  # the one metadata key: several would be written in no fixed order, and files would differ


# what torch.load raises on damaged bytes, each seen on some truncation or flipped bit
DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class Provenance(BaseModel):
    """Which training made the weights.

    threat: the one they were trained for. epoch: from 0. train_digest: of the images they were trained on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    recipe: str
    method: str
    dataset: str
    seed: int
    threat: Threat
    epoch: int
    train_digest: str


def save_model(path: Path, model: Classifier, provenance: Provenance) -> None:
    """Write weights, buffers, spec and provenance to one file; equal models give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"schema_version": SCHEMA_VERSION, "spec": model.spec.to_dict(), "provenance": provenance.model_dump()}
    save_file(tensors, path, metadata={HEADER: json.dumps(header, sort_keys=True)})


def load_model_file(path: Path) -> tuple[Classifier, Provenance]:
    """The network of a file written by `save_model`, in eval mode on the CPU, and its provenance.

    Raises `BadInput` when the file is missing, truncated, not from satbench, or does not fit its own spec.
    """
    tensors, metadata = read_safetensors(path)
    try:
        header = json.loads(metadata[HEADER])
        version, spec, provenance = header["schema_version"], header["spec"], header["provenance"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise BadInput(
            f"{path} holds weights but not which network they belong to; "
            "name it: --model package.module:callable --checkpoint FILE"
        ) from None
    if version != SCHEMA_VERSION:
        raise BadInput(f"{path} has schema version {version!r}, this satbench reads {SCHEMA_VERSION}; train it again")
    model = build_model(ModelSpec.from_json(json.dumps(spec)))
    load_strictly(model, tensors, path)
    try:
        return model.eval(), Provenance.model_validate(provenance)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in ("provenance", *first["loc"]))
        raise BadInput(f"{path}: {field}: {first['msg']}; train it again") from None


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises `BadInput` when it is missing or damaged."""
    if not path.is_file():
        raise BadInput(f"no such file: {path}; give a run folder, a .safetensors file or a name from `satbench models`")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file ({error}); fetch or train it again") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or from a torch file of plain weights, never by running a pickle.

    Raises `BadInput` for a missing, truncated or foreign file, and for a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise BadInput(f"no such checkpoint: {path}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadInput(
            f"{path} is damaged or a pickle with more than plain weights, and running it could execute any code; "
            "save `model.state_dict()` alone, best as safetensors"
        ) from None
    except DAMAGE as error:
        raise BadInput(f"{path} is not a whole torch file ({type(error).__name__}); fetch or train it again") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadInput(f"{path} is not a plain state dict of tensors; save `model.state_dict()` alone")
    return loaded


def load_strictly(model: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put `tensors` into `model`; raises `BadInput` naming the first missing, unexpected or misshapen entry."""
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise BadInput(f"{source} lacks {name!r}; it belongs to another network")
        if tensors[name].shape != tensor.shape:
            shapes = f"{tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
            raise BadInput(f"{source}: {name!r} has shape {shapes}; it belongs to another network")
    unexpected = sorted(set(tensors) - set(expected))
    if unexpected:
        raise BadInput(f"{source} has {unexpected[0]!r}, which the network lacks; it belongs to another network")
    model.load_state_dict(tensors)


def model_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and values of all parameters and buffers, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
