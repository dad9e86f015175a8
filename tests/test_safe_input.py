"""What crashed, hung, or was accepted although it was wrong: each ends in one line that says what to do."""

import errno
import gzip
import io
import json
import math
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refusal
from rich.console import Console
from scipy.io import savemat
from typer.testing import CliRunner

from satbench.attacks import parse_attack
from satbench.cli import app, main
from satbench.cli.progress import progress_bar
from satbench.core.bounded import gunzipped, read_bounded
from satbench.core.eps import parse_eps
from satbench.core.errors import BadInput
from satbench.core.files import atomic_file, check_output_folder
from satbench.core.home import home
from satbench.core.lookup import imported
from satbench.core.names import check_inside
from satbench.core.strict_json import parse_json
from satbench.core.strict_yaml import read_mapping
from satbench.data import imagenet, load_images
from satbench.data.loaders import LOADERS, MOST_PIXELS, MOST_SIDE, open_rgb
from satbench.data.matlab import read_table
from satbench.evaluation.parts import OUTCOMES, Part, Work, batch_name
from satbench.recipes import RECIPES
from satbench.recipes.file import read_recipe
from satbench.reporting.run_file import read_entry
from satbench.results.schema import TIMING
from satbench.results.store import _read_table, read_run
from satbench.specs.evaluation import EvaluationSpec
from satbench.specs.study import read_study
from satbench.study.folder import Status, read_jobs
from satbench.study.jobs import Jobs
from satbench.study.live import drawing
from satbench.study.watch import View
from satbench.training.checkpoint import read_config, read_metrics, read_times
from satbench.training.steps import read_steps
from satbench.training.tracking import Tracking
from satbench.zoo.cache import import_pins, read_pins
from satbench.zoo.fetch import sha256_file
from satbench.zoo.new_card import add_card
from satbench.zoo.registry import _given

pytestmark = pytest.mark.timeout(60)  # what these inputs once took is minutes or without end


