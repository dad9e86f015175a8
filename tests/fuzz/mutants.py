"""Damaged and forged files of every kind that carries weights or results, each the same for the same seed and number.

A `Kind` writes right files into a folder, and reads from it what a command would get. What its seal, checksum or digest
covers must come back as it was or be refused. A forged kind computes these anew over the damage, so other results may
come back, but no crash, no hang and no great use of memory.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_writer import block, blocks, bound, entry, header, shard_path, write_bundle, write_index
from forged_weights import rewrite
from safetensors.torch import save_file

from satbench.core.errors import BadInput
from satbench.core.files import to_json
from satbench.models import ModelSpec, build_model
from satbench.models.weights import (
    Conversion,
    Provenance,
    load_model_file,
    model_digest,
    read_weights,
    save_model,
    tensors_digest,
)
from satbench.reporting.summary import summarise
from satbench.reporting.summary_file import read_summary, write_summary
from satbench.results.store import read_run, read_timing, seal_of
from satbench.zoo.published import at_url
from satbench.zoo.tf_bundle import Bundle

HALF = (0.5, 0.5, 0.5)
SPEC = ModelSpec("cnn-small", "silu", 10, 3, 16, HALF, HALF, {"width": 4})
SPRUNG = "sprung"  # the file that a pickle of `Trap` writes
HOSTILE: tuple[Any, ...] = (
    *(-1, 0, 1, 10**7, 10**12, 2**63, 2**64, -(2**70), 1e308, -0.0, float("inf"), float("nan"), True, None),
    *("", "x", "-1", "../../X", "/etc/passwd", "a\nb", "\x1b[2J", "\x00", "é" * 1000, "9" * 5000, "=1+1", "$x$"),
    *([], {}, [[]], {"a": {}}, [1] * 1000),
)  # in place of a value of JSON


@dataclass(frozen=True)
class Kind:
    """write: fills an empty folder. files: which are damaged, as patterns. read: a digest of what the folder gives.

    damage: how a file is changed in place, by default as bytes. forged: whether the damage is sealed anew.
    """

    write: Callable[[Path], object]
    files: tuple[str, ...]
    read: Callable[[Path], str]
    damage: Callable[[Path, random.Random], object] = lambda file, source: damage_bytes(file, source)
    forged: bool = False


def expected(kind: Kind, folder: Path) -> str:
    """What the right files give; a kind whose right files are refused, such as pickles with code, gives "refused"."""
    try:
        return kind.read(folder)
    except BadInput:
        return "refused"


def mutate(kind: Kind, folder: Path, source: random.Random) -> tuple[Path, bytes]:
    """Damage one file of the folder; returns it and its right bytes."""
    file = source.choice(sorted(file for pattern in kind.files for file in folder.glob(pattern)))
    whole = file.read_bytes()
    kind.damage(file, source)
    return file, whole


def outcome(kind: Kind, folder: Path, right: str) -> str:
    """What became of a damaged file: refused, right, wrong, or executed; anything but `BadInput` is raised."""
    try:
        found = kind.read(folder)
    except BadInput as error:
        found = "refused" if "\n" not in str(error) else "refused in several lines"
    if (folder / SPRUNG).exists():
        return "executed"
    if found.startswith("refused"):
        return found
    return "right" if found == right else "forged" if kind.forged else "wrong"


# damage


def damage_bytes(file: Path, source: random.Random) -> None:
    """One to three edits, of which most are one."""
    data = bytearray(file.read_bytes())
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        BYTES[source.randrange(len(BYTES))](data, source)
    file.write_bytes(data)


def _flip(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _put(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at : at + 8] = source.choice((b"\0" * 8, b"\xff" * 8, source.randbytes(source.randint(1, 8))))


def _insert(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at:at] = source.randbytes(source.randint(1, 16))


def _delete(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    del data[at : at + source.randint(1, 16)]


def _cut(data: bytearray, source: random.Random) -> None:
    del data[source.randrange(len(data) + 1) :]


def _swap(data: bytearray, source: random.Random) -> None:
    """Two pieces change places."""
    size = source.choice((1, 4, 8, 64))
    one, other = sorted(source.randrange(max(1, len(data) - size)) for _ in range(2))
    if one + size <= other:
        data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def _digit(data: bytearray, source: random.Random) -> None:
    """Another decimal digit, as in the numbers of JSON."""
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        data[source.choice(places)] = source.randrange(48, 58)


BYTES = (_flip, _flip, _put, _insert, _delete, _cut, _swap, _digit)


def damage_json(value: Any, source: random.Random) -> Any:
    """The value with one place replaced, deleted, doubled or nested."""
    if isinstance(value, dict | list) and value and source.random() < 0.8:
        key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
        choice = source.random()
        if choice < 0.1:
            del value[key]
        elif choice < 0.15 and isinstance(value, list):
            value.append(value[key])
        elif choice < 0.2 and isinstance(value, dict):
            value[f"{key}x"] = value.pop(key)
        else:
            value[key] = damage_json(value[key], source)
        return value
    if source.random() < 0.05:
        for _ in range(source.choice((10, 200, 5000))):
            value = [value]
        return value
    if isinstance(value, int | float) and source.random() < 0.3:
        return value + source.choice((-1, 1, 1e-9, 100))
    return source.choice(HOSTILE)


# TensorFlow checkpoints


def write_checkpoint(folder: Path) -> None:
    source = np.random.default_rng(0)
    shapes = {"conv0/W": (3, 3, 3, 4), "conv0/bn/gamma": (4,), "conv0/bn/beta": (4,), "linear/W": (16, 10), "step": ()}
    tensors = {name: source.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    write_bundle(folder / "model", tensors, shards=2, block_size=60)


def read_checkpoint(folder: Path) -> str:
    digest = hashlib.sha256()
    with Bundle(folder / "model") as bundle:
        for name in bundle.entries:
            array = bundle.read(name)
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return digest.hexdigest()


def forge_index(file: Path, source: random.Random) -> None:
    """Damage below right checksums of the index's blocks."""
    content = np.arange(6, dtype=np.float32)
    pairs = [(b"", header())]
    pairs += [(b"w%d" % n, entry("float32", (1, 2), 0, 8 * n, content[2 * n : 2 * n + 2].tobytes())) for n in range(3)]
    chosen, below = source.randrange(4), source.random() < 0.5
    if below:
        pairs[chosen] = (pairs[chosen][0], _edited(pairs[chosen][1], source))
    parts = list(blocks(pairs, block_size=1)) if source.random() < 0.5 else [(b"w2", block(pairs))]
    if not below:
        chosen = source.randrange(len(parts))
        parts[chosen] = (parts[chosen][0], _edited(parts[chosen][1], source))
    file.write_bytes(bound(parts))


