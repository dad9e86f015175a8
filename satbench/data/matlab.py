"""A table in a MATLAB 5 file, as the development kit of ImageNet has one; no native code reads the bytes."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

MOST = 1 << 24  # bytes of one unpacked variable
MATRIX, COMPRESSED = 14, 15  # types of elements
STRUCT, CHAR = 2, 4  # classes of arrays; numbers are above
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
LETTERS = {16: "u1", 17: "u2"}  # UTF-8 and UTF-16, of which only ASCII is expected


def read_table(content: bytes, variable: str, fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """The scalars and texts in `fields` of every entry of a struct array, in the file's order.

    Source: MAT-File Format, version 5 (MathWorks). Only little-endian files are read. Raises ValueError, KeyError,
    struct.error or zlib.error for anything else.
    """
    if content[126:128] != b"IM":
        raise ValueError("no little-endian MATLAB 5 file")
    for kind, data in _elements(content[128:]):
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            ((kind, data),) = _elements(unpacker.decompress(data, MOST))
        if kind == MATRIX:
            array, name, rest = _matrix(data)
            if array == STRUCT and name == variable:
                return _entries(rest, fields)
    raise KeyError(variable)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and data of each element; a small one has both in eight bytes."""
    at = 0
    while at < len(data):
        first, size = struct.unpack_from("<II", data, at)
        if first >> 16:
            kind, start, size, end = first & 0xFFFF, at + 4, first >> 16, at + 8
        else:
            kind, start = first, at + 8
            end = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(data) or (first >> 16 and size > 4):
            raise ValueError("an element reaches beyond its end")
        yield kind, data[start : start + size]
        at = end


def _matrix(data: bytes) -> tuple[int, str, list[tuple[int, bytes]]]:
    """Class and name of an array, and the elements behind them."""
    (_, flags), _, (_, name), *rest = _elements(data)
    return struct.unpack_from("<I", flags)[0] & 0xFF, name.decode("ascii"), rest


def _entries(rest: list[tuple[int, bytes]], fields: tuple[str, ...]) -> list[tuple[Any, ...]]:
    (_, length), (_, names), *values = rest
    (width,) = struct.unpack("<i", length)
    if width < 1:
        raise ValueError("field names have no length")
    known = [names[at : at + width].split(b"\0")[0].decode("ascii") for at in range(0, len(names), width)]
    columns = [known.index(field) for field in fields]
    if len(values) % len(known):
        raise ValueError("an entry is incomplete")
    return [tuple(_value(values[at + column][1]) for column in columns) for at in range(0, len(values), len(known))]


def _value(data: bytes) -> int | str:
    array, _, rest = _matrix(data)
    ((kind, raw),) = rest
    items = np.frombuffer(raw, f"<{(NUMBERS | LETTERS)[kind]}").tolist()
    if array == CHAR:
        return "".join(map(chr, items))
    (number,) = items
    return int(number)