def refused(call: Callable[[], object], hint: str) -> str:
    with pytest.raises(BadInput, match=hint) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# images


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: int | None = None, level: int = 0) -> bytes:
    """A PNG of bytes `level`, in which all rows after the first `rows` are missing."""
    row = b"\0" + bytes([level]) * (width * depth // 8 * (3 if colour == 2 else 1))
    return png_of(width, height, depth, colour, row * (height if rows is None else rows))


def png_of(width: int, height: int, depth: int, colour: int, content: bytes, interlaced: bool = False) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(content, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", LOADERS)
def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(name: str, tmp_path: Path) -> None:
    for width, height in ((9_000, 8_000), (60_000, 60_000)):
        assert width * height > MOST_PIXELS
        (tmp_path / "large.png").write_bytes(png(width, height, depth=1, colour=0, rows=1))
        refused(lambda: LOADERS[name](tmp_path / "large.png", 32), "large.png would be decoded to .*pixels.*reduce")
    (tmp_path / "thin.png").write_bytes(png(1, MOST_SIDE + 1))
    refused(
        lambda: LOADERS[name](tmp_path / "thin.png", 32), f"thin.png would be decoded to 1 x {MOST_SIDE + 1} pixels"
    )
    if name != "tf1-bicubic":  # which crops before it enlarges
        (tmp_path / "narrow.png").write_bytes(png(40_000, 1))
        refused(lambda: LOADERS[name](tmp_path / "narrow.png", 224), "narrow.png would be decoded")


def test_parts_longer_than_their_file_do_not_reach_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV takes 3 GB for this file of 90 bytes."""
    whole = png(8, 8)
    at = whole.index(b"IDAT") - 4
    (tmp_path / "long.png").write_bytes(whole[:at] + b"\xbc\x84\x00\x76" + whole[at + 4 :])
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("decoded"))
    refused(lambda: LOADERS["opencv-cubic"](tmp_path / "long.png", 8), "long.png is not a readable image")


@pytest.mark.parametrize("rows", [1, 8, 15, 16])
@pytest.mark.parametrize("level", [0, 255])
def test_a_png_whose_data_end_properly_before_its_last_row_is_refused(rows: int, level: int, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(16, 16, rows=rows, level=level))
    if rows < 16:
        refused(lambda: open_rgb(file), "its data end before its last row")
    else:
        assert open_rgb(file).getextrema() == ((level, level),) * 3


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 1), (1, 5), (8, 8), (9, 16)])
@pytest.mark.parametrize("colour", [0, 2, 6])
def test_an_interlaced_png_must_have_all_rows_of_its_seven_passes(
    width: int, height: int, colour: int, tmp_path: Path
) -> None:
    """Section 8.2 of the PNG specification; a pass without columns has no rows."""
    pattern = ("16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777")
    grid = [[pattern[y % 8][x % 8] for x in range(width)] for y in range(height)]
    lines = [line.count(turn) for turn in "1234567" for line in grid if turn in line]
    rows = [b"\0" + b"\x80" * (pixels * {0: 1, 2: 3, 6: 4}[colour]) for pixels in lines]
    file = tmp_path / "a.png"
    file.write_bytes(png_of(width, height, 8, colour, b"".join(rows), interlaced=True))
    assert open_rgb(file).getextrema() == ((128, 128),) * 3
    file.write_bytes(png_of(width, height, 8, colour, b"".join(rows[:-1]), interlaced=True))
    refused(lambda: open_rgb(file), "a.png is not a readable image")


@pytest.mark.parametrize("name", LOADERS)
def test_more_than_8_bits_are_refused_also_with_colours(name: str, tmp_path: Path) -> None:
    (tmp_path / "deep.png").write_bytes(png(8, 8, depth=16))
    (tmp_path / "deep.ppm").write_bytes(b"P6 8 8 65535\n" + bytes(8 * 8 * 6))
    for file in ("deep.png", "deep.ppm"):
        refused(lambda file=file: LOADERS[name](tmp_path / file, 8), f"{file} has more than 8 bits")  # type: ignore[misc]


def test_only_the_usual_formats_are_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for PostScript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png", "TIFF")
    for file in ("a.png", "b.png"):
        refused(lambda file=file: LOADERS["torchvision"](tmp_path / file, 8), "not a readable image")  # type: ignore[misc]


def classes(root: Path) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (i, 0, 0)).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (60_000, 60_000)])
def test_a_large_first_image_of_a_folder_ends_in_one_line(
    width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow warns of 2^26.4 pixels and raises on twice as many; that of 10,000 rows is refused by its size here."""
    root = classes(tmp_path / "set")
    (root / "a" / "!.png").write_bytes(png(width, height, depth=1, colour=0, rows=1))
    refused(lambda: load_images(f"image_folder:{root}", "all", 8), "!.png would be decoded to .* pixels")
    command = f"satbench eval --model digits-relu --dataset image_folder:{root} --attack fgsm --eps 0.1"
    monkeypatch.setattr("sys.argv", [*command.split(), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 2
    said = capsys.readouterr().err
    size = f"{width} x {height}" if width == 10_000 else "far more"
    assert f"!.png would be decoded to {size} pixels" in said
    assert "Warning" not in said


@pytest.mark.parametrize(
    "read",
    [
        read_recipe,
        read_study,
        read_jobs,
        lambda file: _given(f"{file}"),
        lambda file: load_images(f"npz:{file}"),
        sha256_file,
    ],
)
def test_a_pipe_is_not_called_missing(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    refused(lambda: read(tmp_path / "pipe.yaml"), "pipe.yaml is not a plain file")


def test_pipes_hidden_files_and_undecodable_names(tmp_path: Path) -> None:
    root = classes(tmp_path / "set")
    (root / "a" / "._0.png").write_bytes(b"a resource fork")
    (root / "a" / ".cache").mkdir()
    (root / "a" / ".cache" / "x.png").write_bytes(b"no image")
    assert len(load_images(f"image_folder:{root}", "all", 8)) == 8
    os.mkfifo(root / "a" / "pipe.png")
    refused(lambda: load_images(f"image_folder:{root}", "all", 8), "pipe.png is not a plain file")
    (root / "a" / "pipe.png").rename(root / "a" / "!.png")
    refused(lambda: load_images(f"image_folder:{root}", "all", 8), "!.png is not a plain file")
    (root / "a" / "!.png").unlink()
    (Path(os.fsdecode(bytes(root / "a") + b"/\xff.png"))).write_bytes(png(8, 8))
    refused(lambda: load_images(f"image_folder:{root}", "all", 8), "not UTF-8; rename it")
    os.mkfifo(tmp_path / "study.yaml")
    refused(lambda: read_mapping(tmp_path / "study.yaml"), "not a plain file")
    refused(lambda: read_bounded(tmp_path / "study.yaml", 9), "not a plain file")


# ImageNet


def tar_with(members: list[tuple[str, bytes]], end: bool = True) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = buffer.getvalue()
    return content if end else content.rstrip(b"\0")


def test_odd_archives_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    members = [(f"{i}.JPEG", png(8, 8)) for i in range(3)]
    archive.write_bytes(tar_with(members))
    assert len(imagenet._members(archive)) == 3
    whole = bytearray(archive.read_bytes())

    def header(at: int, start: int, text: bytes) -> bytes:
        changed = bytearray(whole)
        changed[at + start : at + start + len(text)] = text
        changed[at + 148 : at + 156] = b" " * 8
        changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
        return bytes(changed)

    second = 1024
    odd = {
        "a damaged header in the middle ends the list": bytes(whole[:second]) + b"x" + bytes(whole[second + 1 :]),
        "a size beyond the end": header(second, 124, b"77777777777\0"),
        "a negative size": header(second, 124, b"\xff" * 12),
        "a sparse member": header(second, 156, b"S"),
        "cut in the middle": bytes(whole[: second + 700]),
    }
    for what, content in odd.items():
        archive.write_bytes(content)
        refused(lambda: imagenet._members(archive), "no whole tar archive"), what


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    wnids = [f"n{i:08d}" for i in range(1000)]
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(
        tar_with([(f"{part}/ILSVRC2012_val_00000001.JPEG", png(8, 8)) for part in "ab"])
    )
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", object), ("WNID", object)]
    savemat(kit / "meta.mat", {"synsets": np.array([*enumerate(wnids, 1)], dtype=kind)[:, None]})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, range(1, 1001))))
    refused(lambda: load_images(f"imagenet:{tmp_path}"), "two images are called .*00000001")


def test_the_kit_is_read_as_scipy_reads_it_and_never_by_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("gloss", object)]
    rows = [(number, f"n{number:08d}", "some words", "x" * number) for number in (3, 1, 70_000, 200)]
    for compressed in (False, True):
        file = tmp_path / "meta.mat"
        savemat(file, {"other": 1.0, "synsets": np.array(rows, dtype=kind)[:, None]}, do_compression=compressed)
        assert read_table(file.read_bytes(), "synsets", ("ILSVRC2012_ID", "WNID")) == [row[:2] for row in rows]
    content, rng = file.read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        mutant = bytearray(content)
        for at in rng.integers(0, len(content), 4):
            mutant[at] = rng.integers(256)
        try:
            read_table(bytes(mutant), "synsets", ("ILSVRC2012_ID", "WNID"))
        except (KeyError, TypeError, ValueError, struct.error, zlib.error):
            continue


def test_a_kit_archive_that_is_not_the_published_one_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(tar_with([("a.JPEG", png(8, 8))]))
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(tar_with([("x", b"y")])))
    refused(lambda: load_images(f"imagenet:{tmp_path}"), "devkit_t12.tar.gz has MD5 .* was published")