def write_forgeable(folder: Path) -> None:
    content = np.arange(6, dtype=np.float32)
    pairs = [(b"", header())]
    pairs += [(b"w%d" % n, entry("float32", (1, 2), 0, 8 * n, content[2 * n : 2 * n + 2].tobytes())) for n in range(3)]
    write_index(folder / "model", bound(list(blocks(pairs, block_size=1))))
    shard_path(folder / "model").write_bytes(content.tobytes())


def _edited(whole: bytes, source: random.Random) -> bytes:
    data = bytearray(whole)
    BYTES[source.randrange(len(BYTES))](data, source)
    return bytes(data)


# weights


def write_trained(folder: Path) -> None:
    torch.manual_seed(0)
    origin = Provenance.model_validate(
        {"label": "net", "recipe": "r", "method": "pgd-at", "dataset": "digits", "seed": 0, "epoch": 3}
        | {"threat": {"norm": "Linf", "eps": 0.1}, "train_digest": "sha256:0", "config": "c", "family": "f"}
    )
    save_model(folder / "net.safetensors", build_model(SPEC), origin)


def write_converted(folder: Path) -> None:
    torch.manual_seed(0)
    model = build_model(SPEC).eval()
    origin = Conversion.model_validate(
        {"card": "c", "threat": {"norm": "Linf", "eps": 4 / 255}, "dataset": "imagenet", "loader": "tf1-bicubic"}
        | {"channel_order": "rgb", "sources": {"a": "0" * 64}, "converter": 1, "averaged": False, "ignored": 0}
        | {"digest": model_digest(model)}
    )
    save_model(folder / "net.safetensors", model, origin)


def read_network(folder: Path) -> str:
    model, origin = load_model_file(folder / "net.safetensors")
    return f"{model_digest(model)} {model.spec} {origin}"


def read_checkpoint_file(folder: Path) -> str:
    """As `--checkpoint` reads it."""
    tensors = read_weights(folder / "net.safetensors")
    return tensors_digest({name: tensors[name] for name in tensors if not name.startswith("probe.")})


def forge_header(file: Path, source: random.Random) -> None:
    def change(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        part = source.choice(("spec", "spec", "conversion"))
        header[part] = damage_json(header[part], source)

    try:
        rewrite(file, change, seal=True)
    except (UnicodeEncodeError, RecursionError):  # no such file can be written
        return


def forge_tensors(file: Path, source: random.Random) -> None:
    def change(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        name = source.choice(sorted(tensors))
        changed = (
            lambda one: one.flatten(),
            lambda one: one.new_full(one.shape, float("nan") if one.is_floating_point() else 0),
            lambda one: one.double(),
            lambda one: torch.zeros(10**6),
            lambda one: one[None].contiguous(),
        )
        tensors[name] = source.choice(changed)(tensors[name])

    rewrite(file, change, seal=True)


# weights of other collections


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.file), "w")


def write_cached(folder: Path) -> None:
    """A file in torch.hub's folder, published by the hash that it has."""
    place = folder / "hub" / "checkpoints"
    place.mkdir(parents=True)
    torch.save({"w": torch.arange(64.0), "b": torch.ones(3)}, place / "new")
    digits = hashlib.sha256((place / "new").read_bytes()).hexdigest()[:8]
    (place / "new").rename(place / f"net-{digits}.pth")


