"""Arrays in a NumPy archive: `x` and `y`."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from satbench.core.errors import BadInput
from satbench.data.images import ImageSet, carve, image_set


def npz(path: Path, split: str | None, size: int | None) -> ImageSet:
    """Images `x` (uint8, or float in [0, 1]; N,H,W,C or N,C,H,W with 1 or 3 channels) and integer labels `y` (N,).

    Which axis holds the channels is the one of length 1 or 3; when both could, `BadInput` asks for a clear layout.
    """
    if not path.is_file():
        raise BadInput(f"no such file: {path}; npz:PATH names an archive with arrays x and y, see --data-dir")
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} holds one array, not an archive; write it by np.savez(path, x=x, y=y)")
            missing = [key for key in ("x", "y") if key not in archive.files]
            if missing:
                raise BadInput(f"{path} has no array {missing[0]!r}, only {archive.files}; expected x and y")
            x, y = archive["x"], archive["y"]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} is not a readable npz archive of plain arrays ({type(error).__name__})") from None
    if x.ndim != 4:
        raise BadInput(f"{path}: x has shape {x.shape}; expected (N, H, W, C) or (N, C, H, W)")
    first, last = x.shape[1] in (1, 3), x.shape[3] in (1, 3)
    if first == last:
        raise BadInput(f"{path}: x has shape {x.shape}; exactly one of axes 1 and 3 must be the channels (1 or 3)")
    pixels = x if first else x.transpose(0, 3, 1, 2)
    if pixels.shape[2] != pixels.shape[3]:
        raise BadInput(f"{path}: images are {pixels.shape[2]} x {pixels.shape[3]}; expected squares")
    if size not in (None, pixels.shape[2]):
        raise BadInput(f"{path}: images are {pixels.shape[2]} pixels a side, not {size}; resize the arrays first")
    ids = [f"{path.name}/{i:06d}" for i in range(len(pixels))]
    return carve(image_set(f"npz:{path.name}", "all", pixels, np.asarray(y), ids), split or "all")
