"""A leaderboard as a folder: its settings, one file a run, and the pages that are built from them.

leaderboard.yaml       title, and what a run must be to be added
runs/*.json            one file a run, see `run_file`
published/D/T/*.json   figures that others published, see `model_info`
claims.yaml            statements of papers, where there is such a file
index.html and tables  generated, see `leaderboard`
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from satbench.core.bounded import MOST_JSON, read_bounded
from satbench.core.eps import Threat, format_eps, stated_threat
from satbench.core.errors import BadInput
from satbench.core.files import check_output_folder, check_output_path, write_bytes, write_text
from satbench.core.names import check_inside
from satbench.core.parameters import Count
from satbench.core.parsing import parsed
from satbench.core.strict_json import parse_json
from satbench.core.strict_yaml import read_mapping
from satbench.reporting.examples import Example
from satbench.reporting.joined import images_name
from satbench.reporting.model_info import PublishedModel, is_model_info, read_model_info
from satbench.reporting.run_file import Entry, differences, encoded, file_name, read_entry
from satbench.reporting.summary import Row, merge, summarise
from satbench.results.store import MANIFEST, Run, read_run
from satbench.results.training_log import METRICS, Epoch, read_log
from satbench.specs.attack import ids
from satbench.specs.names import check_attack

SETTINGS = "leaderboard.yaml"
RUNS = "runs"
PUBLISHED = "published"
CLAIMS = "claims.yaml"
README = "README.md"
ExamplesOf = Callable[[Run], tuple[Example, ...]]

STARTING_SETTINGS = """\
title: {title}
# What a run must be to be added. A line that is left out asks for nothing.
# datasets: [cifar10/test]      # it is on one of these
# attacks: [autoattack]         # it met each of these attacks
# threats: ["Linf:8/255"]       # at each of these threats
# n: 1000                       # on at least so many images
"""

STARTING_README = """\
# {title}

`runs/` holds one JSON file a run, with a digest of its content. The pages are made from these files.

```bash
satbench leaderboard add RUN --dir .      # a run folder of `satbench eval`, or a model-info JSON of RobustBench
satbench leaderboard build --dir .        # write index.html and the tables again
satbench leaderboard check --dir .        # exit 1 where a page is not what the runs give; for continuous integration
```

Commit the file of the run and the pages. `leaderboard.yaml` says which runs are accepted.
"""


def _threat(value: object) -> object:
    """A threat from text such as Linf:8/255; anything else is left to the type."""
    return stated_threat(value) if isinstance(value, str) else value


def _attack(value: object) -> object:
    """The name of an attack, which is known or of the user's own."""
    if isinstance(value, str):
        check_attack(value)
    return value


