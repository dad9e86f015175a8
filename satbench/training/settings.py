"""The groups of settings that a `TrainConfig` is made of."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from satbench.core.eps import Norm, Threat, parse_eps
from satbench.core.errors import BadInput
from satbench.core.lookup import keywords
from satbench.core.parameters import Count, FromZero, Number, Positive, ShareBelow1, Whole
from satbench.core.plugins import spelled
from satbench.methods import METHODS
from satbench.models import ARCHITECTURES

STAGED = ("method", "threat", "optimizer", "schedule")  # settings that a stage may change

_SPLIT = BeforeValidator(lambda given: given.split("+") if isinstance(given, str) else given)
Words = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    _SPLIT,
    Field(min_length=1, description="a list of words, clean+fgsm on the command line"),
]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Named(Settings):
    """An entry of a table with its keyword arguments."""

    name: str
    params: dict[str, Any] = {}

    @field_validator("params")
    @classmethod
    def _spelled(cls, params: dict[str, Any]) -> dict[str, Any]:
        return {key: number(key, value) for key, value in params.items()}


class ThreatConfig(Threat):
    """The training threat.

    In the first `warmup_epochs` the radius grows linearly from 0; it is always measured at the full one.
    """

    norm: Norm = "Linf"
    warmup_epochs: FromZero = 0


class OptimizerConfig(Settings):
    """SGD with momentum, or AdamW.

    `lr` is the peak of the schedule, reached linearly in the first `warmup_epochs`. decay: what `weight_decay` acts on;
    "filters" and matrices, not batch norms, biases and the scalars of activations, or "all" parameters. `clip` is the
    largest L2 norm of the whole gradient.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Positive
    momentum: ShareBelow1 = 0.9
    nesterov: bool = True
    weight_decay: FromZero = 5e-4
    decay: Literal["filters", "all"] = "filters"
    warmup_epochs: FromZero = 0
    clip: Positive | None = None


class SmoothingConfig(Settings):
    """Label smoothing of the outer loss; the attack keeps hard labels.

    With amount s the true class gets 1 - s and the `over="others"` s / (K - 1) each (Pang et al. 2021, arXiv
    2010.00467); `over="all"` is torch's convention, s / K for every class and 1 - s + s / K for the true one.
    """

    amount: ShareBelow1 = 0
    over: Literal["others", "all"] = "others"


class SurrogateConfig(Settings):
    """Where ReLU's derivative is that of parametric softplus, sigmoid(10 x), while its output stays max(x, 0).

    The ablation of Xie et al. 2020 (arXiv 2006.14536): for the attacker's gradient, the optimizer's, or both.
    """

    attacker: bool = False
    optimizer: bool = False


