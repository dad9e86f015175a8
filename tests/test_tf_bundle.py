"""TensorFlow checkpoints: what was written comes back bit for bit, and whatever is wrong is refused in one line."""

import mmap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from bundle_writer import (
    DTYPES,
    Pair,
    block,
    blocks,
    bound,
    entry,
    field,
    fixed32,
    footer,
    handle,
    header,
    index_path,
    sealed,
    shard_path,
    table,
    varint,
    write_bundle,
    write_index,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from satbench.core.errors import BadInput
from satbench.zoo.tf_bundle import Bundle, Entry, masked

Tensors = dict[str, np.ndarray]

TENSORS: Tensors = {
    "conv0/W": np.arange(36, dtype=np.float32).reshape(3, 3, 4) - 7,
    "conv0/bn/beta": np.array([1.5, -0.0, np.nan, np.inf], np.float32),
    "conv0/bn/mean/EMA": np.ones((1, 1, 1, 1, 4), np.float32),
    "conv0/smoothrelu_beta": np.array([0.3], np.float32),
    "empty": np.zeros((3, 0, 2), np.float32),
    "flags": np.array([True, False, True]),
    "global_step": np.array(109375),
    "half": np.array([[1, 2], [3, 4]], np.float16),
    "größe/σ": np.array([1e300]),
}
HTML = b"\n <!DOCTYPE html><html><head><title>Sign in</title></head><body>Quota exceeded</body></html>"


def read_all(prefix: Path) -> Tensors:
    with Bundle(prefix) as bundle:
        return {name: bundle.read(name) for name in bundle.entries}


def same(found: Tensors, expected: Tensors) -> bool:
    """The same names, dtypes, shapes and bits, NaN included."""
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in expected.items()
    }


def one_line(error: BadInput, file: Path) -> str:
    """The message of a refusal, which begins with the file that is to blame."""
    line = str(error)
    assert line.startswith(str(file))
    assert "\n" not in line
    return line


def refusal(prefix: Path, file: Path) -> str:
    with pytest.raises(BadInput) as caught:
        read_all(prefix)
    return one_line(caught.value, file)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """A whole checkpoint of `TENSORS` in two shards and many blocks."""
    path = tmp_path / "model.ckpt-109375"
    write_bundle(path, TENSORS, shards=2, block_size=40)
    return path


# checksums


def mask(crc: int) -> int:
    """Rotated by 15 bits to the right, with a constant added."""
    bits = f"{crc:032b}"
    return (int(bits[-15:] + bits[:-15], 2) + 0xA282EAD8) % 2**32


@given(st.integers(0, 2**32 - 1))
def test_the_mask_is_a_rotation_and_a_sum(crc: int) -> None:
    assert masked(crc) == mask(crc)


# right files


def test_a_checkpoint_written_by_tensorflow_is_read(tmp_path: Path) -> None:
    """The files of tf.raw_ops.SaveV2 in TensorFlow 2.21 for a (2, 1) float32 and a scalar int64."""
    index = """
        00000608011a020801000713636f6e76302f570801120812020802120208012808353d33c8f4000b0d676c6f62616c5f7374657008091200
        2008280835fbc2c704000000000100000000ee97a472000000000100000000c0f2a1b00001026800490000000001000000002b58a71a4e08
        5b0e00000000000000000000000000000000000000000000000000000000000000000000000057fb808b247547db
    """
    write_index(tmp_path / "tiny", bytes.fromhex(index))
    shard_path(tmp_path / "tiny").write_bytes(bytes.fromhex("0000c03f000000c03fab010000000000"))
    with Bundle(tmp_path / "tiny") as bundle:
        assert bundle.entries == {
            "conv0/W": Entry("conv0/W", np.dtype("float32"), (2, 1), 0, 0, 8, 0xF4C8333D),
            "global_step": Entry("global_step", np.dtype("int64"), (), 0, 8, 8, 0x04C7C2FB),
        }
        assert bundle.read("conv0/W").tolist() == [[1.5], [-2.0]]
        assert bundle.read("global_step") == 109375


