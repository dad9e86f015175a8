"""What a run writes while it trains, by its first process alone, in an order in which a kill loses nothing."""

from pathlib import Path

from satbench.core.extra import ExtraData
from satbench.models.classifier import Classifier
from satbench.training import checkpoint
from satbench.training.config import TrainConfig
from satbench.training.ending import is_over
from satbench.training.log import Best, best_epoch, last_epoch
from satbench.training.state import PREVIOUS, Position, Remembered, save_state
from satbench.training.steps import StepLog
from satbench.training.tracking import Tracking
from satbench.zoo import BEST, LAST


class Writer:
    """The weights, state, logs and trackers of a run in the folder `out`.

    best: as in `log.best_epoch`. source: digest and class names of the training images, and what is said of extra ones.
    keep_every: of how many epochs the weights of one are kept in OUT/epochs. log_steps: of how many updates one is
    logged.
    """

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        best: Best,
        source: tuple[str, tuple[str, ...] | None, ExtraData | None],
        keep_every: int | None,
        log_steps: int | None,
        tracking: Tracking,
    ) -> None:
        self.out, self.config, self.best, self.source = out, config, best, source
        self.keep_every, self.log_steps, self.tracking = keep_every, log_steps, tracking
        self.offered = 0  # epochs that the trackers were offered

    def begin(self, position: Position, taken: int, before: TrainConfig) -> None:
        """Bring the folder to the state of a run at `position`, which has taken `taken` updates; the trackers begin.

        before: the config that the state was saved under.
        """
        if position.history:
            self._relabel((before, self.config), position)
        self.steps = StepLog(self.out, self.log_steps, taken)
        self.tracking.begin(self.config, self.out)
        self._log(position)

    def save(self, run: Remembered, position: Position) -> None:
        """Save the state, then tell the trackers of what it holds."""
        save_state(self.out, run, position)
        self._log(position)

    def save_epoch(self, kept: Classifier, run: Remembered, position: Position) -> None:
        """Save the weights `kept` of the epoch that has just ended, the state behind it, and the log.

        The log comes last: what is logged to the run's end has been saved, and given to its trackers.
        """
        epoch, history = position.epoch - 1, position.history
        ended = is_over(self.config, history)
        origin = checkpoint.provenance(self.config, epoch, ended, *self.source)
        if best_epoch(history, self.best) == epoch:
            checkpoint.save_weights(self.out / BEST, kept, origin)
        if last_epoch(history) == epoch:
            checkpoint.save_weights(self.out / LAST, kept, origin)
        if self.keep_every is not None and position.epoch % self.keep_every == 0:
            origin = checkpoint.provenance(self.config, epoch, ended, *self.source, is_kept=True)
            checkpoint.save_weights(checkpoint.epoch_file(self.out, epoch), kept, origin)
        if ended:
            self._relabel((self.config,), position)
        self.save(run, position)

    def _relabel(self, configs: tuple[TrainConfig, ...], position: Position) -> None:
        checkpoint.relabel_weights(self.out, configs, is_over(self.config, position.history), *self.source)

    def end(self, finished: bool) -> None:
        self.tracking.end(finished)

    def _log(self, position: Position) -> None:
        times = {row.epoch: row.to_dict() for row in position.times}
        rows = [row.to_dict() | times.get(row.epoch, {}) for row in position.history[self.offered :]]
        self.offered = len(position.history)
        self.tracking.offer(rows, [row.to_dict() for row in self.steps.take()])
        if is_over(self.config, position.history):
            (self.out / PREVIOUS).unlink(missing_ok=True)
        if rows:
            checkpoint.write_metrics(self.out, position)
