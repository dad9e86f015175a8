"""Writes TensorFlow V2 checkpoints, right ones and, where a test asks for it, wrong ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

MAGIC = 0xDB4775248B80FB57
ENUMS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "float16": 19,
}
VARINT, BYTES, FIXED32 = 0, 2, 5

Row = tuple[bytes, bytes]


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def field(number: int, value: int | bytes, wire: int | None = None) -> bytes:
    """One field of a protocol buffer; zero is left out, as proto3 does."""
    if value == 0:
        return b""
    wire = wire if wire is not None else BYTES if isinstance(value, bytes) else VARINT
    tag = varint(number << 3 | wire)
    if wire == FIXED32:
        return tag + int(value).to_bytes(4, "little")
    return tag + (varint(len(value)) + value if isinstance(value, bytes) else varint(value))


def header(shards: int = 1, endianness: int = 0) -> bytes:
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1))


def shape_proto(shape: Sequence[int]) -> bytes:
    return b"".join(varint(2 << 3 | BYTES) + varint(len(one)) + one for one in (field(1, side) for side in shape))


def entry(enum: int, shape: Sequence[int], shard: int, offset: int, size: int, crc: int, more: bytes = b"") -> bytes:
    dims = shape_proto(shape)
    where = field(3, shard) + field(4, offset) + field(5, size) + field(6, crc, FIXED32)
    return field(1, enum) + (field(2, dims) if dims else b"") + where + more


def block(rows: Sequence[Row], restart_interval: int = 16) -> bytes:
    """Entries with shared prefixes, then the restart points and their number."""
    content, restarts, last = b"", [], b""
    for position, (key, value) in enumerate(rows):
        shared = 0
        if position % restart_interval:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    restarts = restarts or [0]
    return content + b"".join(point.to_bytes(4, "little") for point in [*restarts, len(restarts)])


def table(rows: Sequence[Row], block_size: int = 1 << 18, restart_interval: int = 16, compression: int = 0) -> bytes:
    """A whole index: data blocks of about `block_size` bytes, an empty meta-index, the index block and the footer."""
    written = b""

    def put(content: bytes) -> bytes:
        nonlocal written
        handle = varint(len(written)) + varint(len(content))
        sealed = content + bytes([compression])
        written += sealed + masked_crc(sealed).to_bytes(4, "little")
        return handle

    groups: list[list[Row]] = [[]]
    for row in rows:
        if sum(len(key) + len(value) for key, value in groups[-1]) > block_size:
            groups.append([])
        groups[-1].append(row)
    handles = [(group[-1][0] if group else b"", put(block(group, restart_interval))) for group in groups]
    meta = put(block([]))
    footer = meta + put(block(handles, 1))
    return written + footer.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, np.ndarray],
    shards: int = 1,
    block_size: int = 1 << 18,
    restart_interval: int = 16,
) -> None:
    """A checkpoint of these tensors at `prefix`; the shards take turns."""
    rows: list[Row] = [(b"", header(shards))]
    streams = [prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").open("wb") for i in range(shards)]
    for position, name in enumerate(sorted(tensors, key=str.encode)):
        array = np.ascontiguousarray(tensors[name]).reshape(np.shape(tensors[name]))
        data, stream = array.astype(array.dtype.newbyteorder("<")).tobytes(), streams[position % shards]
        where = (position % shards, stream.tell(), len(data), masked_crc(data))
        rows.append((name.encode(), entry(ENUMS[array.dtype.name], array.shape, *where)))
        stream.write(data)
    for stream in streams:
        stream.close()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(rows, block_size, restart_interval))