@st.composite
def tensors(draw: st.DrawFn) -> Tensors:
    scopes = st.lists(st.sampled_from(["group0", "block1", "conv", "W", "σ", "w" * 200]), min_size=1).map("/".join)
    names = scopes | st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name[0] != "\0")
    shapes = hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)
    return draw(st.dictionaries(names, hnp.arrays(st.sampled_from(sorted(DTYPES)), shapes), max_size=12))


@pytest.mark.left_out
@settings(deadline=None)
@given(tensors(), st.integers(1, 4), st.integers(1, 400), st.integers(1, 20))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, expected: Tensors, shards: int, block_size: int, interval: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "written"
    write_bundle(path, expected, shards, block_size, interval)
    with Bundle(path) as bundle:
        assert list(bundle.entries) == sorted(expected, key=str.encode)
        assert bundle.files == [index_path(path), *(shard_path(path, shard, shards) for shard in range(shards))]
    assert same(read_all(path), expected)


def test_prefix_and_index_open_the_same(prefix: Path) -> None:
    assert same(read_all(prefix), TENSORS)
    assert same(read_all(index_path(prefix)), TENSORS)


def test_arrays_are_read_only_views_that_outlive_the_bundle(prefix: Path) -> None:
    with Bundle(prefix) as bundle:
        array = bundle.read("conv0/W")
        assert not array.flags.owndata
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    assert np.array_equal(array, TENSORS["conv0/W"])
    for use in (bundle.read, bundle.release):
        with pytest.raises(ValueError, match="closed"):
            use("conv0/W")


def resident(file: Path) -> int:
    """KiB of the mapped file that this process holds in memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(position for position, line in enumerate(lines) if line.endswith(str(file)))
    return int(next(line for line in lines[start:] if line.startswith("Rss:")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_released_tensors_leave_the_memory(tmp_path: Path) -> None:
    expected = {name: np.full((1 << 20) + 3, name, np.int8) for name in "123"}
    write_bundle(tmp_path / "three", expected)
    shard = shard_path(tmp_path / "three")
    with Bundle(tmp_path / "three") as bundle:
        arrays = {name: bundle.read(name) for name in bundle.entries}
        assert resident(shard) >= 3 << 10
        bundle.release("2")
        assert 2 << 10 <= resident(shard) < (2 << 10) + 100
        for name in bundle.entries:
            bundle.release(name)
        assert resident(shard) == 0
        assert same(arrays, expected)


@pytest.mark.parametrize("before", [0, 1, mmap.PAGESIZE])
def test_releasing_a_tensor_without_bytes_does_nothing(before: int, tmp_path: Path) -> None:
    write_bundle(tmp_path / "w", {"before": np.zeros(before, np.int8), "empty": np.zeros((0, 3), np.float32)})
    with Bundle(tmp_path / "w") as bundle:
        bundle.release("empty")
        assert bundle.read("empty").shape == (0, 3)


@pytest.mark.parametrize(("dtype", "name"), [(7, "string"), (14, "bfloat16"), (20, "resource")])
def test_other_dtypes_are_listed_but_not_read(dtype: int, name: str, tmp_path: Path) -> None:
    weights = np.ones(2, np.float32)
    odd, plain = entry(dtype, (2,), 0, 8, b"odd"), entry("float32", (2,), 0, 0, weights.tobytes())
    write_index(tmp_path / "odd", table([(b"", header()), (b"odd", odd), (b"w", plain)]))
    shard_path(tmp_path / "odd").write_bytes(weights.tobytes() + b"odd")
    with Bundle(tmp_path / "odd") as bundle:
        assert (bundle.entries["odd"].dtype, bundle.entries["odd"].shape) == (name, (2,))
        assert np.array_equal(bundle.read("w"), weights)
        with pytest.raises(BadInput, match=rf"odd\.index: 'odd' holds {name}, which cannot be read"):
            bundle.read("odd")


STRINGS = [b"", b"conv0", "größe".encode() * 40]


def strings(*values: bytes) -> tuple[bytes, int]:
    """What TensorFlow's tensor_bundle.cc writes of a tensor of strings, and its checksum."""
    lengths = b"".join(len(value).to_bytes(4, "little") for value in values)
    check = mask(google_crc32c.value(lengths)).to_bytes(4, "little")
    crc = google_crc32c.extend(google_crc32c.value(lengths + check), b"".join(values))
    return b"".join(varint(len(value)) for value in values) + check + b"".join(values), mask(crc)