@pytest.mark.parametrize(
    "text",
    [
        b'<?xml version="1.0" encoding="nonsense"?><a/>',
        b'<?xml version="1.0" encoding="utf-7"?><a/>',
        b'<?xml version="1.0" encoding="cp932"?><a/>',
        b"\xff\xfe<\0a\0",
        b"<annotation><object><name>../../x</name></object></annotation>",
        b'<!DOCTYPE a [<!ENTITY a0 "x">'
        + b"".join(b'<!ENTITY a%d "%s">' % (i, b"&a%d;" % (i - 1) * 20) for i in range(1, 9))
        + b"]><annotation><object><name>&a8;</name></object></annotation>",
    ],
)
def test_odd_xml_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "ILSVRC2012_val_00000001.xml").write_bytes(text)
    refused(lambda: imagenet._annotations(tmp_path), "names no object by its WordNet id")


# npz and gzip


def npy(array: np.ndarray, **changes: object) -> bytes:
    """An .npy file, whose header says `changes`."""
    buffer = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | changes
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + array.tobytes()


X, Y = np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 0, 1])
ODD_NPZ: dict[str, dict[str, bytes]] = {
    "text in place of an array": {"x.npy": b"hello", "y.npy": npy(Y)},
    "an empty member": {"x.npy": b"", "y.npy": npy(Y)},
    "a huge shape": {"x.npy": npy(X, shape=(10**12, 3, 8, 8)), "y.npy": npy(Y)},
    "a shape beyond 64 bits": {"x.npy": npy(X, shape=(2**63, 3, 8, 8)), "y.npy": npy(Y)},
    "a negative shape": {"x.npy": npy(X, shape=(-4, 3, 8, 8)), "y.npy": npy(Y)},
    "objects": {"x.npy": npy(X, descr="|O"), "y.npy": npy(Y)},
    "complex numbers": {"x.npy": npy(X.astype(np.complex64)), "y.npy": npy(Y)},
    "long doubles": {"x.npy": npy(X.astype(np.longdouble)), "y.npy": npy(Y)},
    "dates": {"x.npy": npy(X), "y.npy": npy(Y.astype("M8[s]"))},
    "texts": {"x.npy": npy(X), "y.npy": npy(Y.astype("U4"))},
    "records": {"x.npy": npy(X), "y.npy": npy(np.zeros(4, [("a", "i4")]))},
    "truth values": {"x.npy": npy(X.astype(bool)), "y.npy": npy(Y)},
    "no sides": {"x.npy": npy(np.zeros((4, 3, 0, 0), np.uint8)), "y.npy": npy(Y)},
    "labels beyond 63 bits": {"x.npy": npy(X), "y.npy": npy(np.full(4, 2**64 - 1, np.uint64))},
    "a header that is no Python": {"x.npy": b"\x93NUMPY\x01\x00\x06\x00{[(*)\n", "y.npy": npy(Y)},
    "a later version": {"x.npy": b"\x93NUMPY\x09\x00\x06\x00{}\n", "y.npy": npy(Y)},
    "members without an ending": {"x": npy(X), "y": npy(Y)},
    "bytes behind the array": {"x.npy": npy(X) + b"more", "y.npy": npy(Y)},
}


