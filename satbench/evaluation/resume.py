"""What a run folder that is already there means for the run that is asked for."""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from satbench.attacks import Attack
from satbench.attacks.base import from_outside, layers, outside_modules
from satbench.core.errors import BadInput
from satbench.data import Images
from satbench.evaluation.probe import Answers
from satbench.evaluation.sources import plain_attributes, source_digest
from satbench.results.schema import Manifest
from satbench.results.store import MANIFEST, Outdated, Run, read_examples, read_run
from satbench.specs.attack import ids
from satbench.zoo import Loaded

DECISIVE = (
    "model",
    "threats",
    "seed",
    "batch_size",
    "draws",
    "device",
    "threads",
    "versions",
    "revision",
    "fingerprint",
)


def identity(wanted: Manifest) -> dict[str, object]:
    """What decides a result beside attack, threat, seed and image: batches that agree in it may be used again.

    `verify` computes the names of finished batches from it, so a change of its keys needs a new `SCHEMA_VERSION`.
    """
    data = wanted.data
    return {
        "model": [wanted.model.digest, wanted.model.code],
        "data": [data.name, data.split, data.loader, data.image_size],
        "versions": wanted.versions,
        "revision": wanted.revision,
        "fingerprint": wanted.fingerprint,
        "threads": wanted.threads,
        "draws": wanted.draws,
    }


def task(described: Manifest, trust: bool) -> str:
    """A digest of everything that workers on one run must agree in."""
    own = {"model", "data", "threats", "attacks", "seed", "batch_size", "search", "examples", "device", "draws"}
    said = described.model_dump(mode="json", include=own, exclude={"search": {"note"}})
    text = json.dumps([said, trust, identity(described)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_digest(models: Sequence[Loaded], attacks: Sequence[Attack]) -> str:
    """A hash of the source of models and attacks from outside, and of such an attack's plain attributes.

    It notices that an attack of the user's own was changed where its name does not say so, also in an attribute that
    its repr does not show. An attack whose source cannot be found, as in a notebook, is never the same twice; a
    network's answers stand for its source.
    """
    digest = hashlib.sha256()
    modules = {type(module).__module__ for one in models for module in one.model.modules()}
    modules |= {one.module for one in models if one.module is not None}
    for name in sorted(modules):
        if name.partition(".")[0] not in ("satbench", "torch"):
            digest.update(source_digest(name) or b"")
    for attack in attacks:
        for name in sorted(outside_modules(attack)):
            digest.update(source_digest(name) or uuid.uuid4().bytes)
        if from_outside(attack) is not None:
            digest.update("\n".join(plain_attributes(part) for part in layers(attack)).encode())
    return digest.hexdigest()[:16]


def fingerprint(answers: Sequence[Answers], code: str) -> str:
    """A hash of what networks answered on some images, bit for bit, and of `code_digest`."""
    digest = hashlib.sha256(b"".join(one.bits for one in answers))
    digest.update(code.encode())
    return digest.hexdigest()[:16]


def finished(out: Path, wanted: Manifest, images: Images, trust: bool) -> Run | None:
    """The run in `out`, marked as `reused`, when it is the one that is wanted, whole.

    Raises `BadInput` when the folder holds a run of another model, data set, seed or search, of other images of a data
    set of that name, or more than is wanted: its records would be lost. A model of another name is the same one where
    digest and fingerprint are equal.
    """
    if not (out / MANIFEST).is_file():
        return None
    try:
        run = read_run(out)
    except Outdated:
        raise
    except BadInput:
        return None  # damaged or edited: it is made again from the finished batches that are valid
    there = run.manifest
    renamed = there.fingerprint == wanted.fingerprint and there.model.digest == wanted.model.digest
    for what, held, asked in (
        ("model", (there.model.label, there.model.digest), (wanted.model.label, wanted.model.digest)),
        ("data set", _data(there), _data(wanted)),
        ("seed", (there.seed,), (wanted.seed,)),
        ("search", (there.search.form,), (wanted.search.form,)),
    ):
        if held != asked and not (what == "model" and renamed):
            raise BadInput(
                f"--out {out} holds a run of {what} {_words(held)}, asked for is {_words(asked)}; "
                "give another folder, or delete it"
            )
    if there.data.n <= len(images) and images.head(there.data.n).digest != there.data.digest:
        raise BadInput(
            f"--out {out} holds a run on other images or labels that are also called {_words(_data(there))}; give "
            "another folder, or delete it"
        )
    missing = [attack for attack in ids(there.attacks) if attack not in ids(wanted.attacks)]
    missing += [f"{one.norm} eps {one.eps:g}" for one in there.threats if one not in wanted.threats]
    missing += [f"{there.data.n} images"] if there.data.n > wanted.data.n else []
    missing += ["its examples"] if there.examples and not wanted.examples else []
    missing += ["a trust verdict"] if there.trust is not None and not trust else []
    if missing:
        raise BadInput(
            f"--out {out} also holds {', '.join(missing)}, which this command would drop; "
            "ask for at least what is there, or give another folder"
        )
    same = all(getattr(there, name) == getattr(wanted, name) for name in DECISIVE)
    same = same and there.search.identity == wanted.search.identity
    same = same and ids(there.attacks) == ids(wanted.attacks)
    enough = (there.examples or not wanted.examples) and (there.trust is not None or not trust)
    complete = there.data.n == wanted.data.n and has_examples(run)
    return replace(run, reused=True) if same and enough and complete else None


def has_examples(run: Run) -> bool:
    """Whether the files of all examples that the run kept are there."""
    return not run.manifest.examples or all(
        (run.path / file).is_file() for file in read_examples(run)["example_file"].unique()
    )


def _data(manifest: Manifest) -> tuple[object, ...]:
    data = manifest.data
    return data.name, data.split, data.loader, data.image_size


def _words(parts: tuple[object, ...]) -> str:
    return " ".join(str(part) for part in parts if part is not None)
