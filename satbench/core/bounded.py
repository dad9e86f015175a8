"""Files of others are read up to a size, and only where they are plain files."""

import zlib
from pathlib import Path

from satbench.core.errors import BadInput

MIB = 1 << 20
MOST_JSON = 16 * MIB  # of a file of JSON that satbench wrote; Python needs up to 40 times as much for it
MOST_LOG = 256 * MIB  # of a file that is read line by line


def read_bounded(path: Path, most: int = MOST_JSON) -> bytes:
    """The bytes of a plain file; every file of text that satbench reads back is read by this.

    Raises `BadInput` for more than `most` bytes, and for what is not a plain file, such as a pipe, on which a read
    would wait; OSError where it cannot be read.
    """
    check_plain(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BadInput(f"{path} has more than {most / MIB:,.3g} MiB, the most that is read; give a smaller file")
    return content


def check_plain(path: Path) -> None:
    """Raise `BadInput` for what is there but is not a plain file: a folder, or a pipe, on which a read would wait."""
    if not path.is_file() and path.exists():
        raise BadInput(f"{path} is not a plain file; give or put a file there, or remove it")


def gunzipped(content: bytes, most: int) -> bytes:
    """What gzip data hold; raises ValueError for more than `most` bytes, and zlib.error for damaged data."""
    unpacked = b""
    while content:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        unpacked += unpacker.decompress(content, most + 1 - len(unpacked))
        if len(unpacked) > most:
            raise ValueError(f"more than {most} bytes")
        if not unpacker.eof:
            raise ValueError("the data end early")
        content = unpacker.unused_data.lstrip(b"\0")
    return unpacked