def write_strings(prefix: Path, data: bytes, crc: int) -> None:
    value = entry(7, (len(STRINGS),), data=data)[:-4] + crc.to_bytes(4, "little")
    write_index(prefix, table([(b"", header()), (b"s", value)]))
    shard_path(prefix).write_bytes(data)


def test_strings_are_checked_though_they_are_not_read(tmp_path: Path) -> None:
    data, crc = strings(*STRINGS)
    write_strings(tmp_path / "s", data, crc)
    with Bundle(tmp_path / "s") as bundle:
        bundle.check("s")
    for position in range(len(data)):
        write_strings(tmp_path / "s", data[:position] + bytes([data[position] ^ 64]) + data[position + 1 :], crc)
        with Bundle(tmp_path / "s") as bundle, pytest.raises(BadInput, match="'s' do not have their checksum"):
            bundle.check("s")


def test_an_unknown_name_is_refused(prefix: Path) -> None:
    with Bundle(prefix) as bundle:
        for use in (bundle.read, bundle.release, bundle.check):
            with pytest.raises(BadInput, match=r"no tensor 'conv0/w'; expected one of its 9"):
                use("conv0/w")


DATA = np.array([1.5, -2], np.float32).tobytes()
W = entry("float32", (2,), data=DATA)
UNKNOWN = field(8, 300) + field(90, b"bytes") + fixed32(11, 7) + varint(12 << 3 | 1) + b"\xff" * 8


def write_indexed(prefix: Path, index: bytes) -> None:
    write_index(prefix, index)
    shard_path(prefix).write_bytes(DATA)


@pytest.mark.parametrize(
    "value",
    [UNKNOWN + W, W + UNKNOWN, field(5, 3) + W, W.replace(field(2, 2), field(2, 2) + UNKNOWN)],
    ids=["before", "after", "repeated", "inside"],
)
def test_unknown_fields_are_skipped_and_the_last_of_repeated_ones_counts(value: bytes, tmp_path: Path) -> None:
    write_indexed(tmp_path / "w", table([(b"", header() + UNKNOWN), (b"w", value)]))
    assert read_all(tmp_path / "w")["w"].tolist() == [1.5, -2]


# wrong indexes


HEADER = block([(b"", header())])


def with_entry(value: bytes, name: bytes = b"w") -> bytes:
    return table([(b"", header()), (name, value)])


def with_header(value: bytes) -> bytes:
    return table([(b"", value), (b"w", W)])


def with_block(content: bytes) -> bytes:
    return bound([(b"w", content)])


def with_place(place: Callable[[int, int], tuple[int, int]]) -> bytes:
    return bound(list(blocks([(b"", header()), (b"w", W)], block_size=1)), place=place)


def with_dims(*dims: int, size: int = 8) -> bytes:
    return with_entry(entry("float32", dims, data=DATA, size=size))


def with_long_names() -> bytes:
    """Names of 100,000 bytes, each but the first stored in a few."""
    content, size, value = HEADER[:-8], 100_000, entry(7)
    content += b"\0" + varint(size) + varint(len(value)) + b"n" * size + value
    for shared in range(size, size + 3000):
        content += varint(shared) + b"\1" + varint(len(value)) + b"n" + value
    return with_block(content + bytes(4))


