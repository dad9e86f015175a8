"""Weight files: safetensors that carry the spec of their network, so that the file alone rebuilds it.

A file from a training says which training; a file converted from a released checkpoint says which checkpoint, and holds
the logits of a probe batch, which are computed again at every load.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from satbench.core.bounded import check_plain
from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.extra import ExtraData
from satbench.core.parameters import Count, Index
from satbench.core.parsing import parsed
from satbench.core.plugins import check_allowed
from satbench.models import ModelSpec, empty_model, own_code
from satbench.models.classifier import Classifier
from satbench.models.torch_file import read_torch_file

SCHEMA_VERSION = 2
PROBE_IMAGES, PROBE_LOGITS = "probe.images", "probe.logits"
PROBE_SIDE = 64
PROBE_TOLERANCE = 1e-4  # of the largest logit; float32 on another processor stays a tenth below
HEADER = "satbench"  # the one metadata key: several would be written in no fixed order, and files would differ
OWN = '"digest": "sha256:'  # in the metadata of satbench's own files alone
LARGEST_HEADER = 16 << 20  # bytes; that of a network of 10,000 tensors has 1 MB


class Provenance(BaseModel):
    """Which training made the weights.

    threat: the one they were trained for. epoch: from 0. train_digest: of the images they were trained on.
    config: `TrainConfig.digest`, equal for the seeds of one training. family: the same without the activation.
    unfinished: the epochs of the training, while it is not over.
    class_names: of the outputs, where the images lay in class folders.
    val: size of the validation split where it was not the data set's own, as `DataConfig.val`.
    train_n: number of training images where it was not all of the split, as `DataConfig.train_n`.
    extra: images of another data set that were mixed into the batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    recipe: str
    method: str
    dataset: str
    seed: Index
    threat: Threat
    epoch: Index
    train_digest: str
    config: str
    family: str
    unfinished: Count | None = None
    class_names: tuple[str, ...] | None = None
    val: int | float | str | None = None
    train_n: int | None = None
    extra: ExtraData | None = None


class Conversion(BaseModel):
    """Which released checkpoint the weights were converted from.

    card: its name in the registry. threat, dataset, loader, channel_order: as on the card.
    sources: SHA-256 of each file by its name. converter: version of the conversion.
    averaged: whether moving averages were taken. ignored: how many variables are no part of the network.
    digest: of the network, see `model_digest`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: str
    threat: Threat
    dataset: str
    loader: str
    channel_order: str
    sources: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    converter: Count
    averaged: bool
    ignored: Index
    digest: str


ORIGINS: dict[str, type[Provenance] | type[Conversion]] = {"provenance": Provenance, "conversion": Conversion}


def save_model(path: Path, model: Classifier, provenance: Provenance | Conversion) -> None:
    """Write weights, buffers, spec and provenance to one file; equal models give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {"schema_version": SCHEMA_VERSION, "spec": model.spec.to_dict()}
    kind = "conversion" if isinstance(provenance, Conversion) else "provenance"
    header[kind] = provenance.model_dump(mode="json", exclude_none=True)
    header["digest"] = _digest(header, tensors)
    if isinstance(provenance, Conversion):
        tensors[PROBE_IMAGES] = _probe_images(model.spec)
        tensors[PROBE_LOGITS] = _probe(model, tensors[PROBE_IMAGES])
    write_safetensors(path, tensors, {HEADER: json.dumps(header, sort_keys=True)})


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a file; raises OSError, as any writing does, where the disk is full."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from None


