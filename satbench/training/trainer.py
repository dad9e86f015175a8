"""The one training run: what a step is given, and when the run is measured and saved. It knows no method by name."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from satbench.core.errors import BadInput
from satbench.core.files import check_output_folder
from satbench.core.home import alone_in
from satbench.core.lookup import pick
from satbench.core.parameters import Count, check
from satbench.core.progress import Progress, silent
from satbench.data import Images, training_splits
from satbench.methods import METHODS, Method
from satbench.methods.base import Processes, Step
from satbench.models.activation_checkpointing import blocks_of
from satbench.models.classifier import Classifier
from satbench.numerics.device import resolve_device
from satbench.numerics.seeding import Share, generator
from satbench.numerics.threat import ThreatModel
from satbench.results.training_log import Epoch, Times
from satbench.training import checkpoint
from satbench.training.alarm import collapse
from satbench.training.attacked import attacked
from satbench.training.averaging import AVERAGES, Average
from satbench.training.build import network, optimizer
from satbench.training.combinations import refuse_small_parts, refuse_undefined
from satbench.training.config import TrainConfig
from satbench.training.distributed import joined, share_gradients
from satbench.training.ending import ending, is_measured, is_over
from satbench.training.feed import Feed, is_resident
from satbench.training.interrupt import interruptible
from satbench.training.log import best_epoch, last_epoch, newest, timed, trained
from satbench.training.passes import PassCount
from satbench.training.schedule import lr_factor, rate_of_update, warmup
from satbench.training.state import CONFIG, Position, Remembered, newest_state, restore
from satbench.training.step import Learner, targets
from satbench.training.trackers import Tracker
from satbench.training.tracking import Tracking
from satbench.training.validation import validate
from satbench.training.whole_batch import over_whole_batch
from satbench.training.writing import Writer

SAVE_SECONDS = 600.0  # between two saves within an epoch


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its log, the epochs whose weights are kept, and its times.

    was_finished: whether it was so before, and nothing was trained.
    """

    folder: Path
    history: list[Epoch]
    best_epoch: int
    last_epoch: int
    times: list[Times]
    was_finished: bool = False


def train(
    config: TrainConfig,
    out: str | Path,
    device: str = "auto",
    data_dir: Path | None = None,
    progress: Progress = silent,
    save_seconds: float = SAVE_SECONDS,
    keep_every: int | None = None,
    log_steps: int | None = None,
    trackers: Sequence[str | Tracker] = (),
) -> Trained:
    """Train as `config` says and leave log, best and last weights in the folder `out`.

    The best epoch is the one of highest PGD accuracy on the validation split, then of highest clean accuracy there,
    then the earliest; for training on clean images the other way round; without a validation split it is the last. A
    killed or interrupted run continues where it was saved when called again, and on a CPU ends with the same bits as an
    uninterrupted one; a finished one is left alone. It is saved after every epoch, every `save_seconds` within one, and
    when Ctrl-C or SIGTERM asks it to stop: the running update is finished, then `KeyboardInterrupt` raised. Started by
    torchrun, the processes share every batch, and the first one writes. A run, finished or not, also continues under a
    config with other epochs if all its updates so far would have been the same, see `continuation`.

    keep_every: keep the weights of every so many epochs in OUT/epochs, as 0010.safetensors after the tenth.
    log_steps: log every so many updates in steps.jsonl. trackers: names of `TRACKERS` or objects with the callbacks of
    `Tracker`. None of the three decides weights; the same call continues them too.

    Raises `BadInput` for settings that cannot be met, a folder of another run or a missing extra before anything is
    written, when the loss stops being finite, naming the step, and when a tracker fails, naming it.
    """
    out = Path(out)
    check_output_folder(out, CONFIG)
    for name, count in (("keep_every", keep_every), ("log_steps", log_steps)):
        if count is not None:
            check(name, count, Count)
    with prepared(config, device, data_dir, out, progress, save_seconds) as run:
        is_first = run.processes.rank == 0
        if is_first:
            source = run.train_digest, run.class_names
            run.writer = Writer(out, config, run.method, source, keep_every, log_steps, Tracking(trackers))
        with alone_in(out, "train") if is_first else nullcontext():
            if is_first:
                checkpoint.open_folder(out, config, run.data, run.updates, run.method)
            run.processes.wait()
            was_finished = checkpoint.finished(out, config)
            if not was_finished:
                run.resume()
            run.processes.wait()
    history = checkpoint.read_metrics(out)
    best, last = best_epoch(history, run.method), last_epoch(history)
    checkpoint.check_weights(out, (config,), best, last)
    return Trained(out, history, best, last, checkpoint.read_times(out), was_finished)