def with_meta(content: bytes) -> bytes:
    """With a block of data that are no tensors, where TensorFlow writes an empty one."""
    tensors = block([(b"", header()), (b"w", W)])
    places = block([(b"w", handle(0, len(tensors)))], restart_interval=1)
    meta, index = len(tensors) + 5, len(tensors) + len(content) + 10
    whole = sealed(tensors) + sealed(content) + sealed(places)
    return whole + footer(handle(meta, len(content)), handle(index, len(places)))


GOOD = with_entry(W)
INDEXES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no checkpoint index"),
    "short": (GOOD[-47:], "no checkpoint index"),
    "zeros": (bytes(500), "no checkpoint index"),
    "another magic": (GOOD[:-1] + b"\0", "no checkpoint index, or not all of it; fetch it again"),
    "web page": (HTML, "looks like a web page rather than a checkpoint; fetch it again"),
    "web page with a mark": (b"\xef\xbb\xbf\r\n<a href='x'>download</a>" * 9, "looks like a web page"),
    "footer alone": (footer(handle(0, 8), handle(0, 8)), "a block ends at byte 8 of 48"),
    "footer of endless numbers": (footer(b"\xff" * 40, b""), "a number ends too late"),
    "footer with a number of 65 bits": (footer(b"\xff" * 9 + b"\x02", b""), "a number ends too late"),
    "footer into the footer": (GOOD[:-48] + footer(handle(0, 8), handle(0, len(GOOD) - 52)), "a block ends at byte"),
    "footer into nowhere": (GOOD[:-48] + footer(handle(0, 8), handle(2**64 - 1, 2**64 - 1)), "a block ends at byte"),
    "huge": (bytes(5 << 20) + GOOD, "more than the 4194304 of any network's"),
    "block beyond the file": (with_place(lambda at, size: (at, size + 10_000)), "a block ends at byte"),
    "block elsewhere": (with_place(lambda at, size: (at + 1, size)), "overlap or leave bytes out at byte 0"),
    "block of another size": (
        with_place(lambda at, size: (at, size - 1)),
        "does not have its checksum",
    ),
    "block twice": (with_place(lambda at, size: (0, len(HEADER))), "its blocks overlap"),
    "snappy": (bound([(b"", HEADER)], kind=1), r"compressed block \(type 1; 1 is snappy\); exp"),
    "zstd": (bound([(b"", HEADER)], kind=2), r"compressed block \(type 2"),
    "block without restarts": (with_block(b"ab"), "a block of 2 bytes claims"),
    "restarts beyond the block": (with_block(HEADER[:-4] + b"\5\0\0\0"), "a block of 17 bytes claims 5 restarts"),
    "endless restarts": (with_block(b"\xff" * 20), "a block of 20 bytes claims 4294967295 restarts"),
    "name shared with nothing": (with_block(b"\1\0\0" + bytes(8)), "reaches beyond its block"),
    "name beyond the block": (with_block(b"\0\5\0" + bytes(8)), "reaches beyond its block"),
    "value beyond the block": (with_block(b"\0\0\5" + bytes(8)), "reaches beyond its block"),
    "value of absurd length": (with_block(b"\0\0" + varint(2**64 - 1) + bytes(8)), "reaches beyond its block"),
    "entry that runs into the restarts": (with_block(b"\0\x80\1" + bytes(4)), "reaches beyond its block"),
    "number longer than it needs": (with_block(b"\0\x80\0" + bytes(4)), "a number takes more bytes than it needs"),
    "bytes between blocks": (GOOD[:-48] + b"\0" + GOOD[-48:], "its blocks do not fill it"),
    "bytes after the footer's places": (GOOD[:-9] + b"\1" + GOOD[-8:], "more than two places and zeros"),
    "other data than tensors": (with_meta(block([(b"w", W)])), "it holds more than tensors"),
    "endless number in a block": (with_block(b"\xff" * 50 + bytes(4)), "a number ends too late"),
    "block's place without size": (
        sealed(block([(b"w", b"\0")])) + footer(handle(0, 8), handle(0, len(block([(b"w", b"\0")])))),
        "a number ends too late",
    ),
    "names far longer than the file": (with_long_names(), "names are far longer"),
    "no blocks": (bound([]), "it has no header"),
    "no entries": (with_block(block([])), "it has no header"),
    "no header": (table([(b"w", W)]), "it has no header"),
    "header without shards": (with_header(b""), "it claims 0 shards"),
    "a milliard of shards": (with_header(header(10**9)), "it claims 1000000000 shards"),
    "shards below zero": (with_header(header(2**64 - 1)), "it claims 18446744073709551615 shards"),
    "big endian": (with_header(header(1, 1)), "has big-endian tensors; expected an uncompressed little-endian"),
    "unsorted": (table([(b"", header()), (b"w", W), (b"v", W)]), "the name b'v' is not in order"),
    "unsorted between blocks": (table([(b"", header()), (b"w", W), (b"v", W)], 1), "the name b'v' is not in order"),
    "twice": (table([(b"", header()), (b"w", W), (b"w", W)]), "the name b'w' is not in order"),
    "two headers": (table([(b"", header()), (b"", header())]), "the name b'' is not in order"),
    "not UTF-8": (with_entry(W, b"w\xff"), r"the name b'w\\xff' is not UTF-8"),
    "name with a line break": (with_entry(entry(0), b"w\nx"), r"'w\\nx' has the unknown dtype 0"),
    "partitioned": (with_entry(W + field(7, field(1, b""))), "has the partitioned variable 'w'; expected .* whole"),
    "slice": (with_entry(W, b"\0\1w\0\1\1\2"), "has a slice of a partitioned variable"),
    "no dtype": (with_entry(b""), "'w' has the unknown dtype 0"),
    "unknown dtype": (with_entry(entry(99, (2,), data=DATA)), "'w' has the unknown dtype 99"),
    "too few dimensions": (with_dims(), r"8 bytes, which is not shape \(\) of float32"),
    "too large a dimension": (with_dims(3), r"8 bytes, which is not shape \(3,\) of float32"),
    "size and data differ from shape": (with_dims(2, size=4), r"4 bytes, which is not shape \(2,\)"),
    "dimension of -1": (with_dims(2**64 - 1), "no array has the shape of 'w'"),
    "dimensions that wrap around": (with_dims(2**32, 2**32, 2, size=8), "no array has the shape of 'w'"),
    "no elements, yet too many": (with_dims(0, 2**60, size=0), "no array has the shape of 'w'"),
    "33 dimensions": (with_dims(*[1] * 32, 2), "no array has the shape of 'w'"),
    "10,000 dimensions": (with_dims(*[2**62] * 10_000), "no array has the shape of 'w'"),
    "shard beyond": (with_entry(entry("float32", (2,), shard=1, data=DATA)), "'w' lies in shard 1 of 1"),
    "shard of -1": (with_entry(entry("float32", (2,), shard=2**64 - 1, data=DATA)), "'w' lies in shard 18446"),
    "field beyond its entry": (with_entry(W + varint(9 << 3 | 2) + b"\5abc"), "a field reaches beyond its entry"),
    "field of absurd length": (with_entry(W + varint(74) + varint(2**64 - 1)), "a field reaches beyond its entry"),
    "fixed number cut": (with_entry(W[:-1]), "a field reaches beyond its entry"),
    "tag without value": (with_entry(W + b"\x08"), "a number ends too late or not at all"),
    "endless number in an entry": (with_entry(W + b"\x48" + b"\x80" * 100), "a number ends too late"),
    "number of 11 bytes": (with_entry(W + b"\x48" + b"\x80" * 10 + b"\0"), "a number ends too late"),
    "number of 65 bits": (with_entry(W + b"\x48" + b"\xff" * 9 + b"\x02"), "a number ends too late"),
    **{f"wire type {wire}": (with_entry(W + varint(72 + wire)), f"wire type {wire}") for wire in (3, 4, 6, 7)},
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", INDEXES)
def test_a_wrong_index_is_refused(case: str, tmp_path: Path) -> None:
    """No case may take long or much memory, whatever it claims."""
    index, hint = INDEXES[case]
    write_indexed(tmp_path / "w", index)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=hint):
            Bundle(tmp_path / "w")
        assert tracemalloc.get_traced_memory()[1] < 5 * len(index) + (20 << 20)
    finally:
        tracemalloc.stop()
    refusal(tmp_path / "w", index_path(tmp_path / "w"))


