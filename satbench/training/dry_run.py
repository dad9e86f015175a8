"""What a training will do and cost, from its first updates. Nothing is written."""

import resource
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from satbench.core.eps import format_eps
from satbench.methods import Passes
from satbench.training.config import TrainConfig
from satbench.training.schedule import drawing, rate_of_update
from satbench.training.state import Position
from satbench.training.trainer import prepared
from satbench.training.validation import validate

UPDATES = 10  # that are timed, after one that is not
SECONDS = 60.0  # after which no further update is timed
MEASURED = 256  # validation images


@dataclass(frozen=True)
class DryRun:
    """What was found out; times in seconds, memory in bytes.

    attacked: what images are crafted on, in words. images: of the training split. updates, images_an_epoch: of an
    epoch, replays included. passes: of an image and update, the most. seconds: of single updates of the first epoch, in
    ascending order. val_images, val_seconds: of one measurement on the validation split, estimated from its first 256
    images. parameters, optimizer: memory of the weights and of the optimizer's state. peak: the largest memory so far,
    of PyTorch on the GPU, else of this process.
    """

    attacked: str
    images: int
    updates: int
    images_an_epoch: int
    passes: Passes
    seconds: list[float]
    val_images: int
    val_seconds: float
    parameters: int
    optimizer: int
    peak: int

    def epoch_seconds(self) -> tuple[float, float, float]:
        """Of the updates of an epoch if each took the median time, the shortest and the longest."""
        return (
            self.updates * median(self.seconds),
            self.updates * self.seconds[0],
            self.updates * self.seconds[-1],
        )


def dry_run(config: TrainConfig, device: str = "auto", data_dir: Path | None = None) -> DryRun:
    """Take the first updates of a training and one measurement, and time them; raises `BadInput` as `train` does."""
    with prepared(config, device, data_dir, Path()) as run:
        learner, position = run.learner(), Position()
        seconds: list[float] = []
        begun = time.monotonic()
        for step in islice(run.steps(position), UPDATES + 1):
            started = _now(run.place)
            learner.update(step, rate_of_update(config, step.number, run.updates))
            position.step += 1
            seconds.append(_now(run.place) - started)
            if run.processes.count == 1 and time.monotonic() - begun > SECONDS:
                break
        started, val_images = _now(run.place), 0
        if run.held_out is not None:
            val_images = len(run.held_out)
            shown = run.held_out.head(min(MEASURED, val_images))
            validate(run.net, shown, config, run.place, run.processes, f"update {position.step}")
        elapsed = _now(run.place) - started
        return DryRun(
            attacked=run.crafted,
            images=len(run.feed.images),
            updates=run.updates,
            images_an_epoch=run.images_an_epoch,
            passes=run.method.passes,
            seconds=sorted(seconds[1:] or seconds),  # the first one also allocates
            val_images=val_images,
            val_seconds=elapsed * max(1.0, val_images / MEASURED) if val_images else 0.0,
            parameters=sum(map(_bytes, run.net.parameters())),
            optimizer=sum(
                _bytes(value)
                for state in run.run.optimizer.state.values()
                for value in state.values()
                if isinstance(value, Tensor)
            ),
            peak=_peak(run.place),
        )


def described(config: TrainConfig, found: DryRun) -> list[str]:
    """The lines of `satbench train --dry-run`."""
    total = found.images_an_epoch * config.epochs
    forward, backward = found.passes.forward, found.passes.backward
    usual, short, long = found.epoch_seconds()
    measurements = -(-config.epochs // config.measure.every) if found.val_images else 0
    whole = [_duration(config.epochs * one + measurements * found.val_seconds) for one in (usual, short, long)]
    threat = f"{config.threat.norm} {format_eps(config.threat.eps)}"
    return [
        f"{config.recipe}: {config.label}, {config.method.name}, {threat}, {config.epochs} epochs",
        "learning rate:",
        *drawing(config),
        f"data: {found.images:,} training and {found.val_images:,} validation images; an epoch is {found.updates:,} "
        f"updates on {found.images_an_epoch:,} images",
        f"passes of an image and update, at most: {forward} forward, {backward} backward; in the whole run "
        f"{forward * total:,} and {backward * total:,}",
        f"attack: {found.attacked}",
        f"time of an epoch, estimated from {len(found.seconds)} updates: {_duration(usual)} ({_duration(short)} to "
        f"{_duration(long)} by the shortest and the longest), and {_duration(found.val_seconds)} to measure, "
        f"{measurements} times",
        f"time of the run, estimated: {whole[0]} ({whole[1]} to {whole[2]})",
        f"memory: parameters {_size(found.parameters)}, optimizer {_size(found.optimizer)}, peak {_size(found.peak)}",
        "nothing was written",
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
