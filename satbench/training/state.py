"""The state of a run: all that continuing it exactly needs, in one file that names the config it was made with.

state.safetensors            the latest save; it stays when the run is finished, so that more epochs can follow
state.previous.safetensors   the save before, for when the latest cannot be read; removed at the end
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from satbench.core.bounded import read_bounded
from satbench.core.errors import BadInput, reason
from satbench.core.files import atomic_file
from satbench.core.strict_json import parse_json
from satbench.models.weights import load_strictly, read_metadata, read_safetensors, write_safetensors
from satbench.results.training_log import Epoch, Times
from satbench.training.averaging import Average

CONFIG = "config.json"
STATE = "state.safetensors"
PREVIOUS = "state.previous.safetensors"


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
    history: list[Epoch] = field(default_factory=list)
    times: list[Times] = field(default_factory=list)  # as `history`, what two equal runs need not share

    def begin_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.forward = self.backward = self.images = self.correct = 0

    def to_json(self) -> str:
        return json.dumps(vars(self), default=lambda row: row.to_dict())

    @classmethod
    def from_json(cls, text: str) -> "Position":
        position = cls(**json.loads(text))
        position.history = [Epoch.model_validate(row) for row in position.history]
        position.times = [Times.model_validate(row) for row in position.times]
        return position


@dataclass
class Remembered:
    """Everything of a run that a checkpoint holds, beside its position.

    `method` is the state of the training method, `average` the average of the weights where there is one.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    method: dict[str, Tensor]
    average: Average | None


@dataclass(frozen=True)
class Saved:
    """A state that was read and has its digest; `config` is the text of the config.json that it was saved under."""

    file: Path
    tensors: dict[str, Tensor]
    position: Position
    config: str


def save_state(out: Path, run: Remembered, position: Position) -> None:
    """Write everything a resumed run needs, atomically; the save before is kept beside it."""
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    tensors |= {f"method.{name}": tensor for name, tensor in run.method.items()}
    if run.average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in run.average.state().items()}
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    metadata = {"position": position.to_json(), "config": read_bounded(out / CONFIG).decode()}
    metadata["digest"] = _digest(tensors, metadata["position"], metadata["config"])
    if (out / STATE).is_file():
        os.replace(out / STATE, out / PREVIOUS)
    with atomic_file(out / STATE) as temporary:
        write_safetensors(temporary, tensors, metadata)


def newest_state(out: Path, check: Callable[[Saved], None]) -> Saved | None:
    """The newest save that is whole and that `check` accepts; None when there is no save at all.

    `check` raises `BadInput` for the save of another run. Raises `BadInput` where there are saves but none will do.
    """
    complaints = []
    for file in (out / STATE, out / PREVIOUS):
        if file.is_file():
            try:
                saved = _read(file)
                check(saved)
                return saved
            except BadInput as error:
                complaints.append(error)
    if complaints:
        raise BadInput(f"{complaints[0]}; remove {out} to train it from the start")
    return None


def read_history(file: Path) -> list[Epoch]:
    """The log that a state holds, from its header alone; raises `BadInput` where it is damaged."""
    metadata = read_metadata(file)
    try:
        return [Epoch.model_validate(row) for row in parse_json(metadata["position"])["history"]]
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{file} is damaged ({reason(error)}); restore it, or delete it to go without") from None


def restore(saved: Saved, run: Remembered) -> Position:
    """Bring the run back to a save, and return its position; raises `BadInput` where the tensors do not fit."""
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("model", "optimizer", "method", "average")}
    states: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in saved.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        for name, tensor in parts["optimizer"].items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        if any(parts["method"][name].shape != tensor.shape for name, tensor in run.method.items()):
            raise ValueError
    except (KeyError, ValueError) as error:
        raise BadInput(f"{saved.file} is no state of this run ({type(error).__name__}); train it again") from None
    load_strictly(run.model, parts["model"], saved.file)
    run.optimizer.load_state_dict({"state": states, "param_groups": run.optimizer.state_dict()["param_groups"]})
    device = next(run.model.parameters()).device
    run.method.update({name: tensor.to(device) for name, tensor in parts["method"].items()})
    if run.average is not None:
        run.average.load(parts["average"])
    return saved.position


def _read(file: Path) -> Saved:
    tensors, metadata = read_safetensors(file)
    position = metadata.get("position", "")
    config = metadata.get("config") or read_bounded(file.parent / CONFIG).decode()  # earlier ones lack it
    if metadata.get("digest") != _digest(tensors, position, config):
        raise BadInput(f"{file} is damaged, or of another run or version of satbench: its digest is not its own")
    return Saved(file, tensors, Position.from_json(position), config)


def _digest(tensors: dict[str, Tensor], position: str, config: str) -> str:
    """Of all that a save holds and of the config and images that it belongs to."""
    digest = hashlib.sha256(config.encode() + position.encode())
    for name in sorted(tensors):
        digest.update(f"{name}\n".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
