"""TensorFlow's V2 checkpoints ("tensor bundles") without TensorFlow.

P.index is a sorted table of names and protocol buffers, P.data-SSSSS-of-NNNNN hold the tensors' bytes. The formats:
LevelDB's doc/table_format.md, TensorFlow's tensor_bundle.proto and types.proto; CRC-32C: RFC 3720, appendix B.4.
"""

import math
import mmap
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np

from satbench.core.errors import BadInput

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_TRAILER = 5  # after a block: its kind of compression, its checksum
_LARGEST_INDEX = 4 << 20  # EfficientNet-L1 with averages and optimizer slots needs a tenth
_LONGEST_NAMES = 64  # times the bytes of their block; names shared 16 at a time, as TensorFlow does, stay below 16

_READABLE = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 8: "<c8", 9: "<i8", 10: "?", 17: "<u2"}
_READABLE |= {18: "<c16", 19: "<f2", 22: "<u4", 23: "<u8"}
_UNREADABLE = {7: "string", 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16"}
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

    entries: every tensor by name, in the order of the index. files: the index, then the shards. checks_tensors: whether
    `read` compares checksums, which takes the package google-crc32c or crc32c; the index's own are always compared.
    """

    def __init__(self, prefix: Path) -> None:
        """Open `prefix`.index, the suffix given or not, and the shards beside it.

        Raises `BadInput` for a missing or damaged file, and for checkpoints that are compressed, big-endian or have
        partitioned variables.
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
        for entry in self.entries.values():
            end, size = entry.offset + entry.size, len(self._shards[entry.shard])
            if end > size:
                raise self._bad_shard(entry, f"has {size} bytes, but {entry.name!r} ends at byte {end}")
        self._crc32c = fast_crc32c
        self.checks_tensors = self._crc32c is not None

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """The tensor as a read-only C-order view on the mapped shard; it outlives the bundle and may be unaligned.

        Raises `BadInput` for a name the checkpoint lacks, a dtype that cannot be read and a checksum that differs.
        """
        entry = self._find(name)
        if isinstance(entry.dtype, str):
            raise BadInput(f"{self.files[0]}: {name!r} holds {entry.dtype}, which cannot be read; expected numbers")
        shard = self._shards[entry.shard]
        if self._crc32c is not None:
            stored = np.ndarray(entry.size, np.uint8, shard, entry.offset)
            if masked(self._crc32c(stored)) != entry.crc:
                raise self._bad_shard(entry, f"is damaged: the bytes of {name!r} do not have their checksum")
        return np.ndarray(entry.shape, entry.dtype, shard, entry.offset)

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

    def _bad_shard(self, entry: Entry, reason: str) -> BadInput:
        return _refusal(self.files[1 + entry.shard], self._shards[entry.shard], reason, (b"<!doctype", b"<html"))


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
    """Keys and values in order, from every data block."""
    if len(table) > _LARGEST_INDEX:
        raise _Damaged(f"it has {len(table)} bytes, more than the {_LARGEST_INDEX} of any network's")
    (_, _, offset, size), _ = _varints(table[-_FOOTER : -len(MAGIC)], 0, 4)
    end, last = 0, None
    for _, handle in _block_pairs(_block(table, offset, size)):
        (offset, size), _ = _varints(handle, 0, 2)
        if offset < end:
            raise _Damaged("its blocks overlap")
        end = offset + size
        for key, value in _block_pairs(_block(table, offset, size)):
            if last is not None and key <= last:
                raise _Damaged(f"the name {key!r} is not in order")
            last = key
            yield key, value


def _block(table: mmap.mmap | bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise _Damaged(f"a block ends at byte {end} of {len(table)}")
    if masked(crc32c(table[offset : end + 1])) != int.from_bytes(table[end + 1 : end + _TRAILER], "little"):
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


def _crc32c_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ 0x82F63B78 * (crc & 1) for crc in table]
    return table


_TABLE = _crc32c_table()


def crc32c(data: bytes) -> int:
    """CRC-32C, a byte at a time: quick enough for an index, not for tensors."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """The checksum as the files store it, so that one over data with checksums inside is as good as any."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def installed_crc32c() -> Callable[[Any], int] | None:
    for package, function in (("google_crc32c", "value"), ("crc32c", "crc32c")):
        try:
            module = import_module(package)
        except ImportError:
            continue
        if getattr(module, "implementation", "c") == "c":  # google-crc32c without its C part is as slow as our own
            return getattr(module, function)  # type: ignore[no-any-return]
    return None


fast_crc32c = installed_crc32c()