def _probe_images(spec: ModelSpec) -> Tensor:
    """Two images of noise in blocks of 1 and of 8 pixels, uint8; small, for a network takes any side."""
    side = min(PROBE_SIDE, spec.image_size)
    source = torch.Generator().manual_seed(0)
    fine = torch.randint(256, (1, spec.channels, side, side), generator=source, dtype=torch.uint8)
    coarse = torch.randint(256, (1, spec.channels, -(-side // 8), -(-side // 8)), generator=source, dtype=torch.uint8)
    return torch.cat([fine, coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :side, :side]])


def _probe(model: Classifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(images.float() / 255)
    return logits


def load_model_file(path: Path) -> tuple[Classifier, Provenance | Conversion]:
    """The network of a file written by `save_model`, in eval mode on the CPU, and where its weights come from.

    Raises `BadInput` when the file is missing, truncated, not from satbench, or does not fit its own spec, when its
    spec names code outside satbench that the user did not allow, when the network or what is said of it differs from
    the digest in the file, and a converted one from its logits on the probe batch.
    """
    tensors, metadata = read_safetensors(path)
    probe = [tensors.pop(key, None) for key in (PROBE_IMAGES, PROBE_LOGITS)]
    spec, origin, header = _header(path, metadata)
    for name in own_code(spec):
        check_allowed(name, path)
    _check_digest(path, header, tensors)
    with no_larger_than(tensors, path):
        model = empty_model(spec)
    load_strictly(model, tensors, path, assign=True)
    model.eval()
    if isinstance(origin, Conversion):
        _check_conversion(path, model, origin, *probe)
    return model, origin


def read_header(path: Path) -> tuple[ModelSpec, Provenance | Conversion]:
    """Which network a file written by `save_model` holds and where it comes from, without reading the weights."""
    spec, origin, _ = _header(path, read_metadata(path))
    return spec, origin


def _header(path: Path, metadata: dict[str, str]) -> tuple[ModelSpec, Provenance | Conversion, dict[str, Any]]:
    """The network's spec, where its weights come from, and the whole header."""
    try:
        header = json.loads(metadata[HEADER])
        version = header["schema_version"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise BadInput(
            f"{path} holds weights but not which network they belong to; "
            "name it: --model package.module:callable --checkpoint FILE"
        ) from None
    if version != SCHEMA_VERSION:
        raise BadInput(f"{path} has schema version {version!r}, this satbench reads {SCHEMA_VERSION}; make it again")
    kind = "conversion" if "conversion" in header else "provenance"
    try:
        spec = ModelSpec.from_json(json.dumps(header["spec"]))
        origin = parsed(ORIGINS[kind], header[kind], f"{path}, {kind}", "make it again")
        return spec, origin, header
    except KeyError as error:
        raise BadInput(f"{path}: its header lacks {error}; make it again") from None


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the network's tensors and of everything else that the header says."""
    said = json.dumps({key: value for key, value in header.items() if key != "digest"}, sort_keys=True)
    return f"sha256:{hashlib.sha256(f'{tensors_digest(tensors)} {said}'.encode()).hexdigest()}"


def _check_digest(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    if header.get("digest") != _digest(header, tensors):
        raise BadInput(
            f"{path}: the weights, or what is said of them, are not what was saved; fetch, import or train them again"
        )


def _check_conversion(
    path: Path, model: Classifier, conversion: Conversion, images: Tensor | None, logits: Tensor | None
) -> None:
    advice = "remove it, and import or fetch the checkpoint again"
    if images is None or logits is None:
        raise BadInput(f"{path} lacks its probe batch; {advice}")
    expected = _probe_images(model.spec)
    if (images.shape, images.dtype) != (expected.shape, expected.dtype):
        raise BadInput(f"{path}: its probe batch has shape {tuple(images.shape)}; {advice}")
    found = _probe(model, images)
    if found.shape != logits.shape or not (found - logits).abs().max() <= PROBE_TOLERANCE * logits.abs().max():
        raise BadInput(f"{path}: other logits on the probe batch than at the conversion; {advice}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; raises `BadInput` when it is missing or damaged."""
    with _opened(path) as file:
        # a clone is aligned as torch likes it: kernels, and so the last bits of logits, depend on that
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata() or {}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone."""
    with _opened(path) as file:
        return file.metadata() or {}


def is_of_satbench(path: Path) -> bool:
    """Whether satbench wrote the file, which then says itself which network it holds.

    Raises `BadInput` for a .safetensors file that cannot be read.
    """
    return path.suffix == ".safetensors" and HEADER in read_metadata(path)


@contextmanager
def no_larger_than(tensors: Mapping[str, Tensor], path: Path) -> Iterator[None]:
    """Stop building a network once its parameters are far more, or far larger, than what the file holds.

    Modules that are replaced while the network is built count too, and a network that is too large by less is refused
    later, by the name of a tensor.
    """
    parameters = 100 + 2 * len(tensors)
    elements = 10_000_000 + 2 * sum(tensor.numel() for tensor in tensors.values())

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters, elements
        parameters -= 1
        elements -= 0 if parameter is None else parameter.numel()
        if min(parameters, elements) < 0:
            raise BadInput(f"{path} names a larger network than it has weights for; make it again")

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    check_plain(path)
    if not path.is_file():
        raise BadInput(f"no such file: {path}; give a run folder, a .safetensors file or a name from `satbench models`")
    with path.open("rb") as start:
        size = int.from_bytes(start.read(8), "little")
    if size > LARGEST_HEADER:
        raise BadInput(f"{path} is not a whole safetensors file (its header has {size} bytes); fetch or train it again")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is not a whole safetensors file ({error}); fetch or train it again") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a .safetensors file or from one of `torch.save`, see `read_torch_file`.

    Raises `BadInput` for a missing, damaged or foreign file, and for one of satbench's own whose weights do not have
    its digest.
    """
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        if HEADER in metadata:
            weights = {name: tensors[name] for name in tensors.keys() - {PROBE_IMAGES, PROBE_LOGITS}}
            _check_digest(path, _header(path, metadata)[2], weights)
        elif any(OWN in value for value in metadata.values()):
            raise BadInput(f"{path} is damaged: its metadata lacks {HEADER!r}; fetch, import or train it again")
        return tensors
    return read_torch_file(path)


def load_strictly(model: nn.Module, tensors: dict[str, Tensor], source: Path | str, assign: bool = False) -> None:
    """Put `tensors` into `model`; raises `BadInput` naming the first missing, unexpected or misshapen entry.

    With `assign` they become the model's own tensors and must have its dtypes; otherwise they are copied, from and to
    any precision, but not between floating-point, complex, boolean and integer numbers.
    """
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise BadInput(f"{source} lacks {name!r}; it belongs to another network")
        if tensors[name].shape != tensor.shape:
            shapes = f"{tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
            raise BadInput(f"{source}: {name!r} has shape {shapes}; it belongs to another network")
        given = tensors[name].dtype
        if assign and given != tensor.dtype:
            raise BadInput(f"{source}: {name!r} is {given} instead of {tensor.dtype}; make it again")
        if _kind(given) != _kind(tensor.dtype):
            raise BadInput(f"{source}: {name!r} is {given} instead of {tensor.dtype}; it belongs to another network")
    unexpected = sorted(set(tensors) - set(expected))
    if unexpected:
        raise BadInput(f"{source} has {unexpected[0]!r}, which the network lacks; it belongs to another network")
    model.load_state_dict(tensors, assign=assign)


def _kind(dtype: torch.dtype) -> tuple[bool, bool, bool]:
    return dtype.is_floating_point, dtype.is_complex, dtype == torch.bool


def model_digest(model: nn.Module) -> str:
    """`tensors_digest` of all parameters and buffers."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and values, as `sha256:<hex>`."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