def test_a_64_bit_number_is_no_error(tmp_path: Path) -> None:
    write_indexed(tmp_path / "w", with_entry(W + field(9, 2**64 - 1)))
    assert read_all(tmp_path / "w")["w"].tolist() == [1.5, -2]


def test_missing_files_are_named(prefix: Path, tmp_path: Path) -> None:
    for damage in (shard_path(prefix, 1, 2), shard_path(prefix, 0, 2), index_path(prefix)):
        damage.unlink()
        assert "is missing; a checkpoint is" in refusal(prefix, damage)
    damage.mkdir()
    assert "is missing" in refusal(prefix, damage)
    assert "is missing" in refusal(Path("."), Path("..index"))
    long = tmp_path / ("n" * 1000)
    assert "cannot be read (File name too long)" in refusal(long, index_path(long))


# wrong data


def lying(**place: Any) -> Callable[[Path], None]:
    value = entry("float32", (2,), data=DATA, **place)
    return lambda prefix: write_indexed(prefix, with_entry(value))


def layout(*places: tuple[int, int]) -> Callable[[Path], None]:
    """Tensors u and v at these offsets and sizes in one shard, with right checksums."""
    entries = [
        (name, entry("uint8", (size,), 0, offset, DATA[offset : offset + size]))
        for name, (offset, size) in zip((b"u", b"v"), places, strict=True)
    ]
    return lambda prefix: write_indexed(prefix, table([(b"", header()), *entries]))


SHARDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "offset one too large": (lying(offset=1), "has 8 bytes, but 'w' ends at byte 9"),
    "offset of -1": (lying(offset=2**64 - 1), "has 8 bytes, but 'w' ends at byte 18446744073709551623"),
    "offset of another tensor": (layout((0, 4), (0, 4)), "'v' overlaps 'u'"),
    "offset inside another tensor": (layout((0, 6), (4, 2)), "'v' overlaps 'u'"),
    "bytes of no tensor": (layout((0, 4), (6, 2)), "no tensor has bytes 4 to 6"),
    "bytes before the first tensor": (layout((2, 2), (4, 4)), "no tensor has bytes 0 to 2"),
    "bytes after the last tensor": (layout((0, 4), (4, 2)), "has 8 bytes, but its last tensor ends at byte 6"),
    "truncated": (
        lambda p: shard_path(p).write_bytes(DATA[:-1]),
        "has 7 bytes, but 'w' ends at byte 8; fetch it again",
    ),
    "empty": (lambda p: shard_path(p).write_bytes(b""), "has 0 bytes, but"),
    "bit flip": (lambda p: shard_path(p).write_bytes(DATA[:-1] + b"\xc1"), "the bytes of 'w' do not have their check"),
    "other checksum": (
        lambda p: write_index(p, with_entry(entry("float32", (2,), data=b"another!"))),
        "the bytes of 'w' do not have their checksum; fetch it again",
    ),
    "no checksum": (lambda p: write_index(p, with_entry(W[:-5])), "the bytes of 'w' do not have their checksum"),
    "web page": (lambda p: shard_path(p).write_bytes(HTML), "looks like a web page rather than a checkpoint"),
    "short web page": (lambda p: shard_path(p).write_bytes(b" <HTML>"), "looks like a web page"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_a_wrong_shard_is_refused(case: str, tmp_path: Path) -> None:
    prefix = tmp_path / "w"
    write_indexed(prefix, GOOD)
    assert read_all(prefix)["w"].tolist() == [1.5, -2]
    damage, hint = SHARDS[case]
    damage(prefix)
    assert hint in refusal(prefix, shard_path(prefix))


# any damage


def right_or_refused(prefix: Path, expected: Tensors) -> bool:
    """True for exactly the right tensors, False for a refusal in one line; anything else fails."""
    try:
        found = read_all(prefix)
    except BadInput as error:
        return not one_line(error, prefix)
    assert same(found, expected)
    return True


def test_every_bit_flip_and_truncation_of_a_file_is_refused(tmp_path: Path) -> None:
    """So whatever is pinned when it is first read is what its author wrote."""
    prefix = tmp_path / "w"
    write_indexed(prefix, GOOD)
    expected = {"w": np.array([1.5, -2], np.float32)}
    for file, whole in ((index_path(prefix), GOOD), (shard_path(prefix), DATA)):
        for position in range(len(whole)):
            for bit in range(8):
                flipped = bytearray(whole)
                flipped[position] ^= 1 << bit
                file.write_bytes(flipped)
                assert not right_or_refused(prefix, expected), (file, position, bit)
            file.write_bytes(whole[:position])
            assert not right_or_refused(prefix, expected)
        file.write_bytes(whole + b"\0")
        assert not right_or_refused(prefix, expected)
        file.write_bytes(whole)
    assert right_or_refused(prefix, expected)


edits = st.lists(
    st.tuples(
        st.sampled_from(["put", "insert", "delete", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=12) | st.sampled_from([b"\xff" * 11, b"\0" * 8, HTML]),
    ),
    min_size=1,
    max_size=4,
)
Edits = list[tuple[str, float, bytes]]


def edited(whole: bytes, changes: Edits) -> bytes:
    for kind, where, new in changes:
        at = int(where * (len(whole) + 1))
        kept = {"put": at + len(new), "insert": at, "delete": at + len(new), "cut": len(whole)}[kind]
        whole = whole[:at] + (new if kind in ("put", "insert") else b"") + whole[kept:]
    return whole


@pytest.mark.left_out
@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2), edits)
def test_random_damage_gives_the_right_tensors_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, file: int, changes: Edits
) -> None:
    prefix = tmp_path_factory.getbasetemp() / "damaged"
    write_bundle(prefix, TENSORS, shards=2, block_size=40)
    path = [index_path(prefix), shard_path(prefix, 0, 2), shard_path(prefix, 1, 2)][file]
    path.write_bytes(edited(path.read_bytes(), changes))
    right_or_refused(prefix, TENSORS)