@contextmanager
def prepared(
    config: TrainConfig,
    device: str,
    data_dir: Path | None,
    out: Path,
    progress: Progress = silent,
    save_seconds: float = SAVE_SECONDS,
) -> Iterator["Training"]:
    """The training that `config` describes, before its first update and with nothing written.

    The arguments and errors are those of `train`. torch's global generators are afterwards as they were.
    """
    wanted = resolve_device(device)
    method: Method = pick(METHODS, config.method.name, "method", **config.method.params)
    refuse_undefined(config, method)
    lr_factor(config.schedule.name, config.schedule.params, 0.0)  # refused here when it is unknown
    images, held_out = training_splits(
        config.dataset, config.image_size, data_dir, config.data.val, config.data.train_n
    )
    with (
        joined(wanted) as (processes, place),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        yield Training(config, method, images, held_out, out, place, processes, progress, save_seconds)


class Training:
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
    ) -> None:
        self.config, self.method, self.held_out, self.out, self.place = config, method, held_out, out, place
        self.processes, self.report, self.save_seconds = processes, progress, save_seconds
        self.data = {part.split: part.fingerprint for part in (images, held_out) if part is not None}
        self.train_digest, self.classes = images.fingerprint, images.num_classes
        self.class_names = images.class_names
        self.feed = Feed(
            images,
            config.batch_size,
            config.seed,
            config.augment,
            place,
            is_resident(images, place, config.speed.resident),
            processes.rank,
            processes.count,
            config.drop_last,
        )
        refuse_small_parts(config, len(images), processes.count)
        self.updates = self.feed.batches_an_epoch * method.replays  # of an epoch
        self.images_an_epoch = self.feed.images_an_epoch * method.replays
        self.total = self.updates * config.epochs
        self.net = network(config, images).to(place)
        if config.speed.activation_checkpointing:
            blocks_of(self.net)  # refused here where there are none
        if config.speed.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.search, self.crafted = attacked(config, method, self.net, images.shape, place)
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
        self.writer: Writer | None = None  # of the first process

    def resume(self) -> None:
        """Take every update and epoch that is left."""
        saved = newest_state(
            self.out, lambda one: checkpoint.check_state(one, self.config, self.data, self.updates, self.method)
        )
        position = Position() if saved is None else restore(saved, self.run)
        before = self.config if saved is None else checkpoint.config_of(saved)
        if position.history:
            best, last = best_epoch(position.history, self.method), last_epoch(position.history)
            checkpoint.check_weights(self.out, (before, self.config), best, last, resuming=True)
        with self._writing(position, before), interruptible() as pressed:
            learner = self.learner()
            while not is_over(self.config, position.history):
                self._epoch(position, learner, pressed)
                self._end_epoch(position)
                self.report(position.epoch * self.updates, self.total, newest(position.history, position.times))
                if pressed() and self.processes.count == 1 and not is_over(self.config, position.history):
                    raise KeyboardInterrupt

    @contextmanager
    def _writing(self, position: Position, before: TrainConfig) -> Iterator[None]:
        """The writer begins at `position`, and ends with the block, however that is left."""
        if self.writer is None:
            yield
            return
        try:
            self.writer.begin(position, position.epoch * self.updates + position.step, before)
            yield
        finally:
            self.writer.end(is_over(self.config, position.history))

    def _epoch(self, position: Position, learner: Learner, pressed: Callable[[], bool]) -> None:
        """Take the updates that are left of an epoch; raises `KeyboardInterrupt`, saved, when told to stop."""
        passes = PassCount(position.forward, position.backward)
        figures, seen = newest(position.history, position.times), 0
        started = saved = time.monotonic()
        before = position.seconds
        networks = [self.net] if self.search is None else [self.net, self.search.module]
        with nullcontext() if self.config.speed.compile else passes.watching(*networks):
            for step in self.steps(position):
                lr = rate_of_update(self.config, step.number, self.updates)
                loss, accuracy, stop = learner.update(step, lr, pressed())
                if not torch.isfinite(loss):
                    place = f"epoch {position.epoch}, step {position.step}"
                    raise BadInput(f"the loss is {loss.item()} at {place}; lower lr, into another --out")
                if self.run.average is not None:
                    self.run.average.after_update(self.net, step.number, self.total)
                position.loss_sum += loss.item()
                if accuracy is None or position.correct is None:
                    position.correct = None
                else:
                    position.correct += round(accuracy.item() * len(step.batch_index))
                if self.writer is not None:
                    self.writer.steps.add(step.number, position.epoch, lr, loss, accuracy)
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

    def learner(self) -> Learner:
        settings = self.config
        if settings.sync_batch_norm and self.processes.count > 1:
            over_whole_batch(self.net)
        if settings.speed.compile:
            self.net.compile()  # in place: for attack, update and measurements
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
            watched=not settings.speed.compile,
            activation_checkpointing=settings.speed.activation_checkpointing,
            search=self.search,
        )

    def steps(self, position: Position) -> Iterator[Step]:
        """The updates that are left of the epoch, each with all that it depends on."""
        seed, smoothing, wanted = self.config.seed, self.config.label_smoothing, self.config.threat
        first, replayed = divmod(position.step, self.method.replays)
        for x, y, index, batch_index, start in self.feed.epoch(position.epoch, first):
            labels = targets(y, self.classes, smoothing.amount, smoothing.over)
            for _ in range(replayed, self.method.replays):
                number = position.epoch * self.updates + position.step
                epoch = (number + 0.5) / self.updates
                source = generator(seed, "attack", number, device=self.place)
                yield Step(
                    x=x,
                    y=y,
                    targets=labels,
                    index=index,
                    batch_index=batch_index,
                    start=start,
                    number=number,
                    epoch=epoch,
                    threat=ThreatModel(wanted.norm, wanted.eps * warmup(epoch, wanted.warmup_epochs)),
                    randomness=source if self.processes.count == 1 else Share(source, len(batch_index), start),
                    state=self.run.method,
                    processes=self.processes,
                    batch_statistics=self.config.attack_bn_mode == "train",
                    accumulation=self.config.accumulation,
                )
            replayed = 0

    def _end_epoch(self, position: Position) -> None:
        """Measure on the validation split, log, and save."""
        average = self.run.average
        if average is not None:
            average.after_epoch(self.net, position.epoch, self.feed.clean)
        kept = average.module if average is not None and average.ready else self.net
        assert isinstance(kept, Classifier)
        lr = rate_of_update(self.config, (position.epoch + 1) * self.updates - 1, self.updates)
        row = trained(position, lr, self.images_an_epoch, counted=not self.config.speed.compile)
        started = time.monotonic()
        if self.held_out is not None and is_measured(self.config, position.epoch):
            done = (position.epoch + 1) * self.updates
            self.report(done, self.total, f"measuring  {newest(position.history, position.times)}")
            update = f"epoch {position.epoch}, step {position.step - 1}"
            val = validate(kept, self.held_out, self.config, self.place, self.processes, update)
            row = row.model_copy(update={"val": val})
            row = row.model_copy(update={"alarm": collapse([*position.history, row])})
            row = row.model_copy(update={"ended": ending(self.config, self.method, [*position.history, row])})
        position.history.append(row)
        position.times.append(timed(position, self.images_an_epoch, time.monotonic() - started))
        position.begin_epoch()
        if self.writer is not None:
            self.writer.save_epoch(kept, self.run, position)

    def _save(self, position: Position) -> None:
        if self.writer is not None:
            self.writer.save(self.run, position)