@pytest.mark.parametrize("what", ODD_NPZ)
def test_odd_npz_are_refused(what: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name, content in ODD_NPZ[what].items():
            archive.writestr(name, content)
    refused(lambda: load_images(f"npz:{tmp_path / 'a.npz'}"), "a.npz")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("satbench.data.npz.USUAL", 1 << 22)
    monkeypatch.setattr("satbench.data.published.MOST", 1 << 22)
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (9, 1, 1024, 1024)}
        )
        for _ in range(9):
            member.write(bytes(1 << 20))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("y.npy", npy(np.zeros(9, int)))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 16
    refused(lambda: load_images(f"npz:{tmp_path / 'a.npz'}"), "x is packed .* times; store it by np.savez")
    packed = gzip.compress(bytes(1 << 24))
    with pytest.raises(ValueError, match="more than"):
        gunzipped(packed, 1 << 20)
    assert gunzipped(packed + packed, 1 << 25) == bytes(1 << 25)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(9 << 20)))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    refused(lambda: load_images(f"mnist:{tmp_path}"), "cannot be read .ValueError")


def test_tables_that_are_far_larger_than_their_file_are_not_read(tmp_path: Path) -> None:
    def table(rows: int, text: str) -> None:
        values = {field.name: pa.array([0], field.type) for field in TIMING if field.type != pa.string()}
        columns = [
            pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), [text]).cast(field.type)
            if field.type == pa.string()
            else pa.array(np.zeros(rows, values[field.name].to_numpy().dtype), field.type)
            for field in TIMING
        ]
        pq.write_table(pa.Table.from_arrays(columns, schema=TIMING), tmp_path / "t.parquet", compression="zstd")

    table(10, "pgd")
    assert len(_read_table(tmp_path / "t.parquet", TIMING)) == 10
    table(3_000_000, "")
    assert (tmp_path / "t.parquet").stat().st_size < 1 << 20
    refused(lambda: _read_table(tmp_path / "t.parquet", TIMING), "3,000,000 rows")