class Settings(BaseModel):
    """Of a leaderboard: its title, and what a run must be to be added.

    datasets: the run is on one of these, each DATASET or DATASET/SPLIT. attacks, threats: it met each attack, by its
    name on the command line, at each threat. n: on at least so many images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Annotated[str, Field(min_length=1)]
    datasets: tuple[str, ...] = ()
    attacks: tuple[Annotated[str, BeforeValidator(_attack)], ...] = ()
    threats: tuple[Annotated[Threat, BeforeValidator(_threat)], ...] = ()
    n: Count = 1


@dataclass(frozen=True)
class Leaderboard:
    """What lies in a leaderboard's folder; `entries` by the names of their files."""

    settings: Settings
    entries: dict[str, Entry]
    published: tuple[PublishedModel, ...]

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of all runs, in canonical order; rows of counts are replaced where a run measured the same."""
        counts = [row for entry in self.entries.values() for row in entry.rows]
        return merge(counts, summarise([entry.run for entry in self.entries.values() if entry.run is not None]))


@dataclass(frozen=True)
class Added:
    """A file that was added: a sentence for each thing its user should know; `is_new` is False for one that is there.

    `entry` is the run, None for published figures.
    """

    file: Path
    is_new: bool = True
    notes: tuple[str, ...] = ()
    entry: Entry | None = None


def init(folder: Path, title: str) -> None:
    """Make an empty leaderboard in a new or empty folder."""
    check_output_folder(folder, option="DIR")
    parsed(Settings, {"title": title}, "--title")
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    write_text(folder / README, STARTING_README.format(title=" ".join(title.split())))
    write_text(folder / SETTINGS, STARTING_SETTINGS.format(title=json.dumps(title, ensure_ascii=False)))


def read_leaderboard(folder: Path) -> Leaderboard:
    """All files of a leaderboard; raises `BadInput` for the first that is missing, damaged or was changed."""
    settings = read_settings(folder)
    entries = {file.name: read_entry(file) for file in sorted((folder / RUNS).glob("*.json"))}
    published = tuple(read_model_info(file) for file in sorted((folder / PUBLISHED).rglob("*.json")))
    return Leaderboard(settings, entries, published)


def read_settings(folder: Path) -> Settings:
    """The settings of a leaderboard; raises `BadInput` for a folder that is none."""
    file = folder / SETTINGS
    if not file.is_file():
        raise BadInput(f"{folder} is no leaderboard: it has no {SETTINGS}; make one with `satbench leaderboard init`")
    return parsed(Settings, read_mapping(file), str(file))


def add(
    folder: Path, paths: Sequence[Path], norm: str | None = None, examples_of: ExamplesOf | None = None
) -> list[Added]:
    """Write a file for each run in `paths`: run folders, folders that hold some, run files, model-info files.

    Every run is read and checked before the first file is written. A file that is there already is left as it is,
    unless it only lacks the examples. `norm` is that of model-info files that do not lie in a folder named after it.
    `examples_of` gives the examples of a run, by default none: they show images of a data set to every reader, and
    making them needs the data set and torch. Raises `BadInput` for a path without a run, for one that is no run folder
    where examples are asked for, and for a run that `read_run` or the settings of the leaderboard refuse.
    """
    check_output_path(folder, "--dir")
    board = read_leaderboard(folder)
    found: dict[Path, tuple[Added, bytes]] = {}
    for path in paths:
        for added, content in _found(folder, path, norm, examples_of):
            if added.entry is not None and (fault := unaccepted(board.settings, added.entry)):
                raise BadInput(f"{path}: {fault}, as {folder / SETTINGS} asks; add another run")
            found[added.file] = _checked(board, added, content), content
    for added, content in found.values():
        if added.is_new:
            write_bytes(added.file, content)
    return [added for added, _ in found.values()]


def _found(folder: Path, path: Path, norm: str | None, examples_of: ExamplesOf | None) -> list[tuple[Added, bytes]]:
    """What is to be added of one path, with the bytes of its file."""
    if path.is_file() and examples_of is not None:
        raise BadInput(f"{path} is a file, and examples are in run folders; give a folder or leave out --examples")
    if path.is_file():
        content = read_bounded(path, MOST_JSON)
        if is_model_info(_json(path, content)):
            one = read_model_info(path, norm)
            file = folder / PUBLISHED / check_inside(one.place, f"{path}: the name")
            return [(Added(file), content)]
        entry = read_entry(path)
        return [(Added(folder / RUNS / file_name(entry), entry=entry), content)]
    runs = sorted({manifest.parent for manifest in path.rglob(MANIFEST)})
    if not runs:
        raise BadInput(f"no run in {path}; give a run folder of `satbench eval`, or a model-info JSON of RobustBench")
    entries = [Entry(run, training_of(run), examples_of(run) if examples_of else ()) for run in map(read_run, runs)]
    return [(Added(folder / RUNS / file_name(one), entry=one), encoded(one).encode()) for one in entries]


def _checked(board: Leaderboard, added: Added, content: bytes) -> Added:
    """With a note where its file is there already, or where other runs count together with it."""
    there = board.entries.get(added.file.name)
    if there is not None and _only_lacks_examples(there, added.entry):
        return replace(added, notes=("is there already; its examples are added",))
    if added.file.is_file():
        same = read_bounded(added.file) == content or (there is not None and _is_same(there, added.entry))
        note = "is there already" if same else "is there already, with other content; remove it to add this one"
        return replace(added, is_new=False, notes=(note,))
    run = added.entry.run if added.entry else None
    if run is None:
        return added
    notes = [
        f"{name} is of the same network, images, attacks and seed: an image that either run broke counts as broken; "
        f"remove {name} to replace it"
        for name, entry in board.entries.items()
        if entry.run is not None and _measured(entry.run) == _measured(run)
    ]
    verdict = run.manifest.trust.verdict if run.manifest.trust else ""
    notes += ["listed without a rank, because its trust verdict is fail"] if verdict == "fail" else []
    return replace(added, notes=tuple(notes))


def _is_same(there: Entry, given: Entry | None) -> bool:
    """Whether two entries say the same; zlib of another version gives other bytes."""
    if given is None or there.run is None or given.run is None:
        return False
    if there.training != given.training or given.examples not in ((), there.examples):
        return False
    return not differences(there, given.run)


def _only_lacks_examples(there: Entry, given: Entry | None) -> bool:
    """Whether the entry that is there says what is given, but for the examples, of which it has none."""
    if given is None or there.examples or not given.examples:
        return False
    return _is_same(replace(there, examples=given.examples), given)


def _measured(run: Run) -> tuple[object, ...]:
    manifest = run.manifest
    data, network = manifest.data, manifest.model
    images = images_name(data.name, data.split, data.loader)
    return network.digest, network.code, images, frozenset(ids(manifest.attacks)), manifest.seed


def unaccepted(settings: Settings, entry: Entry) -> str:
    """Why the settings refuse a run, as the end of a sentence; "" where they accept it."""
    if not (settings.datasets or settings.attacks or settings.threats or settings.n > 1):
        return ""
    if entry.run is None:
        return "it holds counts alone, expected records image by image"
    manifest, records = entry.run.manifest, entry.run.records
    data = manifest.data
    known = {data.name, f"{data.name}/{data.split}", images_name(data.name, data.split, data.loader)}
    if settings.datasets and not known & set(settings.datasets):
        return f"its images are {data.name}/{data.split}, expected {' or '.join(settings.datasets)}"
    for threat in settings.threats or manifest.threats:
        here = records[(records["norm"] == threat.norm) & (abs(records["eps"] - threat.eps) < 1e-9)]
        met = {info.name: int((here["attack"] == info.id).sum()) for info in manifest.attacks}
        for attack in settings.attacks or [max(met, key=lambda name: met[name])]:
            if met.get(attack, 0) < settings.n:
                images = f"{met.get(attack, 0)} images met {attack} at {threat.norm} {format_eps(threat.eps)}"
                return f"{images}, expected at least {settings.n}"
    return ""


def training_of(run: Run) -> tuple[Epoch, ...]:
    """The log of the training of a run's network, where `model.ref` is its folder or a file in it; else nothing.

    The folder must say that it is of the network's training config and seed.
    """
    said = run.manifest.model
    ref = Path(said.ref)
    folder = ref if ref.is_dir() else ref.parent
    if said.config is None or not (folder / METRICS).is_file():
        return ()
    files = [ref] if ref.is_file() else sorted(folder.glob("*.safetensors"))
    if not any(_provenance(file) == (said.config, said.seed) for file in files):
        return ()
    return tuple(read_log(folder / METRICS, Epoch))


def _provenance(file: Path) -> tuple[object, object] | None:
    """Digest of the config and seed of the training that wrote a weights file, None where the file does not say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as opened:
            header: Any = json.loads((opened.metadata() or {}).get("satbench", "{}"))
    except (OSError, ValueError, SafetensorError):
        return None
    origin = header.get("provenance") if isinstance(header, dict) else None
    return (origin.get("config"), origin.get("seed")) if isinstance(origin, dict) else None


def _json(path: Path, content: bytes) -> Any:
    try:
        return parse_json(content)
    except ValueError as error:
        raise BadInput(f"{path} is no JSON ({error}); give a run folder or a model-info JSON of RobustBench") from None
