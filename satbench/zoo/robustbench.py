"""Networks of RobustBench, `robustbench:DATASET/THREAT/NAME`: built by its own loader from files that are pinned."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import nn

from satbench.core.eps import Threat
from satbench.core.errors import FAULTS, BadInput, reason
from satbench.core.home import home
from satbench.core.lookup import nearest
from satbench.core.progress import Progress, silent
from satbench.zoo import cache
from satbench.zoo.fetch import DRIVE, download, sha256_file
from satbench.zoo.pickles import weights_only

FOLDER = "robustbench"
INSTALL = (
    "run pip install 'satbench[robustbench]' && pip install --no-deps robustbench "
    "git+https://github.com/fra31/auto-attack (robustbench pins an older gdown and timm than satbench uses)"
)
# the threats of its leaderboards: Croce et al. 2021, arXiv 2010.09670, section 3; corruptions are no ball
THREATS = {
    ("cifar10", "Linf"): Threat(norm="Linf", eps=8 / 255),
    ("cifar10", "L2"): Threat(norm="L2", eps=0.5),
    ("cifar100", "Linf"): Threat(norm="Linf", eps=8 / 255),
    ("imagenet", "Linf"): Threat(norm="Linf", eps=4 / 255),
}
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}


@dataclass(frozen=True)
class Entry:
    """A network of the collection, with the data set and the threat of its leaderboard."""

    model: nn.Module
    dataset: str
    threat: Threat | None


def from_robustbench(name: str, progress: Progress = silent) -> Entry:
    """The network `DATASET/THREAT/NAME` in eval mode: [0, 1] images to logits.

    Its files are downloaded where the caches lack them, and their SHA-256 is pinned at the first use, before they are
    read. Raises `BadInput` for a name that is not there, without the package, for files that are not the pinned ones,
    and for weights that would run code.
    """
    zoo = _package(name)
    dataset, threat, model = _parts(name)
    table = _table(zoo, dataset, threat)
    if model not in table:
        raise BadInput(f"robustbench has no {dataset}/{threat}/{model}; {nearest(model, table)}")
    files = _files(name, Path(dataset, threat, model), table[model]["gdrive_id"])
    folder = _folder(name, files, progress)
    for file in files:
        path = folder / file
        cache.pin(f"robustbench:{name}", {path.name: sha256_file(path)}, None)
    try:
        with weights_only():
            network: nn.Module = zoo.load_model(model, model_dir=folder, dataset=dataset, threat_model=threat)
    except UnpicklingError:
        raise BadInput(
            f"robustbench:{name}: its file holds more than plain weights, which could run any code"
        ) from None
    except (*FAULTS, OSError) as error:
        raise BadInput(
            f"robustbench:{name}: its loader fails ({reason(error)}); update the package robustbench"
        ) from error
    return Entry(network.eval(), dataset, THREATS.get((dataset, threat)))


def _package(name: str) -> Any:
    try:
        import robustbench.utils
    except ImportError as error:
        raise BadInput(f"robustbench:{name} needs the package robustbench ({reason(error)}); {INSTALL}") from None
    return robustbench.utils


def _parts(name: str) -> tuple[str, str, str]:
    parts = name.split("/")
    if len(parts) != 3 or not all(part and part.strip(".") for part in parts):
        raise BadInput(f"robustbench:{name}: give robustbench:DATASET/THREAT/NAME, such as cifar10/Linf/Wong2020Fast")
    return parts[0], parts[1], parts[2]


def _table(zoo: Any, dataset: str, threat: str) -> dict[str, Any]:
    """The networks of a leaderboard by name."""
    by_dataset = {key.value: by_threat for key, by_threat in zoo.all_models.items()}
    if dataset not in by_dataset:
        raise BadInput(f"robustbench has no data set {dataset!r}; {nearest(dataset, by_dataset)}")
    by_threat: dict[str, dict[str, Any]] = {key.value: table for key, table in by_dataset[dataset].items()}
    if threat not in by_threat:
        raise BadInput(f"robustbench has no threat {threat!r} for {dataset}; {nearest(threat, by_threat)}")
    return by_threat[threat]


def _files(name: str, path: Path, source: object) -> dict[Path, str]:
    """The Drive id of each file, under the name that the loader expects."""
    if isinstance(source, str):
        return {path.with_name(f"{path.name}.pt"): source}
    if isinstance(source, list):
        return {path.with_name(f"{path.name}.pt_m{index}.pt"): one for index, one in enumerate(source)}
    raise BadInput(
        f"robustbench:{name} has no file of its own: its weights come from timm or torchvision and could not be "
        "pinned before they are read; take another network"
    )


def _folder(name: str, files: dict[Path, str], progress: Progress) -> Path:
    """The folder that holds all files: a shared cache's, or the user's own, to which missing ones are downloaded."""
    for one in cache.caches():
        if all((one / FOLDER / file).is_file() for file in files):
            return one / FOLDER
    folder = home() / FOLDER
    with cache.locked(f"robustbench/{name}"):
        for file, source in files.items():
            if not (folder / file).is_file():
                download(f"robustbench:{name}", f"{DRIVE}{source}", "Google Drive", folder / file, progress)
    return folder
