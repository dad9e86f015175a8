"""Files that users give: YAML and JSON, images, archives and tables. No digest covers what they say."""

import hashlib
import io
import json
import random
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from fuzz.kind import Kind
from PIL import Image
from scipy.io import savemat

from satbench.core.errors import BadInput
from satbench.core.strict_yaml import shipped
from satbench.data import imagenet, load_images
from satbench.data.loaders import LOADERS
from satbench.data.matlab import read_table
from satbench.recipes import RECIPES
from satbench.recipes.file import read_recipe
from satbench.regression import read_baseline
from satbench.reporting.claims_file import read_claims
from satbench.specs.study import read_study
from satbench.zoo.registry import read_cards, registry_path

WORDS = [
    *(b"[" * 3_000, b"{" * 3_000, b"- " * 2_000, b"9" * 5_000, b"-1", b"1e999", b".nan", b".inf", b"null", b"~"),
    *(b"&a [*a]", b"!!python/object/apply:os.system ['true']", b"!!binary x", b"<<: *a", b"? [1]", b"2001-13-45"),
    *(b"\0", b"\xff", b"\xe2\x80\xae", b"\x1b[2J", b"../../x", b"''", b"true", b"0x" + b"f" * 3_000, b": ", b"\n"),
]


def edit(content: bytes, source: random.Random, edits: int) -> bytes:
    """The content with one to four random edits, of the first so many kinds."""
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        at = source.randrange(len(content) + 1)
        end = min(len(content), at + source.choice((1, 1, 2, 4, 8, 64, 512)))
        chosen = source.randrange(edits)
        if chosen == 0:
            changed = bytes(byte ^ 1 << source.randrange(8) for byte in content[at:end])
        elif chosen == 1:
            changed = source.randbytes(end - at)
        elif chosen == 2:
            changed = b""
        elif chosen == 3:
            changed = source.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * (end - at)
        elif chosen == 4:
            changed = content[at:end] * source.choice((2, 3, 50))
        elif chosen == 5:
            other = source.randrange(len(content) + 1)
            changed = content[other : other + end - at]
        elif chosen == 6:
            return content[:at] or b"x"
        else:
            changed = source.choice(WORDS)
        content = (content[:at] + changed + content[end:]) or b"x"
    return content


def damage_spans(file: Path, source: random.Random) -> None:
    file.write_bytes(edit(file.read_bytes(), source, 7))


def damage_text(file: Path, source: random.Random) -> None:
    """As `damage_spans`, or with one of `WORDS`."""
    file.write_bytes(edit(file.read_bytes(), source, 8))


def picture(form: str, mode: str = "RGB") -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    smooth = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(buffer, form)
    return buffer.getvalue()


def pixels(file: Path) -> str:
    """Through every loader; a file that one of them refuses is refused."""
    return " ".join(hashlib.sha256(load(file, 24).tobytes()).hexdigest() for load in LOADERS.values())


def arrays(packed: bool) -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(buffer, x=rng.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8), y=np.arange(6) % 2)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(4):
            info = tarfile.TarInfo(f"val/ILSVRC2012_val_0000000{i}.JPEG")
            info.size = len(picture("JPEG"))
            tar.addfile(info, io.BytesIO(picture("JPEG")))
    return buffer.getvalue()


def members(file: Path) -> str:
    found = imagenet._members(file)
    return repr([(one.name, hashlib.sha256(one.read_bytes()).hexdigest()) for one in found])


def kit() -> bytes:
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    rows = [(number, f"n{number:08d}", "a word") for number in range(1, 30)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, dtype=kind)[:, None]}, do_compression=True)
    return buffer.getvalue()


def synsets(file: Path) -> str:
    """Damaged tables raise what `imagenet` turns into `BadInput`."""
    try:
        return repr(read_table(file.read_bytes(), "synsets", ("ILSVRC2012_ID", "WNID")))
    except (KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise BadInput(type(error).__name__) from None


def recipe_settings() -> dict[str, object]:
    return RECIPES["digits-sat"]().model_dump(mode="json")


def binary(name: str, content: Callable[[], bytes], read: Callable[[Path], str]) -> Kind:
    """A file with this content, and how it is read."""
    return Kind(
        lambda folder: (folder / name).write_bytes(content()),
        (name,),
        lambda folder: read(folder / name),
        damage_spans,
        covered=False,
    )


def text(name: str, content: Callable[[], bytes], read: Callable[[Path], str]) -> Kind:
    return replace(binary(name, content, read), damage=damage_text)


def images(file: Path) -> str:
    return load_images(f"npz:{file}").digest


def recipe(file: Path) -> str:
    return read_recipe(file).model_dump_json()


INPUTS: dict[str, Kind] = {
    "YAML study": text(
        "a.yaml", shipped("studies/demo.yaml").read_bytes, lambda file: read_study(file).model_dump_json()
    ),
    "YAML recipe": text("a.yaml", lambda: yaml.safe_dump(recipe_settings()).encode(), recipe),
    "JSON recipe": text("a.json", lambda: json.dumps(recipe_settings()).encode(), recipe),
    "YAML cards": text("a.yaml", registry_path().read_bytes, lambda file: repr(sorted(read_cards(file).items()))),
    "YAML claims": text(
        "a.yaml", shipped("claims.yaml", "leaderboards").read_bytes, lambda file: read_claims(file).model_dump_json()
    ),
    "JSON baseline": text(
        "a.json",
        shipped("studies/digits-quick.baseline.json").read_bytes,
        lambda file: read_baseline(file).model_dump_json(),
    ),
    "npz": binary("a.npz", lambda: arrays(False), images),
    "compressed npz": binary("a.npz", lambda: arrays(True), images),
    **{
        f"{form} image": binary("a.JPEG", lambda form=form: picture(form), pixels)
        for form in ("JPEG", "PNG", "BMP", "GIF", "WEBP")
    },
    "PPM image": binary("a.ppm", lambda: picture("PPM"), pixels),
    "gray PNG image": binary("a.png", lambda: picture("PNG", "L"), pixels),
    "tar of images": binary("a.tar", archive, members),
    "MATLAB table": binary("meta.mat", kit, synsets),
}
