"""Files of `torch.save`, read without executing a pickle."""

import pickle
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from satbench.core.bounded import check_plain
from satbench.core.errors import BadInput

# what zipfile and torch.load raise on damaged bytes, each seen on some truncation or flipped bit
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
    zipfile.BadZipFile,
    zlib.error,
)


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The dense CPU tensors of a state dict that `torch.save` wrote.

    Raises `BadInput` for a missing, damaged or compressed file and for one that holds anything else. A file in the
    format before PyTorch 1.6, which is no zip archive, has no checksums.
    """
    check_plain(path)
    if not path.is_file():
        raise BadInput(f"no such checkpoint: {path}")
    check_archive(path, compressed=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols and of tensors that are refused
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
    for name, tensor in loaded.items():
        _check_dense(path, name, tensor)
    return loaded


def check_archive(path: Path, compressed: bool = True) -> None:
    """Compare the CRC-32 of every member of a zip archive of torch, a MiB at a time; other files are left alone.

    Raises `BadInput` for an archive that is damaged and, unless `compressed`, for one that unpacks to more than it has
    bytes. Only programs in TorchScript have compressed members, of code.
    """
    with path.open("rb") as start:
        if start.read(4) != b"PK\3\4":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            methods = {member.compress_type for member in members}
            unpacked = sum(member.file_size for member in members)
            if not compressed and (unpacked > path.stat().st_size or methods - {zipfile.ZIP_STORED}):
                raise BadInput(f"{path} is compressed, to {unpacked} bytes unpacked; save it by torch.save")
            if methods - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                raise zipfile.BadZipFile
            damaged = archive.testzip()
    except BadInput:
        raise
    except DAMAGE as error:
        raise BadInput(f"{path} is not a whole torch file ({type(error).__name__}); fetch or save it again") from None
    if damaged is not None:
        raise BadInput(f"{path} is damaged: {damaged!r} does not have its CRC-32; fetch or save it again")


def _check_dense(path: Path, name: object, tensor: Tensor) -> None:
    kind = (
        "quantized"
        if tensor.is_quantized
        else f"{tensor.layout}".removeprefix("torch.")
        if tensor.layout != torch.strided
        else "nested"
        if tensor.is_nested
        else tensor.device.type
    )
    if kind != "cpu":
        raise BadInput(f"{path}: {name!r} is a tensor of kind {kind}; save dense tensors that hold their values")
    if tensor.numel() * tensor.element_size() > path.stat().st_size:
        raise BadInput(f"{path}: {name!r} of shape {tuple(tensor.shape)} has more elements than the file; save it")