class SpeedConfig(Settings):
    """What a step costs in time and memory; its result changes by rounding alone.

    precision: "bf16-attack" crafts under bfloat16 autocast, "bf16" also takes the update under it. resident: whether
    the images lie on the device; null means where they fit. channels_last and compile are torch's. search_copy: whether
    images are crafted on a copy of the network with folded batch norms in channels-last layout, see
    `training.attacked`; null means where that is faster.
    activation_checkpointing: whether the network's blocks keep their inputs alone and are computed again in every
    backward pass, of attack and update; it needs less memory, more time, and changes no bit on a CPU.
    """

    precision: Literal["float32", "bf16-attack", "bf16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    resident: bool | None = None
    search_copy: bool | None = None
    activation_checkpointing: bool = False


class StopConfig(Settings):
    """When a run ends before its last epoch.

    patience: epochs without a better one. collapse: what the alarm for catastrophic overfitting does; "note" marks the
    epoch, "stop" ends the run there, "rollback" ends it with the weights of the epoch before.
    """

    patience: Count | None = None
    collapse: Literal["note", "stop", "rollback"] = "note"


class DataConfig(Settings):
    """How the images of the data set are used.

    val: the validation split, as a share (below 1) or a number of the images that are not for testing, up to rounding
        in every class; "none" trains on all of them. null is the data set's own split, else 15% (ImageNet: 1%).
    train_n: how many of the training images are used, the first of each class in their fixed pseudo-random order; null
        is all of them.
    extra: a data set of extra or generated images that are mixed into every batch, as `--dataset` names it; see
        `training.extra`. null mixes in none.
    extra_fraction: their share of a batch. 0.7 is the default of the code of Wang et al. 2023 (arXiv 2302.04638), which
        is that of Rebuffi et al. 2021 (arXiv 2103.01946) as re-implemented.
    """

    val: Annotated[
        Annotated[Number, Field(gt=0, lt=1)] | Annotated[Whole, Field(ge=2)] | Literal["none"] | None,
        BeforeValidator(lambda given: number("val", given)),
        Field(description="a share between 0 and 1, a number of images from 2, or none"),
    ] = None
    train_n: Annotated[Whole, Field(ge=2, description="a whole number from 2")] | None = None
    extra: Annotated[str, Field(min_length=1)] | None = None
    extra_fraction: Annotated[Number, Field(gt=0, lt=1, description="a number between 0 and 1")] = 0.7


class MeasureConfig(Settings):
    """How the network is measured on the validation split: every so many epochs, and after the last one.

    evaluators: what is measured, see `training.evaluators`; "pgd:steps=10" gives the figure "robust".
    best: the figures that make an epoch the best, the first one first; null leaves it to the method.
    alarm: the accuracies under a weak and under a strong attack by which catastrophic overfitting is told; null stands
        for fgsm and robust, and for no alarm where these are not measured.
    """

    every: Count = 1
    evaluators: Words = ("clean", "fgsm", "pgd")
    best: Words | None = None
    alarm: (
        Annotated[
            tuple[str, ...],
            _SPLIT,
            Field(min_length=2, max_length=2, description="two figures, fgsm+robust on the command line"),
        ]
        | None
    ) = None


class BudgetConfig(Settings):
    """What a run may cost.

    passes: of a training image in all its updates, forward and backward together, at most, as the method states them.
        The run takes as many whole epochs as they pay for, and `epochs` becomes that number; null leaves it.
    """

    passes: Count | None = None


class StageConfig(Settings):
    """A part of a run with settings of its own; schedule, warm-ups and the epochs of its method begin anew with it.

    epochs, updates: how long it is, in epochs, also fractional, or in updates; neither for the last stage, which lasts
        until the run ends.
    changes: settings that differ from the run's, such as {"method": "standard", "optimizer.lr": 0.1}: those of method,
        threat, optimizer and schedule.
    keep_optimizer: whether the optimizer keeps what it has gathered, such as momentum, or begins anew.
    """

    epochs: Positive | None = None
    updates: Count | None = None
    changes: dict[str, Any] = {}
    keep_optimizer: bool = False

    @field_validator("changes", mode="before")
    @classmethod
    def _of_a_stage(cls, changes: object) -> object:
        if not isinstance(changes, dict):
            raise BadInput(
                f"changes of a stage are {changes!r}; give a mapping of settings, such as {{optimizer.lr: 0.01}}"
            )
        for key in changes:
            if str(key).partition(".")[0] not in STAGED:
                raise ValueError(f"{key} cannot change between stages; {', '.join(STAGED)} can")
        return changes


def entry(text: str) -> dict[str, Any]:
    """The fields of `Named` for a name with parameters, `trades:beta=3` or `package.module:callable:width=2`."""
    name, tail = spelled(text, {**ARCHITECTURES, **METHODS})
    return {"name": name, "params": keywords(tail, text, "trades:beta=3")}


def number(key: str, value: Any) -> Any:
    """A parameter of an entry of a table, which no schema types: integer, radius, word, package.module:callable.

    A list is written 75+90 (one element: 75+), a list of pairs 0:1+60:2.
    """
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", value):  # package.module:callable
        return value
    if "+" in value or ":" in value:
        parts = [part for part in value.split("+") if part]
        return [[number(key, one) for one in part.split(":")] if ":" in part else number(key, part) for part in parts]
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if re.fullmatch("-?[0-9]+", value):
        return int(value)
    if re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)[eE]-?[0-9]+", value):
        return float(value)
    return parse_eps(value, norm="L2") if re.fullmatch("[0-9.]+(/[0-9.]+)?", value) else value
