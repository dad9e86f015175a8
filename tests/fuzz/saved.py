"""Files that satbench writes or fetches: weights, checkpoints, runs and summaries."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bundle_writer import block, blocks, bound, entry, header, shard_path, write_bundle, write_index
from forged_weights import rewrite
from fuzz.kind import BYTES, Kind, damage_bytes, damage_json
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
from satbench.reporting.run_file import Entry, encoded, read_entry
from satbench.reporting.summary import summarise
from satbench.results.store import read_run, read_timing, seal_of
from satbench.zoo.published import at_url
from satbench.zoo.tf_bundle import Bundle

HALF = (0.5, 0.5, 0.5)
SPEC = ModelSpec("cnn-small", "silu", 10, 3, 16, HALF, HALF, {"width": 4})


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
    """Calls a function when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("executed",)


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


def write_saved(folder: Path) -> None:
    torch.save({"w": torch.arange(64.0), "b": torch.ones(3)}, folder / "net.pt")


def read_saved(folder: Path) -> str:
    return tensors_digest(read_weights(folder / "net.pt"))


def write_trapped(folder: Path) -> None:
    """Weights with code in them, in both formats of torch."""
    content = {"w": torch.arange(64.0), "x": Trap()}
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


def write_entry(folder: Path) -> None:
    write_run_folder(folder)
    (folder / "entry.json").write_text(encoded(Entry(read_run(folder / "run"))))


def write_counts(folder: Path) -> None:
    write_run_folder(folder)
    (folder / "entry.json").write_text(encoded(Entry(rows=tuple(summarise([read_run(folder / "run")])))))


def read_entry_file(folder: Path) -> str:
    entry = read_entry(folder / "entry.json")
    rows = entry.rows if entry.run is None else summarise([entry.run])
    return "\n".join(row.model_dump_json() for row in rows)


def damage_entry(file: Path, source: random.Random) -> None:
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
SAVED: dict[str, Kind] = {
    "index": Kind(write_checkpoint, TENSORS[:1], read_checkpoint),
    "data": Kind(write_checkpoint, TENSORS[1:], read_checkpoint),
    "forged index": Kind(write_forgeable, TENSORS[:1], read_checkpoint, forge_index, covered=False),
    "weights of a training": Kind(write_trained, WEIGHTS, read_network),
    "weights of a conversion": Kind(write_converted, WEIGHTS, read_network),
    "weights as --checkpoint": Kind(write_trained, WEIGHTS, read_checkpoint_file),
    "forged header of weights": Kind(write_converted, WEIGHTS, read_network, forge_header, covered=False),
    "forged tensors of weights": Kind(write_converted, WEIGHTS, read_network, forge_tensors, covered=False),
    "weights of others": Kind(write_plain, WEIGHTS, read_checkpoint_file, covered=False),
    "file of torch.save": Kind(write_saved, ("net.pt",), read_saved),
    "torchvision file in the cache": Kind(write_cached, ("hub/checkpoints/*.pth",), read_cached),
    "pickles with code": Kind(write_trapped, ("*.pth",), read_trapped, covered=False),
    "manifest": Kind(write_run_folder, ("run/manifest.json",), read_run_folder),
    "records": Kind(write_run_folder, TABLES, read_run_folder),
    "times": Kind(write_run_folder, ("run/timing.parquet",), read_run_folder),
    "forged manifest": Kind(write_run_folder, ("run/manifest.json",), read_run_folder, forge_manifest, covered=False),
    "forged records": Kind(write_run_folder, TABLES, read_run_folder, forge_table, covered=False),
    "run of a leaderboard": Kind(write_entry, ("entry.json",), read_entry_file, damage_entry),
    "counts of a leaderboard": Kind(write_counts, ("entry.json",), read_entry_file, damage_entry),
}
