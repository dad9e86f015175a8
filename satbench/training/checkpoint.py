"""What a training folder holds, and how an interrupted run is picked up without a trace.

config.json        the frozen config, written first
state.safetensors  weights, optimiser state and position of the latest save; removed when the run is finished
metrics.jsonl      one line an epoch, no times, so that equal runs are equal bytes
best.safetensors, last.safetensors   the weights, each a file that rebuilds its network alone
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from satbench.errors import BadInput
from satbench.models.classifier import Classifier
from satbench.models.weights import SCHEMA_VERSION, Provenance, load_strictly, read_safetensors, save_model
from satbench.results.schema import Threat
from satbench.results.store import atomic_file, check_output_folder, to_json, write_text
from satbench.training.config import TrainConfig, parse_config
from satbench.zoo import BEST, LAST

CONFIG = "config.json"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"


@dataclass
class Position:
    """How far a run is: the next step to take, the epochs behind it, and the best of them."""

    epoch: int = 0
    step: int = 0  # within the epoch
    loss_sum: float = 0.0  # over the steps taken in this epoch
    history: list[dict[str, Any]] = field(default_factory=list)


def open_folder(out: Path, config: TrainConfig, data: dict[str, str]) -> None:
    """Make `out` the folder of this config and data, or accept it when it already is.

    `data` holds the digest of each split. Raises `BadInput` when the folder belongs to other settings or images.
    """
    file = out / CONFIG
    check_output_folder(out, CONFIG)
    if file.is_file():
        there = read_config(out)
        if there != config:
            changed = _first_difference(there.model_dump(), config.model_dump())
            raise BadInput(f"{out} holds a run with another {changed}; give another --out or the same settings")
        if json.loads(file.read_text(encoding="utf-8")).get("data") != data:
            raise BadInput(f"{out} holds a run on other images than {config.dataset} has now; give another --out")
        return
    write_text(file, to_json({"schema_version": SCHEMA_VERSION, "config": config.model_dump(), "data": data}))


def read_config(folder: Path) -> TrainConfig:
    """The config of a training folder; raises `BadInput` when it is damaged or of another schema version."""
    file = folder / CONFIG
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        version, config = raw["schema_version"], raw["config"]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is missing or damaged ({type(error).__name__}); train into a new folder") from None
    if version != SCHEMA_VERSION:
        raise BadInput(f"{file} has schema version {version!r}, this satbench reads {SCHEMA_VERSION}; train it again")
    return parse_config(config, str(file))


def finished(out: Path, config: TrainConfig) -> bool:
    """Whether the run in `out` has nothing left to do: every epoch is logged and the state is gone."""
    kept = (out / LAST).is_file() and (out / BEST).is_file() and not (out / STATE).exists()
    return kept and len(read_metrics(out)) == config.epochs


def save_state(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write everything a resumed run needs, atomically."""
    tensors = {f"model.{name}": tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value.detach().cpu() for key, value in state.items()}
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    with atomic_file(out / STATE) as temporary:
        save_file(tensors, temporary, metadata={"position": json.dumps(vars(position))})


def load_state(out: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Bring model and optimiser back to the latest save and return its position; the start when there is none."""
    if not (out / STATE).is_file():
        return Position()
    tensors, metadata = read_safetensors(out / STATE)
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    load_strictly(model, weights, out / STATE)
    states: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                states.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        return Position(**json.loads(metadata["position"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{out / STATE} is no state of this run ({type(error).__name__}); remove it to train {out} from the start"
        ) from None


def save_weights(path: Path, model: Classifier, config: TrainConfig, epoch: int, train_digest: str) -> None:
    """Write a weights file with where it came from; equal runs give equal bytes."""
    provenance = Provenance(
        label=config.label,
        recipe=config.recipe,
        method=config.method.name,
        dataset=config.dataset,
        seed=config.seed,
        threat=Threat(norm=config.threat.norm, eps=config.threat.eps),
        epoch=epoch,
        train_digest=train_digest,
    )
    with atomic_file(path) as temporary:
        save_model(temporary, model, provenance)


def write_metrics(out: Path, history: list[dict[str, Any]]) -> None:
    """Write the whole log again, so that it never holds an epoch twice."""
    write_text(out / METRICS, "".join(json.dumps(row) + "\n" for row in history))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The log of a training folder, a dictionary an epoch; empty when there is none."""
    file = folder / METRICS
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise BadInput(f"{file} is damaged; train into a new folder") from None


def _first_difference(there: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    for key, value in sorted(wanted.items(), key=lambda item: item[0] == "recipe"):
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if value != other and (inner := _first_difference(other, value, f"{prefix}{key}.")):
                return inner
        elif value != other:
            return f"{prefix}{key} ({other!r} there, {value!r} asked for)"
    return next((f"{prefix}{key} ({there[key]!r} there, none asked for)" for key in there if key not in wanted), "")
