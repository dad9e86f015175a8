"""One run of the trainer: what a step is given, and when it is measured and saved. It knows no method by name."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from satbench.core.errors import BadInput
from satbench.core.lookup import pick
from satbench.core.parameters import Number
from satbench.core.parsing import parsed
from satbench.core.progress import Progress
from satbench.data import Images
from satbench.methods.base import NO_LABEL, Processes, Step
from satbench.models.activation_checkpointing import blocks_of
from satbench.models.classifier import Classifier
from satbench.numerics.seeding import Share, generator
from satbench.numerics.threat import ThreatModel
from satbench.results.training_log import Validated
from satbench.training import checkpoint
from satbench.training.alarm import collapse
from satbench.training.attacked import attacked
from satbench.training.averaging import AVERAGES, Average
from satbench.training.build import begin_with, network, optimizer
from satbench.training.combinations import refuse_late_starts, refuse_small_parts
from satbench.training.config import TrainConfig
from satbench.training.distributed import share_gradients
from satbench.training.ending import ending, is_measured, is_over
from satbench.training.evaluators import Evaluator, alarmed_by, best_by, figures_of
from satbench.training.extra import Extra
from satbench.training.feed import Feed, is_resident
from satbench.training.interrupt import interruptible
from satbench.training.log import Best, best_epoch, last_epoch, newest, timed, trained
from satbench.training.passes import PassCount
from satbench.training.schedule import warmup
from satbench.training.stages import method_of, stage_configs, stage_of, stages_of
from satbench.training.state import Position, Remembered, newest_state, restore
from satbench.training.step import Learner, targets
from satbench.training.validation import validate
from satbench.training.whole_batch import over_whole_batch
from satbench.training.writing import Writer


class Training:
    """One training of one config, from its latest save to its end."""

    run: Remembered
    learner: Learner  # of the present stage

    def __init__(
        self,
        config: TrainConfig,
        evaluators: Sequence[Evaluator],
        images: Images,
        held_out: Images | None,
        extra: Extra | None,
        out: Path,
        place: torch.device,
        processes: Processes,
        progress: Progress,
        save_seconds: float,
    ) -> None:
        self.config, self.images, self.held_out, self.out, self.place = config, images, held_out, out, place
        self.processes, self.report, self.save_seconds = processes, progress, save_seconds
        self.data = {part.split: part.fingerprint for part in (images, held_out) if part is not None}
        self.extra = None if extra is None else extra.data
        if self.extra is not None:
            self.data["extra"] = str(self.extra.digest)
        self.train_digest, self.classes = images.fingerprint, images.num_classes
        self.class_names = images.class_names
        self.feed = Feed(
            images,
            config.batch_size,
            config.seed,
            config.augment,
            place,
            is_resident([images, *([] if extra is None else [extra.images])], place, config.speed.resident),
            processes.rank,
            processes.count,
            config.drop_last,
            extra,
            max(method_of(one).views for one in stage_configs(config)),
        )
        refuse_small_parts(config, len(images), processes.count)
        self.stages = stages_of(config, self.feed.batches_an_epoch)
        for one in self.stages:
            refuse_late_starts(one)
        self.updates = self.stages[0].updates  # of an epoch
        self.replays = self.stages[0].method.replays
        self.images_an_epoch = self.feed.images_an_epoch * self.replays
        self.total = self.updates * config.epochs
        self.evaluators, figures = evaluators, figures_of(evaluators)
        for evaluator in evaluators:
            evaluator.refuse(images)
        first = self.stages[-1].first // self.updates
        self.best = Best(best_by(config, self.stages[-1].method.chosen_by, figures), first)
        self.alarmed_by = alarmed_by(config, figures)
        for name in (name for one in self.stages for name in one.method.reads):
            if held_out is None or name not in figures:
                raise BadInput(
                    f"{self.stages[-1].config.method.name} needs the figure {name!r} of a validation split; give "
                    "data.val and the evaluator in measure.evaluators"
                )
        self.net = network(config, images).to(place)
        if config.speed.activation_checkpointing:
            blocks_of(self.net)  # refused here where there are none
        if config.speed.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.crafted = [attacked(one.config, one.method, self.net, images.shape, place) for one in self.stages]
        if config.init_from is not None:
            self.data["init_from"] = begin_with(self.net, config.init_from)
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
        self.average = average
        self.writer: Writer | None = None  # of the first process
        if config.sync_batch_norm and processes.count > 1:
            over_whole_batch(self.net)
        if config.speed.compile:
            self.net.compile()  # in place: for attack, update and measurements
        self.wrapped = share_gradients(self.net, place, processes)
        self.enter(0)

    def enter(self, index: int) -> None:
        """Take the settings of a stage, with a new optimizer unless it keeps the one before, and a new state."""
        self.stage = stage = self.stages[index]
        settings = stage.config
        taken = optimizer(settings, self.net)
        if stage.keep_optimizer and index:
            groups = taken.state_dict()["param_groups"]
            taken.load_state_dict({"state": self.learner.optimizer.state_dict()["state"], "param_groups": groups})
        state = stage.method.initial_state(self.feed.rows, self.classes, self.feed.largest)
        state = {name: tensor.to(self.place) for name, tensor in state.items()}
        self.run = Remembered(self.net, taken, state, self.average)
        self.learner = Learner(
            self.net,
            taken,
            stage.method,
            settings.seed,
            self.wrapped,
            settings.attack_bn_mode,
            settings.surrogate.attacker,
            settings.surrogate.optimizer,
            settings.speed.precision,
            settings.optimizer.clip,
            watched=stage.method.labelled and not settings.speed.compile,
            activation_checkpointing=settings.speed.activation_checkpointing,
            search=self.crafted[index][0],
        )

    def begin(self, after: str, figures: Mapping[str, float] | None = None) -> None:
        """Let the method of the stage fill its state, before the first update of it; `figures` where they are known."""

        def measured() -> Mapping[str, float]:
            if figures is not None or self.held_out is None:
                return figures or {}
            return self.measured(self.net, self.held_out, after).figures

        self.stage.method.begin(self.net, self.run.method, measured)

    def measured(self, net: Classifier, images: Images, after: str) -> Validated:
        """The figures of all evaluators on these images, for the network as update `after` left it."""
        return validate(
            net,
            images,
            self.images,
            self.config,
            self.evaluators,
            self.alarmed_by,
            self.place,
            self.processes,
            after,
        )

    def resume(self) -> None:
        """Take every update and epoch that is left."""
        saved = newest_state(
            self.out,
            lambda one: checkpoint.check_state(one, self.config, self.data, self.feed.batches_an_epoch, self.best),
        )
        if saved is None:
            position = Position()
            self.begin("the start")
        else:
            step = min(saved.position.step, self.updates - 1)  # the stage ends with its epoch, not with the last update
            self.enter(stage_of(self.stages, saved.position.epoch * self.updates + step))
            position = restore(saved, self.run)
        before = self.config if saved is None else checkpoint.config_of(saved)
        if position.history:
            best, last = best_epoch(position.history, self.best), last_epoch(position.history)
            checkpoint.check_weights(self.out, (before, self.config), best, last, resuming=True)
        with self._writing(position, before), interruptible() as pressed:
            while not is_over(self.config, position.history):
                self._epoch(position, pressed)
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

    def _epoch(self, position: Position, pressed: Callable[[], bool]) -> None:
        """Take the updates that are left of an epoch; raises `KeyboardInterrupt`, saved, when told to stop."""
        passes = PassCount(position.forward, position.backward)
        figures, seen = newest(position.history, position.times), 0
        started = saved = time.monotonic()
        before = position.seconds
        networks = [self.net, *(copy.module for copy, _ in self.crafted if copy is not None)]
        with nullcontext() if self.config.speed.compile else passes.watching(*networks):
            for step in self.steps(position):
                lr = self.stage.learning_rate(step.number)
                loss, accuracy, stop = self.learner.update(step, lr, pressed())
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
                if position.step < self.updates:
                    counted = passes.forward, passes.backward
                    self._next_stage(position)
                    passes.forward, passes.backward = counted  # what a stage measures before it begins is no training
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

    def steps(self, position: Position) -> Iterator[Step]:
        """The updates that are left of the epoch, each with all that it depends on."""
        seed, smoothing = self.config.seed, self.config.label_smoothing
        first, replayed = divmod(position.step, self.replays)
        for x, y, index, batch_index, start, views in self.feed.epoch(position.epoch, first):
            if not self.stage.method.labelled:
                y = torch.full_like(y, NO_LABEL)
            labels = targets(y, self.classes, smoothing.amount, smoothing.over)
            for _ in range(replayed, self.replays):
                number = position.epoch * self.updates + position.step
                epoch, wanted = self.stage.epoch(number), self.stage.config.threat
                source = generator(seed, "attack", number, device=self.place)
                yield Step(
                    x=x,
                    views=views,
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
                    network=self.net,
                )
            replayed = 0

    def _end_epoch(self, position: Position) -> None:
        """Measure on the validation split, log, and save."""
        average = self.run.average
        if average is not None:
            average.after_epoch(self.net, position.epoch, self.feed.clean)
        kept = average.module if average is not None and average.ready else self.net
        assert isinstance(kept, Classifier)
        lr = self.stage.learning_rate((position.epoch + 1) * self.updates - 1)
        row = trained(position, lr, self.images_an_epoch, counted=not self.config.speed.compile)
        said = self.stage.method.logged(self.run.method)  # under which the epoch was trained
        where = f"logged by {self.stage.config.method.name} after epoch {position.epoch + 1}"
        row = row.model_copy(update={"method": parsed(dict[str, Number], said, where)})
        started = time.monotonic()
        if self.held_out is not None and is_measured(self.config, position.epoch):
            done = (position.epoch + 1) * self.updates
            self.report(done, self.total, f"measuring  {newest(position.history, position.times)}")
            update = f"epoch {position.epoch}, step {position.step - 1}"
            val = self.measured(kept, self.held_out, update)
            row = row.model_copy(update={"val": val})
            if self.alarmed_by is not None:
                row = row.model_copy(update={"alarm": collapse([*position.history, row], *self.alarmed_by)})
            row = row.model_copy(update={"ended": ending(self.config, self.best, [*position.history, row])})
            self.stage.method.after_epoch(self.run.method, val.figures)
        position.history.append(row)
        position.times.append(timed(position, self.images_an_epoch, time.monotonic() - started))
        position.begin_epoch()
        self._next_stage(position, None if kept is not self.net or row.val is None else row.val.figures)
        if self.writer is not None:
            self.writer.save_epoch(kept, self.run, position)

    def _next_stage(self, position: Position, figures: Mapping[str, float] | None = None) -> None:
        """Enter the stage of the next update where that is another one; `figures` are those of the network now."""
        number = position.epoch * self.updates + position.step
        index = stage_of(self.stages, number)
        if self.stages[index] is not self.stage:
            self.enter(index)
            self.begin(f"update {number - 1}", figures)

    def _save(self, position: Position) -> None:
        if self.writer is not None:
            self.writer.save(self.run, position)
