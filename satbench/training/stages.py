"""The stages of a run: which settings, method and learning rate an update has, as a function of its number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import get_args

from satbench.core.errors import BadInput
from satbench.methods import Method, make_method
from satbench.methods.base import KnownFrom
from satbench.training.config import TrainConfig
from satbench.training.schedule import learning_rate
from satbench.training.settings import BudgetConfig


@dataclass(frozen=True)
class Stage:
    """Updates `first` to `last`, the latter not included, of a run of `updates` an epoch.

    config: the settings of the run with those of the stage in their place.
    """

    config: TrainConfig
    first: int
    last: int
    updates: int
    keep_optimizer: bool = False

    @cached_property
    def method(self) -> Method:
        return method_of(self.config)

    @property
    def epochs(self) -> float:
        """How long it is."""
        return (self.last - self.first) / self.updates

    def epoch(self, number: int) -> float:
        """Epochs of the stage that lie behind the middle of update `number` of the run."""
        return (number - self.first + 0.5) / self.updates

    def learning_rate(self, number: int) -> float:
        """Of update `number` of the run: the schedule of the stage in the middle of the update."""
        progress = (number - self.first + 0.5) / (self.last - self.first)
        return learning_rate(self.config, progress, self.epoch(number))


def method_of(config: TrainConfig) -> Method:
    """The method of a config without stages."""
    return make_method(config.method.name, config.method.params)


def stage_configs(config: TrainConfig) -> list[TrainConfig]:
    """The settings of every stage; those of the run where it has none. Raises `BadInput` naming a stage's number."""
    alone = config.model_copy(update={"stages": (), "budget": BudgetConfig()})
    found = []
    for number, one in enumerate(config.stages, 1):
        try:
            found.append(alone.with_values({"recipe": config.recipe, **one.changes}))
        except BadInput as error:
            raise BadInput(f"stage {number}: {error}") from None
    return found or [alone]


def known_from(config: TrainConfig) -> str:
    """What the methods of a run follow: of those that name a paper the least certain, "" where none does."""
    methods = [method_of(one) for one in stage_configs(config)]
    return max((one.known_from for one in methods if one.paper), key=get_args(KnownFrom).index, default="")


def stages_of(config: TrainConfig, batches: int) -> tuple[Stage, ...]:
    """The stages of a run of `batches` an epoch; each begins where the one before it ends, the last ends the run.

    Raises `BadInput` for a stage that is empty or begins behind the run's end, and for methods of which one replays
    batches and another does not.
    """
    configs = stage_configs(config)
    replays = {method_of(one).replays for one in configs}
    if len(replays) > 1:
        raise BadInput("stages: a method that replays its batches cannot share a run with one that does not")
    updates = batches * replays.pop()
    ends = [0]
    for one in config.stages[:-1]:
        length = one.updates if one.updates is not None else round((one.epochs or 0) * updates)
        ends.append(ends[-1] + length)
    ends.append(config.epochs * updates)
    for number, (first, last) in enumerate(pairwise(ends), 1):
        if first >= last:
            raise BadInput(
                f"stage {number} of {len(configs)} begins at update {first} and ends at {last} of the {ends[-1]} of "
                f"{config.epochs} epochs; give stages that fit, or more epochs"
            )
    kept = [one.keep_optimizer for one in config.stages] or [False]
    return tuple(
        Stage(one, first, last, updates, keep)
        for one, (first, last), keep in zip(configs, pairwise(ends), kept, strict=True)
    )


def passes_of(config: TrainConfig, epochs: int) -> float:
    """What a run of so many epochs takes of a training image, forward and backward passes together, at most.

    Raises `BadInput` for a stage whose length is a number of updates.
    """
    if any(one.updates is not None for one in config.stages):
        raise BadInput("the passes of a stage whose length is a number of updates are not known; give it in epochs")
    lengths = [one.epochs or 0.0 for one in config.stages[:-1]]
    spent = 0.0
    for one, length in zip(stage_configs(config), [*lengths, epochs - sum(lengths)], strict=True):
        method = method_of(one)
        mean = method.mean_passes(length)
        spent += length * method.replays * (mean.forward + mean.backward)
    return spent


def epochs_within(config: TrainConfig, passes: int) -> int:
    """The most whole epochs of a run that takes at most so many passes of an image; see `passes_of`.

    Raises `BadInput` where these pay for none, and for a stage whose length is a number of updates.
    """
    epochs = least = int(sum(one.epochs or 0.0 for one in config.stages[:-1])) + 1
    if (needed := passes_of(config, least)) > passes:
        raise BadInput(f"budget.passes={passes} pays for less than {least} epochs, which take {needed:g}")
    while passes_of(config, epochs + 1) <= passes:
        epochs += 1
    return epochs


def rates_of(stages: Sequence[Stage]) -> Callable[[float], float]:
    """The learning rate at a fractional epoch of the run."""

    def rate(epoch: float) -> float:
        number = int(epoch * stages[0].updates)
        return stages[stage_of(stages, number)].learning_rate(number)

    return rate


def stage_of(stages: Sequence[Stage], number: int) -> int:
    """The index of the stage that takes update `number`; of the last one for updates beyond the run."""
    return next((index for index, one in enumerate(stages) if number < one.last), len(stages) - 1)
