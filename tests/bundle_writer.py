"""TensorFlow V2 checkpoints for tests: `write_bundle` writes right ones, the parts below it also wrong ones.

Checksums are those of google-crc32c, so that the reader's own are compared with another implementation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import google_crc32c
import numpy as np

Pair = tuple[bytes, bytes]

DTYPES = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9}
DTYPES |= {"bool": 10, "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23}
MAGIC = 0xDB4775248B80FB57


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, np.ndarray],
    shards: int = 1,
    block_size: int = 1 << 18,
    restart_interval: int = 16,
) -> None:
    """Write `prefix`.index and its shards, dealing the tensors out in turn.

    The mapping is asked for one array at a time. A new block begins after `block_size` bytes, a full name every
    `restart_interval` entries.
    """
    pairs = [(b"", header(shards))]
    with ExitStack() as stack:
        files = [stack.enter_context(shard_path(prefix, shard, shards).open("wb")) for shard in range(shards)]
        for position, name in enumerate(sorted(tensors, key=str.encode)):
            shard = position % shards
            array = np.asarray(tensors[name])
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            pairs.append((name.encode(), entry(array.dtype.name, array.shape, shard, files[shard].tell(), data)))
            files[shard].write(data)
    write_index(prefix, table(pairs, block_size, restart_interval))


def index_path(prefix: Path) -> Path:
    return Path(f"{prefix}.index")


def shard_path(prefix: Path, shard: int = 0, shards: int = 1) -> Path:
    return Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")


def write_index(prefix: Path, content: bytes) -> None:
    index_path(prefix).write_bytes(content)


# protocol buffers


def varint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def field(number: int, value: int | bytes) -> bytes:
    """A number as a varint, or bytes after their length; nothing for 0, as proto3 has it."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + value.to_bytes(4, "little")


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1))


def entry(
    dtype: str | int,
    shape: tuple[int, ...] = (),
    shard: int = 0,
    offset: int = 0,
    data: bytes = b"",
    *,
    size: int | None = None,
) -> bytes:
    """What the index says of the tensor `data`, or pretends when `size` is given."""
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    number = DTYPES[dtype] if isinstance(dtype, str) else dtype
    place = field(3, shard) + field(4, offset) + field(5, len(data) if size is None else size)
    return field(1, number) + field(2, dims) + place + fixed32(6, masked(data))


def masked(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % (1 << 32)


# the table


def table(pairs: Iterable[Pair], block_size: int = 1 << 18, restart_interval: int = 16) -> bytes:
    """A whole index of the pairs as given, in order or not."""
    return bound(list(blocks(pairs, block_size, restart_interval)))


def blocks(pairs: Iterable[Pair], block_size: int = 1 << 18, restart_interval: int = 16) -> Iterator[Pair]:
    """The content of every data block, after its last key."""
    waiting: list[Pair] = []
    size = 0
    for key, value in pairs:
        waiting.append((key, value))
        size += len(key) + len(value)
        if size >= block_size:
            yield key, block(waiting, restart_interval)
            waiting, size = [], 0
    if waiting:
        yield waiting[-1][0], block(waiting, restart_interval)


def block(pairs: Iterable[Pair], restart_interval: int = 16) -> bytes:
    content, restarts, last = bytearray(), [], b""
    for position, (key, value) in enumerate(pairs):
        shared = 0
        if position % restart_interval == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        rest = key[shared:]
        content += varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value
        last = key
    restarts = restarts or [0]
    return bytes(content) + b"".join(number.to_bytes(4, "little") for number in [*restarts, len(restarts)])


def sealed(content: bytes, kind: int = 0) -> bytes:
    """A block with its type of compression and its checksum."""
    whole = content + bytes([kind])
    return whole + masked(whole).to_bytes(4, "little")


def handle(offset: int, size: int) -> bytes:
    return varint(offset) + varint(size)


def footer(meta: bytes, index: bytes) -> bytes:
    return (meta + index).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def bound(
    contents: list[Pair], kind: int = 0, place: Callable[[int, int], tuple[int, int]] = lambda *place: place
) -> bytes:
    """An index of these data blocks; `place` may misstate their offsets and sizes."""
    whole, places = b"", []
    for last, content in contents:
        places.append((last, handle(*place(len(whole), len(content)))))
        whole += sealed(content, kind)
    meta, index = block([]), block(places, restart_interval=1)
    at = len(whole)
    whole += sealed(meta) + sealed(index)
    return whole + footer(handle(at, len(meta)), handle(at + len(meta) + 5, len(index)))
