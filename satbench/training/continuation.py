"""Whether a run may go on under another config: only if every update and epoch so far would have been the same."""

from typing import Any

from torch import nn

from satbench.core.lookup import pick
from satbench.results.training_log import Ending
from satbench.training.averaging import AVERAGES, Average
from satbench.training.config import TrainConfig
from satbench.training.ending import ending, in_words, is_measured
from satbench.training.log import Best
from satbench.training.stages import stage_of, stages_of
from satbench.training.state import Position

ADVICE = "give a schedule with the same past (milestones are shares of the run), or another --out"


def fixed(config: TrainConfig) -> dict[str, Any]:
    """The settings that a run keeps: all but epochs, schedule, parameters of the average, and the name's `[...]`."""
    settings = config.model_dump(exclude={"epochs": True, "schedule": True, "averaging": {"params"}})
    return settings | {"recipe": config.recipe.partition(" [")[0]}


def obstacle(there: TrainConfig, config: TrainConfig, position: Position, batches: int, best: Best) -> str:
    """Why a run under `there` at `position` cannot go on under `config`, and what to do; "" when it can.

    It can if both would have taken the same updates: equal learning rates and steps of the average, computed for every
    one of them, and the same epochs measured. `batches`: of an epoch.
    """
    done, history = position.epoch, position.history
    if history and history[-1].ended != Ending.NONE:
        return f"the run ended after epoch {done} ({in_words(history[-1].ended, there)}); give another --out"
    if config.epochs <= done:
        return f"{done} epochs are done; give more epochs, or another --out"
    averages = [(one, average) for one in (there, config) if (average := _average(one)) is not None]
    both = [stages_of(one, batches) for one in (there, config)]
    updates = both[0][0].updates
    for number in range(done * updates + position.step):
        before, asked = (stages[stage_of(stages, number)].learning_rate(number) for stages in both)
        epoch = number // updates + 1
        if before != asked:
            return f"the learning rate in epoch {epoch} was {before:.6g}, and would have been {asked:.6g}; {ADVICE}"
        if len({average.share(number, one.epochs * updates) for one, average in averages}) > 1:
            return (
                f"the average of the weights in epoch {epoch} would have been another; give averaging.warmup, a share "
                "of the run, such that its epochs are the same, or another --out"
            )
    if len({min(average.first_epoch, done) for _, average in averages}) > 1:
        return "the average of the weights would have started in another epoch; give another --out"
    for row in history:
        if row.val is not None and not is_measured(config, row.epoch):
            return f"epoch {row.epoch + 1} was measured, as the last, and would not have been; give another --out"
    if history and history[-1].val is not None:
        ended = ending(config, best, history)
        if ended != Ending.NONE:
            return f"it would have ended after epoch {done} ({in_words(ended, config)}); give another --out"
    return ""


def _average(config: TrainConfig) -> Average | None:
    """The average of the config, around no network: it is only asked how far it moves."""
    average: Average | None = pick(
        AVERAGES, config.averaging.name, "averaging", nn.Identity(), **config.averaging.params
    )
    return average
