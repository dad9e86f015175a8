"""The one training run: what a step is given, when the run is measured, saved and ended. It knows no method by name."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from satbench.attacks import PGD, fgsm
from satbench.data import Images, ImageSet, training_splits
from satbench.device import resolve_device
from satbench.errors import BadInput
from satbench.evaluation.harness import Search, measure
from satbench.home import alone_in
from satbench.lookup import pick
from satbench.methods import METHODS, Method
from satbench.methods.base import Processes, Step
from satbench.models.classifier import Classifier
from satbench.progress import Progress, silent
from satbench.results.metrics import clean_table
from satbench.results.store import check_output_folder
from satbench.seeding import Share, generator
from satbench.threat import ThreatModel
from satbench.training import checkpoint
from satbench.training.alarm import collapse
from satbench.training.averaging import AVERAGES, Average
from satbench.training.board import Board
from satbench.training.build import network, optimizer
from satbench.training.checkpoint import Position, Remembered
from satbench.training.combinations import refuse_undefined
from satbench.training.config import TrainConfig
from satbench.training.distributed import joined, share_gradients
from satbench.training.feed import Feed
from satbench.training.interrupt import interruptible
from satbench.training.passes import PassCount
from satbench.training.schedule import lr_factor, warmup
from satbench.training.step import Autocast, Learner, targets
from satbench.training.whole_batch import over_whole_batch
from satbench.zoo import BEST, LAST

SAVE_SECONDS = 600.0  # between two saves within an epoch


ROLLED_BACK = "catastrophic overfitting; the last weights are those of the epoch before"


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its log (a dictionary an epoch), the epochs whose weights are kept, and its times."""

    folder: Path
    history: list[dict[str, Any]]
    best_epoch: int
    last_epoch: int
    times: list[dict[str, Any]]


