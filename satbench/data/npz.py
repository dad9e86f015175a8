"""Arrays in a NumPy archive: `x` and `y`."""

import lzma
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from satbench.core.bounded import MIB, check_plain
from satbench.core.errors import FAULTS, BadInput
from satbench.data.arrays import array_images
from satbench.data.images import ImageSet, carve

DAMAGES = (
    *(*FAULTS, EOFError, MemoryError, OSError, SyntaxError),
    *(lzma.LZMAError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
USUAL = 256 * MIB  # unpacked bytes up to which an array may be packed however well
MOST_RATIO = 64  # of unpacked to packed bytes beyond; pixels of photographs have 1 to 3


def npz(path: Path, split: str | None, size: int | None) -> ImageSet:
    """Images `x` (uint8, or float in [0, 1]; N,H,W,C or N,C,H,W with 1 or 3 channels) and integer labels `y` (N,).

    Which axis holds the channels is the one of length 1 or 3; when both could, `BadInput` asks for a clear layout.
    """
    check_plain(path)
    if not path.is_file():
        raise BadInput(f"no such file: {path}; npz:PATH names an archive with arrays x and y, see --data-dir")
    try:
        with zipfile.ZipFile(path) as archive:
            x, y = (_array(archive, name, path) for name in "xy")
    except BadInput:
        raise
    except DAMAGES as error:
        raise BadInput(f"{path} is not a readable npz archive of plain arrays ({type(error).__name__})") from None
    whole = array_images(f"npz:{path.name}", "all", x, y, path.name)
    if size not in (None, whole.shape[-1]):
        raise BadInput(f"{path}: images are {whole.shape[-1]} pixels a side, not {size}; resize the arrays first")
    return carve(whole, split or "all")


def _array(archive: zipfile.ZipFile, name: str, path: Path) -> np.ndarray:
    """The array, whose size is known before it is unpacked: the header states what the archive does."""
    names = archive.namelist()
    if names.count(f"{name}.npy") != 1:
        known = sorted(one.removesuffix(".npy") for one in names)
        raise BadInput(f"{path} has no array {name!r} or several, only {known}; expected x and y")
    about = archive.getinfo(f"{name}.npy")
    if about.file_size > max(USUAL, MOST_RATIO * about.compress_size):
        raise BadInput(
            f"{path}: {name} is packed {about.file_size // max(1, about.compress_size)} times; store it by np.savez"
        )
    with archive.open(about) as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(stream)
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise BadInput(f"{path}: {name} has the type {dtype}; expected plain arrays of numbers")
        stated = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if stated != about.file_size - stream.tell():
            raise BadInput(f"{path}: {name} of shape {shape} has not the bytes that it states; make it again")
    with archive.open(about) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)