def read_cached(folder: Path) -> str:
    os.environ |= {"TORCH_HOME": str(folder), "SATBENCH_HOME": str(folder / "home")}
    (file,) = folder.glob("hub/checkpoints/*.pth")
    return tensors_digest(read_weights(at_url(f"https://example.invalid/{file.name}")))


def write_trapped(folder: Path) -> None:
    """Weights with code in them, in both formats of torch."""
    content = {"w": torch.arange(64.0), "x": Trap(folder / SPRUNG)}
    for number, zipped in enumerate((True, False)):
        torch.save(content, folder / f"{number}.pth", _use_new_zipfile_serialization=zipped)


def read_trapped(folder: Path) -> str:
    """The first file that can be read, where damage has removed the code."""
    for file in sorted(folder.glob("*.pth")):
        try:
            return tensors_digest(read_weights(file))
        except BadInput as error:
            refused = error
    raise refused


# runs


def write_run_folder(folder: Path) -> None:
    from satbench import evaluate

    settings: dict[str, Any] = {"attack": ["fgsm", "pgd:steps=2"], "eps": "0.1,0.2", "n": 24, "device": "cpu"}
    evaluate("digits-relu", folder / "run", **settings, trust=False)


def read_run_folder(folder: Path) -> str:
    run = read_run(folder / "run")
    manifest = run.manifest.model_dump_json(exclude={"seal"})
    return f"{manifest} {run.records.to_json(double_precision=15)} {read_timing(run).to_json(double_precision=15)}"


def forge_manifest(file: Path, source: random.Random) -> None:
    manifest = damage_json(json.loads(file.read_text()), source)
    try:
        file.write_text(json.dumps(manifest))
        if isinstance(manifest, dict):
            file.write_text(json.dumps(manifest | {"seal": seal_of(file.parent, manifest)}))
    except (UnicodeEncodeError, RecursionError):
        return


def forge_table(file: Path, source: random.Random) -> None:
    damage_bytes(file, source)
    manifest = json.loads((file.parent / "manifest.json").read_text())
    (file.parent / "manifest.json").write_text(to_json(manifest | {"seal": seal_of(file.parent, manifest)}))


def write_runs_json(folder: Path) -> None:
    write_run_folder(folder)
    write_summary(folder / "runs.json", summarise([read_run(folder / "run")]))


def read_runs_json(folder: Path) -> str:
    return "\n".join(row.model_dump_json() for row in read_summary(folder / "runs.json"))


def damage_runs_json(file: Path, source: random.Random) -> None:
    """As bytes, or one value of it as an editor would change it."""
    if source.random() < 0.5:
        damage_bytes(file, source)
        return
    try:
        file.write_text(json.dumps(damage_json(json.loads(file.read_text()), source)))
    except (UnicodeEncodeError, RecursionError):
        return


def write_plain(folder: Path) -> None:
    """Weights of others, which carry no digest: only crashes, hangs and memory count."""
    save_file({"w": torch.arange(64.0), "b": torch.ones(3)}, folder / "net.safetensors", metadata={"format": "pt"})


TENSORS, WEIGHTS, TABLES = ("model.index", "model.data-*"), ("net.safetensors",), ("run/records.parquet",)
KINDS: dict[str, Kind] = {
    "index": Kind(write_checkpoint, TENSORS[:1], read_checkpoint),
    "data": Kind(write_checkpoint, TENSORS[1:], read_checkpoint),
    "forged index": Kind(write_forgeable, TENSORS[:1], read_checkpoint, forge_index, forged=True),
    "weights of a training": Kind(write_trained, WEIGHTS, read_network),
    "weights of a conversion": Kind(write_converted, WEIGHTS, read_network),
    "weights as --checkpoint": Kind(write_trained, WEIGHTS, read_checkpoint_file),
    "forged header of weights": Kind(write_converted, WEIGHTS, read_network, forge_header, forged=True),
    "forged tensors of weights": Kind(write_converted, WEIGHTS, read_network, forge_tensors, forged=True),
    "weights of others": Kind(write_plain, WEIGHTS, read_checkpoint_file, forged=True),
    "torchvision file in the cache": Kind(write_cached, ("hub/checkpoints/*.pth",), read_cached),
    "pickles with code": Kind(write_trapped, ("*.pth",), read_trapped, forged=True),
    "manifest": Kind(write_run_folder, ("run/manifest.json",), read_run_folder),
    "records": Kind(write_run_folder, TABLES, read_run_folder),
    "times": Kind(write_run_folder, ("run/timing.parquet",), read_run_folder),
    "forged manifest": Kind(write_run_folder, ("run/manifest.json",), read_run_folder, forge_manifest, forged=True),
    "forged records": Kind(write_run_folder, TABLES, read_run_folder, forge_table, forged=True),
    "summary": Kind(write_runs_json, ("runs.json",), read_runs_json, damage_runs_json),
}