def train(
    config: TrainConfig,
    out: str | Path,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress = silent,
    save_seconds: float = SAVE_SECONDS,
    tensorboard: bool = False,
) -> Trained:
    """Train as `config` says and leave log, best and last weights in the folder `out`.

    The best epoch is the one of highest PGD accuracy on the validation split, then of highest clean accuracy there,
    then the earliest; for training on clean images the other way round; without a validation split it is the last. A
    killed or interrupted run continues where it was saved when called again, and on a CPU ends with the same bits as an
    uninterrupted one; a finished one is left alone. It is saved after every epoch, every `save_seconds` within one, and
    when Ctrl-C or SIGTERM asks it to stop: the running update is finished, then `KeyboardInterrupt` raised. Started by
    torchrun, the processes share every batch, and the first one writes.

    `tensorboard` also writes the log there for TensorBoard, the extra of that name. Raises `BadInput` for settings that
    cannot be met or a folder of another run, and when the loss stops being finite, naming the step.
    """
    out, wanted = Path(out), resolve_device(device)
    check_output_folder(out, checkpoint.CONFIG)
    method: Method = pick(METHODS, config.method.name, "method", **config.method.params)
    refuse_undefined(config, method)
    lr_factor(config.schedule.name, config.schedule.params, 0.0)  # refused here when it is unknown
    images, held_out = training_splits(config.dataset, config.image_size, data_dir, config.data.val)
    with (
        joined(wanted) as (processes, place),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        run = _Run(config, method, images, held_out, out, place, processes, progress, save_seconds, tensorboard)
        data = {part.split: part.fingerprint for part in (images, held_out) if part is not None}
        with alone_in(out, "train") if processes.rank == 0 else nullcontext():
            if processes.rank == 0:
                checkpoint.open_folder(out, config, data)
            processes.wait()
            if not checkpoint.finished(out, config):
                run.go_on()
            processes.wait()
    history = checkpoint.read_metrics(out)
    trained = Trained(out, history, _best(history, method), _last(history), checkpoint.read_times(out))
    checkpoint.check_weights(out, trained.best_epoch, trained.last_epoch)
    return trained


class _Run:
    """One training of one config, from its latest save to its end."""

    def __init__(
        self,
        config: TrainConfig,
        method: Method,
        images: Images,
        held_out: Images | None,
        out: Path,
        place: torch.device,
        processes: Processes,
        progress: Progress,
        save_seconds: float,
        tensorboard: bool,
    ) -> None:
        self.config, self.method, self.held_out, self.out, self.place = config, method, held_out, out, place
        self.processes, self.report, self.save_seconds = processes, progress, save_seconds
        self.threat = ThreatModel(config.threat.norm, config.threat.eps)
        self.train_digest, self.classes = images.fingerprint, images.num_classes
        self.feed = Feed(
            images,
            config.batch_size,
            config.seed,
            config.augment,
            place,
            _resident(config, images, place),
            processes.rank,
            processes.count,
            config.drop_last,
        )
        self.updates = self.feed.batches_an_epoch * method.replays  # of an epoch
        self.images_an_epoch = self.feed.images_an_epoch * method.replays
        self.total = self.updates * config.epochs
        self.net = network(config, images).to(place)
        if config.speed.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        average: Average | None = pick(
            AVERAGES, config.averaging.name, "averaging", self.net, **config.averaging.params
        )
        if average is not None and average.first_epoch >= config.epochs:
            raise BadInput(
                f"averaging starts at epoch {average.first_epoch} of a run of {config.epochs}; start before its end"
            )
        if config.label_smoothing.amount >= 1 - 1 / self.classes:
            raise BadInput(
                f"label_smoothing.amount={config.label_smoothing.amount:g} leaves the true one of {self.classes} "
                "classes no more than the others; give less"
            )
        state = method.initial_state(len(images), self.classes, self.feed.largest)
        state = {name: tensor.to(place) for name, tensor in state.items()}
        self.run = Remembered(self.net, optimizer(config, self.net), state, average)
        self.board = Board(out / "tensorboard") if tensorboard and processes.rank == 0 else None

    def go_on(self) -> None:
        """Take every update and epoch that is left."""
        position = checkpoint.load_state(self.out, self.run)
        if position.history:
            best, last = _best(position.history, self.method), _last(position.history)
            checkpoint.check_weights(self.out, best, last, going_on=True)
        learner = self._learner()
        with interruptible() as pressed, closing(self.board) if self.board is not None else nullcontext():
            while not self._at_end(position):
                self._epoch(position, learner, pressed)
                self._end_epoch(position)
                self._save(position)
                self.report(position.epoch * self.updates, self.total, _figures(position))
                if pressed() and self.processes.count == 1 and not self._at_end(position):
                    raise KeyboardInterrupt
        if self.processes.rank == 0:
            checkpoint.remove_state(self.out)

    def _epoch(self, position: Position, learner: Learner, pressed: Callable[[], bool]) -> None:
        """Take the updates that are left of an epoch; raises `KeyboardInterrupt`, saved, when told to stop."""
        passes = PassCount(position.forward, position.backward)
        figures, seen = _figures(position), 0
        started = saved = time.monotonic()
        before = position.seconds
        with nullcontext() if self.config.speed.compile else passes.watching(self.net):
            for step in self._steps(position):
                loss, stop = learner.update(step, self._lr(step), pressed())
                if not torch.isfinite(loss):
                    place = f"epoch {position.epoch}, step {position.step}"
                    raise BadInput(f"the loss is {loss.item()} at {place}; lower lr, into another --out")
                if self.run.average is not None:
                    self.run.average.after_update(self.net, step.number, self.total)
                position.loss_sum += loss.item()
                position.step += 1
                position.images += len(step.x)
                position.forward, position.backward = passes.forward, passes.backward
                now, seen = time.monotonic(), seen + len(step.batch_index)
                position.seconds = before + now - started
                self.report(step.number + 1, self.total, f"{seen / (now - started):.0f} images/s  {figures}")
                if stop or (pressed() and self.processes.count == 1):
                    self._save(position)
                    raise KeyboardInterrupt
                if now - saved > self.save_seconds:
                    self._save(position)
                    saved = now

    def _learner(self) -> Learner:
        settings = self.config
        if settings.sync_batch_norm and self.processes.count > 1:
            over_whole_batch(self.net)
        if settings.speed.compile:
            self.net.compile()  # in place: attacker, update and measurements alike
        return Learner(
            self.net,
            self.run.optimizer,
            self.method,
            settings.seed,
            share_gradients(self.net, self.place, self.processes),
            settings.attack_bn_mode,
            settings.surrogate.attacker,
            settings.surrogate.optimizer,
            settings.speed.precision,
            settings.optimizer.clip,
        )

    def _steps(self, position: Position) -> Iterator[Step]:
        """The updates that are left of the epoch, each with all that it depends on."""
        seed, smoothing = self.config.seed, self.config.label_smoothing
        first, replayed = divmod(position.step, self.method.replays)
        for x, y, index, batch_index, start in self.feed.epoch(position.epoch, first):
            wanted = targets(y, self.classes, smoothing.amount, smoothing.over)
            for _ in range(replayed, self.method.replays):
                number = position.epoch * self.updates + position.step
                epoch = (number + 0.5) / self.updates
                source = generator(seed, "attack", number, device=self.place)
                yield Step(
                    x=x,
                    y=y,
                    targets=wanted,
                    index=index,
                    batch_index=batch_index,
                    start=start,
                    number=number,
                    epoch=epoch,
                    threat=self._threat(epoch),
                    randomness=source if self.processes.count == 1 else Share(source, len(batch_index), start),
                    state=self.run.method,
                    processes=self.processes,
                    batch_statistics=self.config.attack_bn_mode == "train",
                )
            replayed = 0

    def _threat(self, epoch: float) -> ThreatModel:
        return ThreatModel(self.threat.norm, self.threat.eps * warmup(epoch, self.config.threat.warmup_epochs))

    def _lr(self, step: Step) -> float:
        settings = self.config.optimizer
        progress = (step.number + 0.5) / self.total
        factor = lr_factor(self.config.schedule.name, self.config.schedule.params, progress)
        return settings.lr * factor * warmup(step.epoch, settings.warmup_epochs)

    def _end_epoch(self, position: Position) -> None:
        """Measure on the validation split, log, and keep the weights as last and perhaps as best."""
        average = self.run.average
        if average is not None:
            average.after_epoch(self.net, position.epoch, self.feed.clean)
        kept = average.module if average is not None and average.ready else self.net
        assert isinstance(kept, Classifier)
        row = {
            "epoch": position.epoch,
            "train_loss": position.loss_sum / self.updates,
            **self._passes(position),
            "alarm": "",
            "ended": "",
        }
        position.history.append(row)
        started = time.monotonic()
        if self._is_measured(position.epoch):
            self.report((position.epoch + 1) * self.updates, self.total, f"measuring  {_figures(position)}")
            row |= self._measured(kept, f"epoch {position.epoch}, step {position.step - 1}")
            row["alarm"] = collapse(_measured_rows(position.history))
            row["ended"] = self._ended(position.history)
        position.times.append(
            {
                "epoch": position.epoch,
                "seconds": round(position.seconds, 3),
                "images_per_second": round(self.images_an_epoch / position.seconds, 1),
                "measuring_seconds": round(time.monotonic() - started, 3),
            }
        )
        position.epoch, position.step, position.loss_sum, position.seconds = position.epoch + 1, 0, 0.0, 0.0
        position.forward = position.backward = position.images = 0
        if self.processes.rank:
            return
        if _best(position.history, self.method) == row["epoch"]:
            checkpoint.save_weights(self.out / BEST, kept, self.config, position.epoch - 1, self.train_digest)
        if not self._rolled_back(position.history):
            checkpoint.save_weights(self.out / LAST, kept, self.config, position.epoch - 1, self.train_digest)
        checkpoint.write_metrics(self.out, position)
        if self.board is not None:
            self.board.add(position.history)

    def _passes(self, position: Position) -> dict[str, float]:
        """Passes an image and update, as the first process counted them; a compiled network cannot be watched."""
        if self.config.speed.compile:
            return {}
        return {"forward": position.forward / position.images, "backward": position.backward / position.images}

    def _ended(self, history: list[dict[str, Any]]) -> str:
        """Why the run ends with this epoch, in words; empty when it goes on or has come to its last."""
        stop = self.config.stop
        if self._rolled_back(history):
            return ROLLED_BACK
        if history[-1]["alarm"] and stop.collapse != "note":
            return "catastrophic overfitting"
        waited = len(history) - 1 - _best(history, self.method)
        if stop.patience is not None and waited >= stop.patience and len(history) < self.config.epochs:
            return f"no better epoch in {stop.patience}"
        return ""

    def _rolled_back(self, history: list[dict[str, Any]]) -> bool:
        """Whether the last epoch's weights are given up; the first one's are all there is."""
        return bool(history[-1]["alarm"]) and self.config.stop.collapse == "rollback" and len(history) > 1

    def _at_end(self, position: Position) -> bool:
        ended = bool(position.history) and bool(position.history[-1]["ended"])
        return ended or position.epoch == self.config.epochs

    def _is_measured(self, epoch: int) -> bool:
        last = epoch + 1 == self.config.epochs
        return self.held_out is not None and (last or (epoch + 1) % self.config.measure.every == 0)

    def _measured(self, kept: nn.Module, behind: str) -> dict[str, Any]:
        """Rates on the validation split, of which every process measures a part; `behind` is the last update.

        The precision is that of the training: with "bf16" the whole network runs in bfloat16, with "bf16-attack" only
        where the attacks search.
        """
        assert self.held_out is not None
        precision = self.config.speed.precision
        judged = Autocast(kept) if precision == "bf16" else kept
        search = Search(Autocast(kept), precision, is_copy=True) if precision == "bf16-attack" else None
        part = self.held_out.take(range(self.processes.rank, len(self.held_out), self.processes.count))
        attacks = [fgsm(), PGD(steps=self.config.selection_steps)]
        try:
            records = measure(
                judged, part, attacks, [self.threat], self.config.seed, 256, self.place, search=search
            ).records
        except BadInput as error:
            raise BadInput(f"after {behind}: {error}; lower lr where it is NaN or infinite") from None
        broken = {name: group["broken"].to_numpy() for name, group in records.groupby("attack", sort=False)}
        by_fgsm, by_pgd = (broken[repr(attack)] for attack in attacks)
        counts = [
            len(part),
            int(clean_table(records).sum()),
            int((~by_fgsm).sum()),
            int((~by_pgd).sum()),
            int((~by_fgsm & by_pgd).sum()),
        ]
        n, clean, stood_fgsm, stood_pgd, pgd_alone = self.processes.total(counts, self.place)
        return {
            "val_n": n,
            "val_clean": clean / n,
            "val_fgsm": stood_fgsm / n,
            "val_robust": stood_pgd / n,
            "val_broken_by_pgd_alone": pgd_alone,
        }

    def _save(self, position: Position) -> None:
        if self.processes.rank == 0:
            checkpoint.save_state(self.out, self.run, position)


def _resident(config: TrainConfig, images: Images, place: torch.device) -> bool:
    """Whether the images lie on the device: as asked, or where they take less than a quarter of its free memory."""
    if config.speed.resident is not None or not isinstance(images, ImageSet):
        return bool(config.speed.resident)
    return place.type == "cpu" or 4 * images.x.nbytes < torch.cuda.mem_get_info(place)[0]


def _last(history: list[dict[str, Any]]) -> int:
    return len(history) - (2 if history[-1]["ended"] == ROLLED_BACK else 1)


def _measured_rows(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in history if "val_n" in row]


def _best(history: list[dict[str, Any]], method: Method) -> int:
    """The best of the measured epochs; the last one before any was measured."""
    kept = _measured_rows(history[: _last(history) + 1])
    if not kept:
        return _last(history)
    return int(max(kept, key=lambda row: (*(row[name] for name in method.chosen_by), -row["epoch"]))["epoch"])


def _figures(position: Position) -> str:
    """What the newest measurement gave, and which share of the time measuring has taken."""
    measured = _measured_rows(position.history)
    if not measured:
        return ""
    row = measured[-1]
    alarm = f", alarm: {row['alarm']}" if row["alarm"] else ""
    share = measuring_share(position.times)
    return (
        f"epoch {row['epoch'] + 1}: val clean {row['val_clean']:.1%}, robust {row['val_robust']:.1%}{alarm}, "
        f"measured in {share:.0%} of the time"
    )


def measuring_share(times: list[dict[str, Any]]) -> float:
    """The share of a run's time in which it was measured on the validation split."""
    measuring = sum(row["measuring_seconds"] for row in times)
    return float(measuring / (measuring + sum(row["seconds"] for row in times)))
