"""TensorFlow V2 checkpoints read without TensorFlow.

A checkpoint P is an index P.index, a sorted string table in LevelDB's layout, and shards P.data-SSSSS-of-NNNNN of raw
tensor bytes. Nothing in a file is believed before it was checked; whatever is wrong raises `BadInput` in one line.
"""

import contextlib
import importlib
import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from satbench.errors import BadInput

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48
TRAILER = 5  # after each block: compression type, masked checksum
MOST_SHARDS = 99_999  # what the five digits of a file name can say
LONGEST_NAME = 4096
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype("bool"),
    19: np.dtype("<f2"),
}
UNREADABLE = {7: "string", 14: "bfloat16"}
EMPTY = np.frombuffer(b"\0", np.uint8)[:0]
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), byte by byte: quick enough for an index only."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The form in which the files store a checksum."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _quick_crc32c() -> Callable[[np.ndarray], int] | None:
    for package, name in (("google_crc32c", "value"), ("crc32c", "crc32c")):
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(package), name)  # type: ignore[no-any-return]
    return None


class _Damage(Exception):
    """What is wrong, without the name of the file."""


class _Reader:
    """A cursor over bytes that never leaves them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise _Damage("it ends in the middle of an entry")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> 64:
                    break
                return value
        raise _Damage("a number in it has more than 64 bits")

    def fields(self) -> Iterator[tuple[int, int, int | bytes]]:
        """Number, wire type and value of every field of a protocol buffer."""
        while self:
            tag = self.varint()
            number, wire = tag >> 3, tag & 7
            if wire == VARINT:
                yield number, wire, self.varint()
            elif wire == BYTES:
                yield number, wire, self.take(self.varint())
            elif wire in (FIXED32, FIXED64):
                yield number, wire, int.from_bytes(self.take(4 if wire == FIXED32 else 8), "little")
            else:
                raise _Damage(f"a field of it has the unknown wire type {wire}")


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: `size` bytes from `offset` in shard number `shard`; `crc` is masked, as stored.

    `dtype` is what NumPy calls it, or None for a `kind` that cannot be read.
    """

    name: str
    kind: str
    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


