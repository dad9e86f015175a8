"""What `satbench train` calls: a run from its config to its finished folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from satbench.core.files import check_output_folder
from satbench.core.home import alone_in
from satbench.core.parameters import Count, check
from satbench.core.progress import Progress, silent
from satbench.numerics.device import resolve_device
from satbench.results.training_log import Epoch, Times
from satbench.training import checkpoint
from satbench.training.build import check_start, splits
from satbench.training.combinations import refuse_undefined
from satbench.training.config import TrainConfig
from satbench.training.distributed import joined
from satbench.training.evaluators import evaluators_of
from satbench.training.extra import extra_of
from satbench.training.log import Best, best_epoch, last_epoch
from satbench.training.run import Training
from satbench.training.schedule import lr_factor
from satbench.training.stages import stage_configs
from satbench.training.state import CONFIG
from satbench.training.trackers import Tracker
from satbench.training.tracking import Tracking
from satbench.training.writing import Writer

SAVE_SECONDS = 600.0  # between two saves within an epoch


@dataclass(frozen=True)
class Trained:
    """A finished run: its folder, its log, the epochs whose weights are kept, and its times.

    best: what makes an epoch the best. was_finished: whether it was so before, and nothing was trained.
    """

    folder: Path
    history: list[Epoch]
    best_epoch: int
    last_epoch: int
    times: list[Times]
    best: Best
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
    data: object = None,
) -> Trained:
    """Train as `config` says and leave log, best and last weights in the folder `out`.

    The best epoch of the last stage is the one of the highest figures on the validation split, the first of
    `measure.best` first, then the earliest; without a validation split it is the last. By default the figures are
    accuracy under PGD, then on clean images, and the other way round where clean images are trained on.

    A killed or interrupted run continues where it was saved when called again, and on a CPU ends with the same bits as
    an uninterrupted one; a finished one is left alone. It is saved after every epoch, every `save_seconds` within one,
    and when Ctrl-C or SIGTERM asks it to stop: the running update is finished, then `KeyboardInterrupt` raised. Started
    by torchrun, the processes share every batch, and the first one writes. A run, finished or not, also continues under
    a config with other epochs if all its updates so far would have been the same, see `continuation`.

    keep_every: keep the weights of every so many epochs in OUT/epochs, as 0010.safetensors after the tenth.
    log_steps: log every so many updates in steps.jsonl. trackers: names of `TRACKERS` or objects with the callbacks of
    `Tracker`. None of the three decides weights; the same call continues them too.

    data: what to train on in place of `config.dataset`, which then only names it: arrays, tensors or a torch data set,
    see `data.as_images`. The run is bound to its pixels.

    Raises `BadInput` for settings that cannot be met, a folder of another run or a missing extra before anything is
    written, when the loss stops being finite, naming the step, and when a tracker fails, naming it.
    """
    out = Path(out)
    check_output_folder(out, CONFIG)
    for name, count in (("keep_every", keep_every), ("log_steps", log_steps)):
        if count is not None:
            check(name, count, Count)
    with prepared(config, device, data_dir, out, progress, save_seconds, data) as run:
        is_first = run.processes.rank == 0
        if is_first:
            source = run.train_digest, run.class_names, run.extra
            run.writer = Writer(out, config, run.best, source, keep_every, log_steps, Tracking(trackers))
        with alone_in(out, "train") if is_first else nullcontext():
            if is_first:
                checkpoint.open_folder(out, config, run.data, run.feed.batches_an_epoch, run.best)
            run.processes.wait()
            was_finished = checkpoint.finished(out, config)
            if not was_finished:
                run.resume()
            run.processes.wait()
    history = checkpoint.read_metrics(out)
    best, last = best_epoch(history, run.best), last_epoch(history)
    checkpoint.check_weights(out, (config,), best, last)
    return Trained(out, history, best, last, checkpoint.read_times(out), run.best, was_finished)


@contextmanager
def prepared(
    config: TrainConfig,
    device: str,
    data_dir: Path | None,
    out: Path,
    progress: Progress = silent,
    save_seconds: float = SAVE_SECONDS,
    data: object = None,
) -> Iterator[Training]:
    """The training that `config` describes, before its first update and with nothing written.

    The arguments and errors are those of `train`. torch's global generators are afterwards as they were.
    """
    wanted = resolve_device(device)
    refuse_undefined(config)
    for stage in stage_configs(config):
        lr_factor(stage.schedule.name, stage.schedule.params, 0.0)  # refused here when it is unknown
    evaluators = evaluators_of(config)
    check_start(config)
    images, held_out = splits(config, data_dir, data)
    extra = extra_of(config, images, held_out, data_dir, is_named=data is None)
    with (
        joined(wanted) as (processes, place),
        torch.random.fork_rng(devices=[place] if place.type == "cuda" else []),
    ):
        yield Training(config, evaluators, images, held_out, extra, out, place, processes, progress, save_seconds)
