"""What a training will do and cost, from its first updates. Nothing is written."""

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from satbench.core.eps import format_eps
from satbench.methods import Passes
from satbench.training.config import TrainConfig
from satbench.training.extra import Extra
from satbench.training.run import Training
from satbench.training.schedule import drawing
from satbench.training.stages import Stage, rates_of
from satbench.training.state import Position
from satbench.training.trainer import prepared

UPDATES = 10  # that are timed, after one that is not
SECONDS = 60.0  # after which no further update is timed
MEASURED = 256  # validation images


@dataclass(frozen=True)
class TimedStage:
    """What was found out of a stage: seconds of its single updates, in ascending order.

    attacked: what images are crafted on, in words.
    """

    stage: Stage
    attacked: str
    seconds: list[float]

    @property
    def passes(self) -> Passes:
        """Of an image and update, as a mean over the stage; the most where images may stop early."""
        return self.stage.method.mean_passes(self.stage.epochs)

    def seconds_of(self, update: float) -> float:
        """Of all its updates, if each takes so long."""
        return (self.stage.last - self.stage.first) * update


@dataclass(frozen=True)
class DryRun:
    """What was found out; times in seconds, memory in bytes.

    images: of the training split. extra: what is mixed into its batches. updates, images_an_epoch: of an epoch, replays
    included. val_images, val_seconds: of one measurement on the validation split, estimated from its first 256 images.
    parameters, optimizer: memory of the weights and of the optimizer's state. peak: the largest memory so far, of
    PyTorch on the GPU, else of this process.
    """

    images: int
    extra: Extra | None
    updates: int
    images_an_epoch: int
    stages: list[TimedStage]
    val_images: int
    val_seconds: float
    parameters: int
    optimizer: int
    peak: int

    def seconds(self) -> tuple[float, float, float]:
        """Of all updates if each took the median time of its stage, the shortest and the longest."""
        return (
            sum(one.seconds_of(median(one.seconds)) for one in self.stages),
            sum(one.seconds_of(one.seconds[0]) for one in self.stages),
            sum(one.seconds_of(one.seconds[-1]) for one in self.stages),
        )

    def passes(self) -> tuple[int, int]:
        """Of all images in all updates, forward and backward."""
        images = [one.stage.epochs * self.images_an_epoch for one in self.stages]
        return (
            round(sum(count * one.passes.forward for count, one in zip(images, self.stages, strict=True))),
            round(sum(count * one.passes.backward for count, one in zip(images, self.stages, strict=True))),
        )


def dry_run(
    config: TrainConfig, device: str = "auto", data_dir: Path | None = None, clock: Callable[[], float] | None = None
) -> DryRun:
    """Take the first updates of a training and one measurement, and time them; raises `BadInput` as `train` does.

    clock: tells the seconds, by default those that pass.
    """
    with prepared(config, device, data_dir, Path()) as run:
        clock = clock or partial(_now, run.place)
        stages = [_timed(run, index, clock) for index in range(len(run.stages))]
        started, val_images = clock(), 0
        if run.held_out is not None:
            val_images = len(run.held_out)
            shown = run.held_out.head(min(MEASURED, val_images))
            run.measured(run.net, shown, "the first updates")
        elapsed = clock() - started
        return DryRun(
            images=len(run.feed.images),
            extra=run.feed.extra,
            updates=run.updates,
            images_an_epoch=run.images_an_epoch,
            stages=stages,
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
    usual, short, long = found.seconds()
    measurements = -(-config.epochs // config.measure.every) if found.val_images else 0
    whole = [_duration(one + measurements * found.val_seconds) for one in (usual, short, long)]
    epoch = [_duration(one / config.epochs) for one in (usual, short, long)]
    threat = f"{config.threat.norm} {format_eps(config.threat.eps)}"
    forward, backward = found.passes()
    lines = [
        f"{config.recipe}: {config.label}, {config.method.name}, {threat}, {config.epochs} epochs",
        "learning rate:",
        *drawing(rates_of([one.stage for one in found.stages]), config.epochs),
        f"data: {found.images:,} training and {found.val_images:,} validation images; an epoch is {found.updates:,} "
        f"updates on {found.images_an_epoch:,} images",
    ]
    if found.extra is not None:
        lines.append(f"extra data: {found.extra.data} of {len(found.extra.images):,} images, in every batch")
    for number, one in enumerate(found.stages, 1):
        where = (
            f"stage {number}, {one.stage.config.method.name}, {one.stage.epochs:g} epochs: " if config.stages else ""
        )
        passes = one.passes
        lines += [
            f"{where}passes of an image and update, at most: {passes.forward:g} forward, {passes.backward:g} backward",
            f"{where}attack: {one.attacked}",
        ]
    return [
        *lines,
        f"passes of the whole run, at most: {forward:,} forward, {backward:,} backward",
        f"time of an epoch, estimated from {sum(len(one.seconds) for one in found.stages)} updates: {epoch[0]} "
        f"({epoch[1]} to {epoch[2]} by the shortest and the longest), and {_duration(found.val_seconds)} to measure, "
        f"{measurements} times",
        f"time of the run, estimated: {whole[0]} ({whole[1]} to {whole[2]})",
        f"memory: parameters {_size(found.parameters)}, optimizer {_size(found.optimizer)}, peak {_size(found.peak)}",
        "nothing was written",
    ]


def _timed(run: Training, index: int, clock: Callable[[], float]) -> TimedStage:
    """Take the first updates of a stage, with the network as it is."""
    if index:
        run.enter(index)
    stage = run.stages[index]
    run.begin("the start")
    position = Position(*divmod(stage.first, stage.updates))
    seconds: list[float] = []
    begun = time.monotonic()
    for step in islice(run.steps(position), min(UPDATES + 1, stage.last - stage.first)):
        started = clock()
        run.learner.update(step, stage.learning_rate(step.number))
        position.step += 1
        seconds.append(clock() - started)
        if run.processes.count == 1 and time.monotonic() - begun > SECONDS:
            break
    return TimedStage(stage, run.crafted[index][1], sorted(seconds[1:] or seconds))  # the first one also allocates


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