class Bundle:
    """The checkpoint at `prefix`, its shards memory-mapped read-only; a context manager.

    `entries` are its variables by name, in the order of the file; `files` the index and then the shards. The index is
    checked whole when it is opened; each tensor against its checksum when it is read, if one of the packages
    google-crc32c and crc32c is installed (`checks_tensors`).
    """

    def __init__(self, prefix: Path) -> None:
        prefix = prefix.with_suffix("") if prefix.suffix == ".index" else prefix
        index = prefix.with_name(f"{prefix.name}.index")
        if not index.is_file():
            raise BadInput(f"no such file: {index}; give a checkpoint's path without .index or .data-00000-of-00001")
        try:
            shards, self.entries = _read_index(index.read_bytes())
        except _Damage as error:
            raise BadInput(f"{index} is no whole index of a TensorFlow checkpoint: {error}; fetch it again") from None
        parts = [prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
        self.files = [index, *parts]
        self._crc32c = _quick_crc32c()
        self.checks_tensors = self._crc32c is not None
        self._maps: list[mmap.mmap | bytes] = []
        for part in parts:
            self._maps.append(_mapped(part))
        self._check_bounds()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files; arrays that were read keep what they need of them."""
        self._maps = []

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only view on the mapped file, in the entry's shape and dtype, C order.

        Raises `BadInput` for a name that is not there, a kind that cannot be read, and bytes of another checksum.
        """
        if name not in self.entries:
            raise BadInput(f"{self.files[0]} has no variable {name!r}")
        entry = self.entries[name]
        if entry.dtype is None:
            raise BadInput(f"{self.files[0]}: {name!r} is of kind {entry.kind}, which is not read here")
        part = np.frombuffer(self._maps[entry.shard], np.uint8, entry.size, entry.offset) if entry.size else EMPTY
        if self._crc32c is not None and masked(self._crc32c(part)) != entry.crc:
            raise BadInput(
                f"{self.files[1 + entry.shard]}: the bytes of {name!r} do not match their checksum; fetch it again"
            )
        return part.view(entry.dtype).reshape(entry.shape)

    def release(self, name: str) -> None:
        """Tell the system that the mapped pages of this tensor are not needed any more."""
        entry = self.entries[name]
        mapped = self._maps[entry.shard]
        start = -(-entry.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (entry.offset + entry.size - start) // mmap.PAGESIZE * mmap.PAGESIZE
        if size > 0 and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED, start, size)

    def _check_bounds(self) -> None:
        for entry in self.entries.values():
            part = self.files[1 + entry.shard]
            mapped, end = self._maps[entry.shard], entry.offset + entry.size
            if end > len(mapped):
                hint = "it looks like a web page" if _is_page(bytes(mapped[:512])) else "fetch it again"
                raise BadInput(f"{part} has {len(mapped)} bytes, but {entry.name!r} ends at byte {end}; {hint}")


def _mapped(path: Path) -> mmap.mmap | bytes:
    """The file's bytes; an empty one cannot be mapped."""
    if not path.is_file():
        raise BadInput(f"no such file: {path}; it belongs beside its index")
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            return b""
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def _is_page(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def _read_index(data: bytes) -> tuple[int, dict[str, Entry]]:
    """Number of shards, and the entries in their order."""
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise _Damage("it looks like a web page" if _is_page(data[:512]) else "it does not end as one")
    footer = _Reader(data[-FOOTER:-8])
    _block(data, footer)  # of meta-information, unused
    rows: list[tuple[bytes, bytes]] = []
    for _, handle in _entries(_block(data, footer)):
        for row in _entries(_block(data, _Reader(handle))):
            if rows and row[0] <= rows[-1][0]:
                raise _Damage("its names are not in order")
            rows.append(row)
    if not rows or rows[0][0]:
        raise _Damage("its header is missing")
    shards = _shards(rows[0][1])
    entries = {}
    for key, value in rows[1:]:
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise _Damage(f"the name {key!r} is not UTF-8") from None
        entries[name] = _entry(name, value, shards)
    return shards, entries


def _block(data: bytes, handle: _Reader) -> bytes:
    """Content of the block at the offset and of the size that the handle says, after its checksum was verified."""
    offset, size = handle.varint(), handle.varint()
    end = offset + size
    if end + TRAILER > len(data) - FOOTER:
        raise _Damage("a block reaches beyond its end")
    if masked(crc32c(data[offset : end + 1])) != int.from_bytes(data[end + 1 : end + TRAILER], "little"):
        raise _Damage("a block does not match its checksum")
    if data[end]:
        kind = {1: "snappy"}.get(data[end], f"type {data[end]}")
        raise _Damage(f"a block is compressed ({kind}), which TensorFlow does not do")
    return data[offset:end]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; each key repeats the beginning of the one before. The restart points at the end serve search."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise _Damage("the restart points of a block reach beyond it")
    reader, key = _Reader(block[:end]), b""
    while reader:
        shared, unshared, size = reader.varint(), reader.varint(), reader.varint()
        if shared > len(key):
            raise _Damage("a name shares more than there is")
        key = key[:shared] + reader.take(unshared)
        if len(key) > LONGEST_NAME:
            raise _Damage(f"a name has {len(key)} bytes")
        yield key, reader.take(size)


def _shards(header: bytes) -> int:
    fields = {number: value for number, _, value in _Reader(header).fields()}
    shards = fields.get(1, 0)
    if fields.get(2, 0) != 0:
        raise _Damage("it is big-endian")
    if not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise _Damage(f"it says that there are {shards!r} data files")
    return shards


WIRES = {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32, 7: BYTES}


def _entry(name: str, value: bytes, shards: int) -> Entry:
    fields: dict[int, int | bytes] = {}
    for number, wire, content in _Reader(value).fields():
        if WIRES.get(number, wire) != wire:
            raise _Damage(f"field {number} of {name!r} has wire type {wire}")
        if number == 7:
            raise _Damage(f"{name!r} is a partitioned variable, which is not read here")
        fields[number] = content
    shape = _shape(name, fields.get(2, b""))
    enum, shard, offset, size, crc = (int(fields.get(number, 0)) for number in (1, 3, 4, 5, 6))
    if shard >= shards:
        raise _Damage(f"{name!r} lies in data file {shard} of {shards}")
    dtype = DTYPES.get(enum)
    if dtype is not None and math.prod(shape) * dtype.itemsize != size:
        raise _Damage(f"{name!r} of {dtype} and shape {shape} has {size} bytes")
    kind = str(dtype) if dtype is not None else UNREADABLE.get(enum, f"number {enum}")
    return Entry(name, kind, dtype, shape, shard, offset, size, crc)


def _shape(name: str, value: int | bytes) -> tuple[int, ...]:
    """The sizes of a TensorShapeProto: field 2 is a dimension, whose field 1 is its size."""
    assert isinstance(value, bytes)
    shape = []
    for number, wire, dimension in _Reader(value).fields():
        if number == 3:
            raise _Damage(f"the shape of {name!r} is unknown")
        if number == 2 and wire == BYTES:
            assert isinstance(dimension, bytes)
            sizes = [
                size for inner, inner_wire, size in _Reader(dimension).fields() if (inner, inner_wire) == (1, VARINT)
            ]
            shape.append(int(sizes[-1]) if sizes else 0)
    if any(size >> 63 for size in shape):
        raise _Damage(f"the shape of {name!r} has a negative size")
    return tuple(shape)
