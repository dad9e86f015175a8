"""What a training folder holds, and how an interrupted run is picked up without a trace.

config.json        the frozen config, written first
state.safetensors  all that a resumed run needs, of the latest save; removed when the run is finished
state.previous.safetensors   the save before, for when the latest cannot be read
metrics.jsonl      one line an epoch, no times, so that equal runs are equal bytes; lr: of the last update,
                   train_accuracy: on the crafted images as they were learnt from, in training mode
times.jsonl        one line an epoch: seconds of training and of measuring, images a second
best.safetensors, last.safetensors   the weights, each a file that rebuilds its network alone
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from satbench.errors import BadInput
from satbench.models.classifier import Classifier
from satbench.models.weights import (
    SCHEMA_VERSION,
    Provenance,
    load_model_file,
    load_strictly,
    read_safetensors,
    save_model,
    write_safetensors,
)
from satbench.results.schema import Threat
from satbench.results.store import atomic_file, to_json, write_text
from satbench.training.averaging import Average
from satbench.training.config import TrainConfig, parse_config
from satbench.zoo import BEST, LAST

CONFIG = "config.json"
STATE = "state.safetensors"
PREVIOUS = "state.previous.safetensors"
METRICS = "metrics.jsonl"
TIMES = "times.jsonl"


@dataclass
class Position:
    """How far a run is: the next update to take, the epochs behind it, and what is summed up within the epoch."""

    epoch: int = 0
    step: int = 0  # updates taken in this epoch
    loss_sum: float = 0.0
    correct: int | None = 0  # crafted images of all processes that the update classified correctly; None: not known
    forward: int = 0  # rows that went through the network of this process
    backward: int = 0
    images: int = 0  # that this process updated on, each as often as it did
    seconds: float = 0.0  # of the updates of this epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)  # as `history`, what two equal runs need not share


@dataclass
class Remembered:
    """Everything of a run that a checkpoint holds, beside its position.

    `method` is the state of the training method, `average` the average of the weights where there is one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    method: dict[str, Tensor]
    average: Average | None


def open_folder(out: Path, config: TrainConfig, data: dict[str, str]) -> None:
    """Write the config to the folder `out`, or check that `out` already is the folder of this config and data.

    `data` holds the digest of each split. Raises `BadInput` when the folder belongs to other settings or images.
    """
    file = out / CONFIG
    for name in (CONFIG, STATE, METRICS, BEST, LAST):  # what a killed process was writing
        for left in out.glob(f".{name}.*"):
            left.unlink()
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
    """Whether the run in `out` has nothing left to do: the state is gone and it is logged to its end."""
    if (out / STATE).exists() or not (out / LAST).is_file():
        return False
    history = read_metrics(out)
    return bool(history) and (len(history) == config.epochs or bool(history[-1]["ended"]))


def check_weights(out: Path, best_epoch: int, last_epoch: int, going_on: bool = False) -> None:
    """Raise `BadInput` where the weights of these epochs are not what lies in the folder.

    A run that goes on may have written those of the epoch that it is about to repeat.
    """
    for name, epoch in ((BEST, best_epoch), (LAST, last_epoch)):
        try:
            _, origin = load_model_file(out / name)
        except BadInput as error:
            raise BadInput(f"{error}; remove {out} to train it again") from None
        found = origin.epoch if isinstance(origin, Provenance) else -1
        if found != epoch and not (going_on and found > epoch):
            raise BadInput(f"{out / name} does not hold the weights of epoch {epoch}; remove {out} to train it again")


def save_state(out: Path, run: Remembered, position: Position) -> None:
    """Write everything a resumed run needs, atomically; the save before is kept beside it."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    tensors |= {f"method.{name}": tensor for name, tensor in run.method.items()}
    if run.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in run.average.state().items()}
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"position": json.dumps(vars(position))}
    metadata["digest"] = _digest(out, tensors, metadata["position"])
    if (out / STATE).is_file():
        os.replace(out / STATE, out / PREVIOUS)
    with atomic_file(out / STATE) as temporary:
        write_safetensors(temporary, tensors, metadata)


def load_state(out: Path, run: Remembered) -> Position:
    """Bring the run back to its newest save that can be read, and return its position; the start when there is none.

    Raises `BadInput` where there are saves but none can be read.
    """
    complaints = []
    for file in (out / STATE, out / PREVIOUS):
        if file.is_file():
            try:
                return _load(file, run)
            except BadInput as error:
                complaints.append(error)
    if complaints:
        raise BadInput(f"{complaints[0]}; remove {out} to train it from the start")
    return Position()


def remove_state(out: Path) -> None:
    """Say that the run has come to its end."""
    (out / PREVIOUS).unlink(missing_ok=True)
    (out / STATE).unlink(missing_ok=True)


def _load(file: Path, run: Remembered) -> Position:
    """Nothing of the run is changed before everything in the file is known to be right."""
    tensors, metadata = read_safetensors(file)
    if metadata.get("digest") != _digest(file.parent, tensors, metadata.get("position", "")):
        raise BadInput(f"{file} is damaged, or of another run or version of satbench: its digest is not its own")
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("model", "optimizer", "method", "average")}
    states: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        position = Position(**json.loads(metadata["position"]))
        wanted = {name: tuple(tensor.shape) for name, tensor in run.method.items()}
        if wanted != {name: tuple(tensor.shape) for name, tensor in parts["method"].items()}:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file} is no state of this run ({type(error).__name__})") from None
    load_strictly(run.model, parts["model"], file)
    run.optimizer.load_state_dict({"state": states, "param_groups": run.optimizer.state_dict()["param_groups"]})
    for name, tensor in parts["method"].items():
        run.method[name].copy_(tensor)
    if run.average is not None:
        run.average.load(parts["average"])
    return position


def _digest(out: Path, tensors: dict[str, Tensor], position: str) -> str:
    """Of all that a save holds and of the config and images that it belongs to."""
    digest = hashlib.sha256((out / CONFIG).read_bytes() + position.encode())
    for name in sorted(tensors):
        digest.update(f"{name}\n".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def save_weights(
    path: Path,
    model: Classifier,
    config: TrainConfig,
    epoch: int,
    train_digest: str,
    class_names: tuple[str, ...] | None = None,
) -> None:
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
        config=config.digest(train_digest),
        class_names=class_names,
        val=config.data.val,
    )
    with atomic_file(path) as temporary:
        save_model(temporary, model, provenance)


def write_metrics(out: Path, position: Position) -> None:
    """Write the whole log and the times again, so that they never hold an epoch twice."""
    for name, rows in ((METRICS, position.history), (TIMES, position.times)):
        write_text(out / name, "".join(json.dumps(row) + "\n" for row in rows))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The log of a training folder, a dictionary an epoch; empty when there is none."""
    return _read_rows(folder / METRICS)


def read_times(folder: Path) -> list[dict[str, Any]]:
    """The seconds of each epoch of a training folder."""
    return _read_rows(folder / TIMES)


def _read_rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not all("epoch" in row and ("val_n" in row) == ("val_robust" in row) for row in rows):
            raise ValueError
    except (ValueError, AttributeError):
        raise BadInput(f"{file} is damaged; train into a new folder") from None
    return rows


def _first_difference(there: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    for key, value in sorted(wanted.items(), key=lambda item: item[0] == "recipe"):
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if value != other and (inner := _first_difference(other, value, f"{prefix}{key}.")):
                return inner
        elif value != other:
            return f"{prefix}{key} ({other!r} there, {value!r} asked for)"
    return next((f"{prefix}{key} ({there[key]!r} there, none asked for)" for key in there if key not in wanted), "")