# JSON and YAML

ODD_YAML = {
    "deep": "[" * 5_000,
    "deep mappings": "{a: " * 5_000,
    "a huge number": f"a: {'9' * 100_000}",
    "a huge hexadecimal number": f"a: 0x{'f' * 100_000}",
    "sexagesimal by a tag": "a: !!int 1" + ":1" * 250_000,
    "sexagesimal real by a tag": "a: !!float 1" + ":1" * 250_000 + ".5",
    "a long list": f"a: [{'1,' * 250_000}1]",
    "a day that is none": "a: 2001-13-45",
    "laughs": "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(12)),
    "an alias of itself": "a: &a [*a]",
    "a list as a key": "? [1, 2]\n: 3",
    "an object": "a: !!python/object/apply:os.system ['true']",
    "not UTF-8": b"a: \xff",
    "NUL": b"a: \0",
    "many keys": "".join(f"k{i}: 1\n" for i in range(100_000)),
    "a key twice": "a: 1\na: 2",
    "no mapping": "- 1",
    "nothing": "",
}


@pytest.mark.one_in(10)
@pytest.mark.parametrize("what", ODD_YAML)
def test_odd_yaml_is_refused(what: str, tmp_path: Path) -> None:
    content = ODD_YAML[what]
    (tmp_path / "a.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: read_mapping(tmp_path / "a.yaml"), "a.yaml")


def test_a_long_value_does_not_fill_the_screen(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text("e: " + "1:" * 100_000 + "1\n")
    with pytest.raises(BadInput) as raised:
        _given(str(file))
    message = str(raised.value)
    assert message.startswith(f"{file}: entry 'e'")
    assert "1 [...] " in message or ": [...] " in message
    assert len(message) < 4100


def test_numbers_are_those_of_yaml_and_none_is_to_the_base_60(tmp_path: Path) -> None:
    """A long number to the base 60 took minutes."""
    texts = ["1" + ":59" * 130_000, "1:30", "1:30.5", "089", "1.2.3", "e5", "1" * 50_000 + "x"]
    values = {"1": 1, "-3": -3, "1_000": 1000, "012": 10, "0x1F": 31, "0b11": 3, "1.": 1.0, ".5": 0.5, "-1.5": -1.5}
    values |= {"1e3": 1e3, "1E-3": 1e-3, "1.5e+3": 1.5e3, "-.inf": -math.inf}
    lines = [f"t{i}: {text}" for i, text in enumerate(texts)] + [f"v{i}: {text}" for i, text in enumerate(values)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    read = list(read_mapping(tmp_path / "a.yaml").values())
    assert read == [*texts, *values.values()]


ODD_JSON = {
    "deep": "[" * 100_000,
    "deep mappings": '{"a":' * 100_000,
    "a huge number": "9" * 100_000,
    "infinity": "Infinity",
    "NaN": "NaN",
    "a number that overflows": "1e999",
    "a key twice": '{"a": 1, "a": 2}',
    "cut": '{"a": ',
    "not UTF-8": b'{"a": "\xff"}',
}


@pytest.mark.parametrize("what", ODD_JSON)
def test_odd_json_is_refused(what: str, tmp_path: Path) -> None:
    content = ODD_JSON[what]
    raw = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(ValueError, match=r"."):
        parse_json(raw)
    (tmp_path / "a.json").write_bytes(b'{"epochs": ' + raw + b"}")
    refused(lambda: read_recipe(tmp_path / "a.json"), "a.json cannot be read as JSON")


def test_json_stays_what_it_is() -> None:
    value = {"a": [1, -2.5e-7, True, None, "é\n"], "b": {"c": 2**63}}
    assert parse_json(json.dumps(value)) == value


@pytest.mark.left_out
def test_giant_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse files of a terabyte, of which every text file that satbench reads back is one."""
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path))
    readers: dict[str, Callable[[], object]] = {
        "manifest.json": lambda: read_run(tmp_path),
        "metrics.jsonl": lambda: read_metrics(tmp_path),
        "times.jsonl": lambda: read_times(tmp_path),
        "steps.jsonl": lambda: read_steps(tmp_path / "steps.jsonl"),
        "config.json": lambda: read_config(tmp_path),
        "entry.json": lambda: read_entry(tmp_path / "entry.json"),
        "study.json": lambda: read_jobs(tmp_path / "study.json"),
        "zoo.lock": read_pins,
        "pins": lambda: import_pins(tmp_path / "pins"),
        "registry.yaml": lambda: add_card(tmp_path / "registry.yaml", "a", {}),
        "tracking.json": lambda: Tracking(()).begin(RECIPES["digits-sat"](), tmp_path),
    }
    for name, read in readers.items():
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 1 << 40)
        refused(read, f"{name} (has more than [0-9]+ MiB|is damaged)")
        (tmp_path / name).unlink()


def test_a_finished_batch_of_more_images_than_its_file_can_hold_is_not_used(tmp_path: Path) -> None:
    def part(rows: int) -> Part:
        columns = {
            field.name: np.full(rows, "" if pa.types.is_string(field.type) else 0).astype(
                object if pa.types.is_string(field.type) else field.type.to_pandas_dtype()
            )
            for field in OUTCOMES
        }
        return Part(columns, 1.0, ())

    for rows, is_used in ((1, True), (250, True), (20_000, False)):
        name = Work(tmp_path, "work", examples=False).keep(part(rows), torch.zeros(0)) and batch_name(part(rows).keys)
        assert (tmp_path / "parts" / "work" / f"{name}.parquet").stat().st_size < 20_000
        assert (Work(tmp_path, "work", examples=False).part(name) is not None) == is_used


@pytest.mark.parametrize("digest", ["y", "", "A" * 64, "1" * 63, "1" * 65])
def test_pins_are_digests(digest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path))
    (tmp_path / "zoo.lock").write_text(json.dumps({"a": {"x": digest}}))
    refused(read_pins, f"zoo.lock, field 'a.x': '{digest}' is no SHA-256 and no commit")


@pytest.mark.parametrize("text", ["1e-400", "0.0000001e-400/255", "1e-200/1e200", " 1E-999 "])
def test_a_radius_that_would_be_rounded_to_zero_is_refused(text: str) -> None:
    refused(lambda: parse_eps(text), "is too small for a number; give 0 or a larger radius")


@pytest.mark.parametrize("text", ["0", " 0.0/255", "+0e-5", "-0", ".0", "0_0"])
def test_zero_is_a_radius(text: str) -> None:
    assert parse_eps(text) == 0


# wrong lines


@pytest.mark.parametrize(
    "text", ["pgd:", "pgd:steps=1,", "pgd:,steps=1", "pgd:=1", "pgd:steps=1,steps=2", "foolbox:X:"]
)
def test_wrong_spellings_of_an_attack_are_refused(text: str) -> None:
    refused(lambda: parse_attack(text), "attack")


@pytest.mark.parametrize("field", ["model", "source", "dataset", "split", "loader", "name", "group"])
def test_an_empty_setting_is_refused(field: str) -> None:
    refused(lambda: EvaluationSpec(**{field: " "}), f"--{field} is empty")


@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31m", "\u202ea"])
def test_names_are_one_line(text: str) -> None:
    refused(lambda: EvaluationSpec(name=text), "--name .* not one line of printable characters")
    refused(lambda: EvaluationSpec(group=text), "--group .* not one line of printable characters")


def test_seeds_steps_and_folders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    refused(lambda: EvaluationSpec(seed=-1), "--seed -1: give a whole number from 0")
    refused(lambda: EvaluationSpec(threads=10**12), "--threads 1000000000000: give a whole number from 1 to 1024")
    refused(lambda: EvaluationSpec(draws=10**12), "--draws 1000000000000: give a whole number from 1 to 1000000")
    refused(lambda: load_images("digits", data_dir=tmp_path / "no"), "no: no such folder")
    ran = CliRunner().invoke(app, ["eval", "--model", "digits-silu", "--attack", "pgd:steps=10000000000000"])
    assert ran.exit_code == 2
    assert "steps of an attack is 10000000000000; give a whole number from 1 to 1000000" in ran.stderr


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../b", "a//b", "", ".", "a\\b", "a/.b", "a\nb", "a" * 200])
def test_paths_that_leave_a_folder_are_refused(path: str) -> None:
    refused(lambda: check_inside(path, "file"), "is not a name")
    assert check_inside("parts/0a-1/x.safetensors", "file") == "parts/0a-1/x.safetensors"


def test_code_that_exits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quits_at_once.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "quits_later.py").write_text("def build():\n    raise SystemExit('bye')\n")

    def call(module: str) -> None:
        with imported("--model", f"{module}:build", "give another") as build:
            build()

    refused(lambda: call("quits_at_once"), r"quits_at_once:build: its code exits \(0\); correct quits_at_once")
    refused(lambda: call("quits_later"), r"its code exits \(bye\); give another")


def test_a_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_HOME", "~nobody-of-this-name/x")
    refused(home, "SATBENCH_HOME=~nobody-of-this-name/x: there is no such user")


# folders, disks, terminals


def test_a_url_is_no_folder_and_a_colon_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in ("s3:/x", "s3://bucket/x", "gs:/a/b"):
        refused(lambda out=out: check_output_folder(Path(out)), "begins as a URL does")  # type: ignore[misc]
    command = ["eval", "--model", "digits-silu", "--attack", "fgsm", "--n", "4", "--no-trust", "--out", "exp:1"]
    for printed in ("exp:1", "read from exp:1"):
        ran = CliRunner().invoke(app, command)
        assert (ran.exit_code, printed in ran.stdout) == (0, True), ran.output
    assert CliRunner().invoke(app, ["eval", *command[1:-1], "s3:/x"]).exit_code == 2
    assert CliRunner().invoke(app, ["report", "exp:1", "--out", "s3:/x"]).exit_code == 2
    assert not (tmp_path / "s3:").exists()


def test_a_full_disk_names_the_folder_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(error: Exception) -> None:
        with atomic_file(tmp_path / "records.parquet"):
            raise error

    with pytest.raises(OSError, match="No space left") as caught:
        write(OSError(errno.ENOSPC, "No space left on device"))
    assert caught.value.filename == str(tmp_path / "records.parquet")
    with pytest.raises(RuntimeError, match="writer failed"):
        write(RuntimeError("writer failed"))
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("satbench.core.files.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="No space left") as caught:  # torch and safetensors raise errors of their own
        write(RuntimeError("writer failed"))
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("satbench.evaluation.make_request", lambda *_: write(RuntimeError("writer failed")))
    ran = CliRunner().invoke(app, ["eval", "--model", "digits-silu", "--attack", "fgsm"])
    assert ran.exit_code == 2
    line = f"satbench: {tmp_path}: the disk is full; free some space there and run the same command again"
    assert refusal(ran.stderr) == line


def test_text_of_others_does_not_reach_the_terminal_as_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["compare", "a\x1b[2J\r\nsatbench: fine", "b"], color=True)
    assert ran.exit_code == 2
    assert ran.stderr.count("\n") == 1
    assert "\x1b" not in ran.stderr
    with progress_bar("eval [/b] \x1b[2J") as report:
        report(1, 2, "[/nothing]")


def test_what_other_workers_say_is_shown_as_text() -> None:
    status = Status("a[/b]", 1, 2, "\x1b[2J[red]x", 3.0, 4.0)
    jobs = cast(Jobs, SimpleNamespace(trainings=()))
    shown = Console(file=io.StringIO(), width=200, force_terminal=True)
    shown.print(drawing(jobs, View(0, 1, {"host[/x]": status}, 1.0, 1.0, True)))
    text = cast(io.StringIO, shown.file).getvalue()
    assert "host[/x]" in text
    assert "a[/b]" in text
    assert r"\x1b[2J[red]x" in text


def test_every_command_prints_through_one_function() -> None:
    import satbench.cli

    for file in Path(satbench.cli.__file__).parent.glob("*.py"):
        if file.name != "output.py":
            assert "typer.echo(" not in file.read_text(encoding="utf-8"), file.name
