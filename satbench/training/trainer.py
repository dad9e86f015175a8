"""The one training loop. It knows no method by name."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from satbench.attacks import PGD, fgsm
from satbench.data import ImageSet, load_images
from satbench.device import resolve_device
from satbench.errors import BadInput
from satbench.evaluation.harness import measure
from satbench.lookup import pick
from satbench.methods import METHODS, Method
from satbench.models import ModelSpec, build_model
from satbench.models.classifier import Classifier
from satbench.progress import Progress, silent
from satbench.results.metrics import clean_table
from satbench.seeding import derive, generator
from satbench.threat import ThreatModel
from satbench.training import checkpoint
from satbench.training.checkpoint import Position
from satbench.training.config import TrainConfig
from satbench.training.schedule import SCHEDULES
from satbench.zoo import BEST, LAST


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its log (a dictionary an epoch) and the epoch that was picked."""

    folder: Path
    history: list[dict[str, Any]]
    best_epoch: int


def train(
    config: TrainConfig,
    out: str | Path,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress = silent,
) -> Trained:
    """Train as `config` says and leave log, best and last weights in the folder `out`.

    The best epoch is the one of highest PGD accuracy on the validation split, then of highest clean accuracy there,
    then the earliest. A killed or interrupted run continues where it stopped when called again, and on a CPU ends with
    the same bits as an uninterrupted one; a finished one is left alone. Ctrl-C is answered after the running step: the
    state is saved and `KeyboardInterrupt` raised. Raises `BadInput` for settings that cannot be met or a folder of
    another run, and when the loss stops being finite, naming the step.
    """
    out = Path(out)
    place = resolve_device(device)
    method: Method = pick(METHODS, config.method.name, "method", **config.method.params)
    threat = ThreatModel(config.threat.norm, config.threat.eps)
    images = load_images(config.dataset, "train", config.image_size, data_dir).in_memory()
    held_out = load_images(config.dataset, "val", config.image_size, data_dir).in_memory()
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        model = _model(config, images).to(place)
        optimizer = _optimizer(config, model)
        checkpoint.open_folder(out, config, {part.split: part.digest for part in (images, held_out)})
        if not checkpoint.finished(out, config):
            position = checkpoint.load_state(out, model, optimizer)
            model.to(place)
            _run(config, method, threat, images, held_out, model, optimizer, position, out, place, progress)
    history = checkpoint.read_metrics(out)
    return Trained(out, history, _best(history))


def _run(
    config: TrainConfig,
    method: Method,
    threat: ThreatModel,
    images: ImageSet,
    held_out: ImageSet,
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    position: Position,
    out: Path,
    place: torch.device,
    progress: Progress,
) -> None:
    x_all, y_all = images.x.to(place), images.y.to(place)
    steps = _steps(len(images), config.batch_size)
    total = steps * config.epochs
    figures = _figures(position.history)
    with _interruptible() as interrupted:
        while position.epoch < config.epochs:
            order = torch.randperm(len(images), generator=generator(config.seed, "order", position.epoch)).to(place)
            while position.step < steps:
                done = position.epoch * steps + position.step
                end = None if position.step == steps - 1 else (position.step + 1) * config.batch_size
                rows = order[position.step * config.batch_size : end]
                lr = config.optimizer.lr * SCHEDULES[config.schedule]((done + 0.5) / total)
                loss = step(model, optimizer, method, threat, x_all[rows], y_all[rows], lr, config.seed, done)
                if not torch.isfinite(loss):
                    raise BadInput(
                        f"the loss is {loss.item()} at epoch {position.epoch}, step {position.step}; lower lr"
                    )
                position.loss_sum += loss.item()
                position.step += 1
                progress(done + 1, total, figures)
                if interrupted():
                    checkpoint.save_state(out, model, optimizer, position)
                    raise KeyboardInterrupt
            _end_epoch(config, threat, images.digest, held_out, model, position, steps, out, place)
            checkpoint.save_state(out, model, optimizer, position)
            figures = _figures(position.history)
            progress(position.epoch * steps, total, figures)
            if interrupted() and position.epoch < config.epochs:
                raise KeyboardInterrupt
    (out / checkpoint.STATE).unlink()


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    lr: float,
    seed: int,
    number: int,
) -> Tensor:
    """One update: craft in eval mode with frozen parameters, then descend the method's loss in training mode.

    All randomness comes from (seed, number), so a resumed run needs no generator state. Returns the loss, detached.
    """
    x_adv = method.perturb(model, x, y, threat, generator(seed, "attack", number))
    torch.default_generator.manual_seed(derive(seed, "update", number))
    if x.is_cuda:
        torch.cuda.manual_seed(derive(seed, "update", number))
    for group in optimizer.param_groups:
        group["lr"] = lr
    model.train()
    loss = method.loss(model, x, x_adv, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _model(config: TrainConfig, images: ImageSet) -> Classifier:
    mean, std = images.channel_statistics()
    torch.manual_seed(derive(config.seed, "init"))
    return build_model(
        ModelSpec(
            architecture=config.model.name,
            activation=config.activation,
            num_classes=images.num_classes,
            channels=images.x.shape[1],
            image_size=images.x.shape[2],
            mean=mean,
            std=std,
            params=config.model.params,
        )
    )


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Decay on matrices and filters only, that is on parameters of two or more dimensions."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim <= 1]
    settings = config.optimizer
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def _end_epoch(
    config: TrainConfig,
    threat: ThreatModel,
    train_digest: str,
    held_out: ImageSet,
    model: Classifier,
    position: Position,
    steps: int,
    out: Path,
    place: torch.device,
) -> None:
    """Measure on the validation split, log, and keep the weights as last and perhaps as best."""
    attacks = [fgsm(), PGD(steps=config.selection_steps)]
    records = measure(model, held_out, attacks, [threat], config.seed, 256, place).records
    robust = 1 - records.groupby("attack", sort=False)["broken"].mean()
    row = {
        "epoch": position.epoch,
        "train_loss": position.loss_sum / steps,
        "val_n": len(held_out),
        "val_clean": float(clean_table(records).mean()),
        "val_fgsm": float(robust[repr(attacks[0])]),
        "val_robust": float(robust[repr(attacks[1])]),
    }
    position.history.append(row)
    position.epoch, position.step, position.loss_sum = position.epoch + 1, 0, 0.0
    if _best(position.history) == row["epoch"]:
        checkpoint.save_weights(out / BEST, model, config, position.epoch - 1, train_digest)
    checkpoint.save_weights(out / LAST, model, config, position.epoch - 1, train_digest)
    checkpoint.write_metrics(out, position.history)


def _steps(n: int, batch_size: int) -> int:
    """Batches an epoch; a single image left over joins the batch before, because batch norm cannot learn from one."""
    return max(1, n // batch_size + (n % batch_size > 1))


def _best(history: list[dict[str, Any]]) -> int:
    return int(max(history, key=lambda row: (row["val_robust"], row["val_clean"], -row["epoch"]))["epoch"])


def _figures(history: list[dict[str, Any]]) -> str:
    if not history:
        return ""
    row = history[-1]
    return f"epoch {row['epoch'] + 1}: val clean {row['val_clean']:.1%}, robust {row['val_robust']:.1%}"


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed; the first is only noted, a second is answered at once.

    Only the main thread can listen, and a process that ignores Ctrl-C goes on ignoring it.
    """
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield pressed.is_set
        return

    def note(number: int, frame: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
