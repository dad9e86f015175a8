"""TensorFlow's V2 checkpoints ("tensor bundles") without TensorFlow.

P.index is a sorted table of names and protocol buffers, P.data-SSSSS-of-NNNNN hold the tensors' bytes. The formats:
LevelDB's doc/table_format.md, TensorFlow's tensor_bundle.proto and types.proto; CRC-32C: RFC 3720, appendix B.4.
"""

import math
import mmap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np

from satbench.core.errors import BadInput

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # after a block: its kind of compression, its checksum
_LARGEST_INDEX = 4 << 20  # EfficientNet-L1 with averages and optimizer slots needs a tenth
_LONGEST_NAMES = 64  # times the bytes of their block; names shared 16 at a time, as TensorFlow does, stay below 16

_READABLE = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?", 17: "<u2"}
_READABLE |= {18: "<c16", 19: "<f2", 22: "<u4", 23: "<u8"}
STRING = "string"
_UNREADABLE = {7: STRING, 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16"}
_UNREADABLE |= {20: "resource", 21: "variant", 24: "float8_e5m2", 25: "float8_e4m3fn", 29: "int4", 30: "uint4"}
_DTYPES: dict[int, np.dtype[Any] | str] = {number: np.dtype(code) for number, code in _READABLE.items()} | _UNREADABLE


class _Damaged(Exception):
    """The bytes of an index contradict its format."""


class _Unsupported(Exception):
    """An index is whole but of a kind no released checkpoint has."""


@dataclass(frozen=True)
class Entry:
    """A tensor: its place in a shard in bytes, and its masked CRC-32C as stored.

    `dtype` is a name when NumPy has none for it, such as "string"; such a tensor cannot be read.
    """

    name: str
    dtype: np.dtype[Any] | str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int


class Bundle:
    """An open checkpoint; a context manager. Its files must not change until the last array read from it is gone.

    entries: every tensor by name, in the order of the index. files: the index, then the shards.
    """

    def __init__(self, prefix: Path) -> None:
        """Open `prefix`.index, the suffix given or not, and the shards beside it.

        Every byte of the index is covered by a checksum or has one possible value, and the tensors cover each shard
        without overlap, gap or remainder. Raises `BadInput` for a missing or damaged file, and for checkpoints that are
        compressed, big-endian or have partitioned variables.
        """
        stem = str(prefix).removesuffix(".index")
        index = Path(f"{stem}.index")
        table = _map(index)
        if len(table) < _FOOTER or table[-len(MAGIC) :] != MAGIC:
            raise _refusal(index, table, "is no checkpoint index, or not all of it", signs=(b"<",))
        try:
            pairs = _pairs(table)
            count = _shard_count(*next(pairs, (None, b"")))
            shards = [Path(f"{stem}.data-{shard:05d}-of-{count:05d}") for shard in range(count)]
            self.files = [index, *shards]
            self._shards = [_map(shard) for shard in shards]
            self.entries = {entry.name: entry for entry in (_entry(key, value, count) for key, value in pairs)}
        except _Damaged as error:
            raise BadInput(f"{index} is damaged: {error}; fetch it again") from None
        except _Unsupported as error:
            expected = "expected an uncompressed little-endian checkpoint of whole variables"
            raise BadInput(f"{index} has {error}; {expected}") from None
        for shard in range(count):
            self._check_layout(shard)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor as a read-only C-order view on the mapped shard; it outlives the bundle and may be unaligned.

        Raises `BadInput` for a name the checkpoint lacks, a dtype that cannot be read and a checksum that differs.
        """
        entry = self._find(name)
        if isinstance(entry.dtype, str):
            raise BadInput(f"{self.files[0]}: {name!r} holds {entry.dtype}, which cannot be read; expected numbers")
        self.check(name)
        return np.ndarray(entry.shape, entry.dtype, self._shards[entry.shard], entry.offset)

    def check(self, name: str) -> None:
        """Compare the tensor's bytes with their checksum, also where `read` does not know its dtype.

        Raises `BadInput` for a name the checkpoint lacks and a checksum that differs.
        """
        entry = self._find(name)
        stored = np.ndarray(entry.size, np.uint8, self._shards[entry.shard], entry.offset)
        try:
            crc = _crc_of_strings(stored, math.prod(entry.shape)) if entry.dtype == STRING else _crc(stored)
        except _Damaged:
            crc = None
        if crc is None or masked(crc) != entry.crc:
            raise self._bad_shard(entry.shard, f"is damaged: the bytes of {name!r} do not have their checksum")

    def release(self, name: str) -> None:
        """Let the system drop the tensor's pages from memory; using the array again reads them from the file again."""
        entry = self._find(name)
        shard = self._shards[entry.shard]
        if entry.size and isinstance(shard, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            start = entry.offset - entry.offset % mmap.PAGESIZE
            shard.madvise(mmap.MADV_DONTNEED, start, entry.offset + entry.size - start)

    def close(self) -> None:
        """Let go of the shards; arrays already read stay valid."""
        self._shards = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _find(self, name: str) -> Entry:
        if not self._shards:
            raise ValueError("the bundle is closed")
        if name not in self.entries:
            raise BadInput(f"{self.files[0]} has no tensor {name!r}; expected one of its {len(self.entries)}")
        return self.entries[name]

    def _check_layout(self, shard: int) -> None:
        """Refuse a shard that its tensors do not cover exactly, as TensorFlow writes them."""
        size, covered, before = len(self._shards[shard]), 0, ""
        entries = [entry for entry in self.entries.values() if entry.shard == shard]
        for entry in sorted(entries, key=lambda entry: (entry.offset, entry.size)):
            start, end = entry.offset, entry.offset + entry.size
            if end > size:
                raise self._bad_shard(shard, f"has {size} bytes, but {entry.name!r} ends at byte {end}")
            if start < covered:
                raise self._bad_shard(shard, f"is not what its index says: {entry.name!r} overlaps {before!r}")
            if start > covered:
                raise self._bad_shard(shard, f"is not what its index says: no tensor has bytes {covered} to {start}")
            covered, before = end, entry.name
        if covered < size:
            raise self._bad_shard(shard, f"has {size} bytes, but its last tensor ends at byte {covered}")

    def _bad_shard(self, shard: int, reason: str) -> BadInput:
        return _refusal(self.files[1 + shard], self._shards[shard], reason, (b"<!doctype", b"<html"))


def _map(path: Path) -> mmap.mmap | bytes:
    """The file's bytes, mapped; an empty file has none to map."""
    try:
        if not path.is_file():
            raise BadInput(f"{path} is missing; a checkpoint is a .index file with all its .data files beside it")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); expected a checkpoint's file") from None


def _refusal(path: Path, data: mmap.mmap | bytes, reason: str, signs: tuple[bytes, ...]) -> BadInput:
    if data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(signs):
        reason = "looks like a web page rather than a checkpoint"
    return BadInput(f"{path} {reason}; fetch it again")


# the table


def _pairs(table: mmap.mmap | bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values in order, from every data block; raises `_Damaged` at the latest after the last pair.

    A table is data blocks, an empty block for other data, a block of the places of the data blocks, and a footer.
    """
    if len(table) > _LARGEST_INDEX:
        raise _Damaged(f"it has {len(table)} bytes, more than the {_LARGEST_INDEX} of any network's")
    footer = table[-_FOOTER : -len(MAGIC)]
    (*other, offset, size), padding = _varints(footer, 0, 4)
    if any(footer[padding:]):
        raise _Damaged("its last 48 bytes are more than two places and zeros")
    end, last = 0, None
    for _, handle in _block_pairs(_block(table, offset, size)):
        place, _ = _varints(handle, 0, 2)
        end = _following(place, end)
        for key, value in _block_pairs(_block(table, *place)):
            if last is not None and key <= last:
                raise _Damaged(f"the name {key!r} is not in order")
            last = key
            yield key, value
    if any(_block_pairs(_block(table, *other))):
        raise _Damaged("it holds more than tensors")
    if _following([offset, size], _following(other, end)) != len(table) - _FOOTER:
        raise _Damaged("its blocks do not fill it")


def _following(place: Iterable[int], end: int) -> int:
    """Where the block at `place` ends, which must begin at byte `end`."""
    offset, size = place
    if offset != end:
        raise _Damaged(f"its blocks overlap or leave bytes out at byte {min(offset, end)}")
    return offset + size + _TRAILER


def _block(table: mmap.mmap | bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise _Damaged(f"a block ends at byte {end} of {len(table)}")
    if masked(_crc(table[offset : end + 1])) != int.from_bytes(table[end + 1 : end + _TRAILER], "little"):
        raise _Damaged(f"the block at byte {offset} does not have its checksum")
    if table[end]:
        raise _Unsupported(f"a compressed block (type {table[end]}; 1 is snappy)")
    return table[offset:end]


def _block_pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A key is stored as how much it shares with the one before it, and the rest."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise _Damaged(f"a block of {len(block)} bytes claims {restarts} restarts")
    at, key, spelled = 0, b"", 0
    while at < end:
        (shared, rest, length), at = _varints(block, at, 3)
        if shared > len(key) or at + rest + length > end:
            raise _Damaged("an entry reaches beyond its block or the name before it")
        key = key[:shared] + block[at : at + rest]
        spelled += len(key)
        if spelled > _LONGEST_NAMES * len(block):
            raise _Damaged("its names are far longer than its blocks")
        at += rest + length
        yield key, block[at - length : at]


def _varints(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """`count` numbers of at most 64 bits from byte `at`, seven bits a byte, low first; then where they end."""
    values = []
    for _ in range(count):
        value = 0
        for place, byte in enumerate(data[at : at + 10]):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80 and value < 1 << 64:
                break
        else:
            raise _Damaged("a number ends too late or not at all")
        if place and not byte:
            raise _Damaged("a number takes more bytes than it needs")
        values.append(value)
        at += place + 1
    return values, at


# its values


def _shard_count(key: bytes | None, value: bytes) -> int:
    if key != b"":
        raise _Damaged("it has no header")
    numbers, _ = _fields(value)
    if numbers[2]:
        raise _Unsupported("big-endian tensors")
    if not 1 <= numbers[1] <= 99_999:
        raise _Damaged(f"it claims {numbers[1]} shards")
    return numbers[1]


def _entry(key: bytes, value: bytes, shards: int) -> Entry:
    if key.startswith(b"\0"):
        raise _Unsupported("a slice of a partitioned variable")  # its key is in another code, which begins with a zero
    try:
        name = key.decode()
    except UnicodeDecodeError:
        raise _Damaged(f"the name {key!r} is not UTF-8") from None
    numbers, parts = _fields(value)
    if parts[7]:
        raise _Unsupported(f"the partitioned variable {name!r}")
    dims = [part for shape in parts[2] for part in _fields(shape)[1][2]]
    shape = tuple(_fields(dim)[0][1] for dim in dims[:33])
    if len(shape) > 32 or math.prod(max(dim, 1) for dim in shape) >= 1 << 59:
        raise _Damaged(f"no array has the shape of {name!r}")
    if numbers[1] not in _DTYPES:
        raise _Damaged(f"{name!r} has the unknown dtype {numbers[1]}")
    dtype, size = _DTYPES[numbers[1]], numbers[5]
    if not isinstance(dtype, str) and size != math.prod(shape) * dtype.itemsize:
        raise _Damaged(f"{name!r} has {size} bytes, which is not shape {shape} of {dtype}")
    if numbers[3] >= shards:
        raise _Damaged(f"{name!r} lies in shard {numbers[3]} of {shards}")
    return Entry(name, dtype, shape, numbers[3], numbers[4], size, numbers[6])


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """A protocol buffer's numbers, 0 where absent and the last where repeated, and its byte strings, by field."""
    numbers: dict[int, int] = defaultdict(int)
    parts: dict[int, list[bytes]] = defaultdict(list)
    at = 0
    while at < len(message):
        (tag,), at = _varints(message, at, 1)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            (numbers[field],), at = _varints(message, at, 1)
            continue
        if wire == 2:
            (length,), at = _varints(message, at, 1)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _Damaged(f"an entry has the wire type {wire}")
        part, at = message[at : at + length], at + length
        if at > len(message):
            raise _Damaged("a field reaches beyond its entry")
        if wire == 2:
            parts[field].append(part)
        else:
            numbers[field] = int.from_bytes(part, "little")
    return numbers, parts


# checksums


def _crc(data: Any) -> int:
    """CRC-32C of bytes or of an array."""
    crc: int = google_crc32c.value(data)
    return crc


def _crc_of_strings(stored: np.ndarray[Any, Any], count: int) -> int:
    """The checksum of a tensor of `count` strings.

    It is stored as the strings' lengths, a checksum of these, and the strings. Both checksums cover a length as four
    bytes, or eight where it needs them, and not as it is stored.
    """
    data = stored.tobytes()
    if count > len(data):
        raise _Damaged("it has fewer bytes than strings")
    lengths, at = _varints(data, 0, count)
    spelled = b"".join(length.to_bytes(4 if length < 1 << 32 else 8, "little") for length in lengths)
    if masked(_crc(spelled)) != int.from_bytes(data[at : at + 4], "little") or len(data) != at + 4 + sum(lengths):
        raise _Damaged("the lengths of its strings are not those that were written")
    return _crc(spelled + data[at:])


def masked(crc: int) -> int:
    """The checksum as the files store it: rotated, with a constant added."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