@pytest.mark.left_out
@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(["value", "block"]), edits)
def test_forged_indexes_give_arrays_inside_the_files_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, level: str, changes: Edits
) -> None:
    """Damage below right checksums: what is still read has the size and the checksum that its entry claims."""
    prefix = tmp_path_factory.getbasetemp() / "forged"
    content = np.arange(6, dtype=np.float32)
    pairs: list[Pair] = [(b"", header())]
    pairs += [(b"w%d" % n, entry("float32", (1, 2), 0, 8 * n, content[2 * n : 2 * n + 2].tobytes())) for n in range(3)]
    chosen = data.draw(st.integers(0, 3))
    if level == "value":
        pairs[chosen] = (pairs[chosen][0], edited(pairs[chosen][1], changes))
    parts = list(blocks(pairs, block_size=1))
    if level == "block":
        parts[chosen] = (parts[chosen][0], edited(parts[chosen][1], changes))
    write_index(prefix, bound(parts))
    shard_path(prefix).write_bytes(content.tobytes())
    try:
        bundle = Bundle(prefix)
    except BadInput as error:
        one_line(error, prefix)
        return
    for name, place in bundle.entries.items():
        try:
            array = bundle.read(name)
        except BadInput as error:
            one_line(error, prefix)
        else:
            assert array.nbytes == place.size
            assert masked(google_crc32c.value(array.tobytes())) == place.crc
