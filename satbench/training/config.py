"""A training run as plain, frozen, printable data."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.parameters import Count, Index, Steps, Whole
from satbench.core.parsing import parsed
from satbench.core.plugins import is_reference, spelled
from satbench.data import is_own_data
from satbench.methods import METHODS
from satbench.models import ARCHITECTURES, canonical
from satbench.training.settings import (
    BudgetConfig,
    DataConfig,
    MeasureConfig,
    Named,
    OptimizerConfig,
    Settings,
    SmoothingConfig,
    SpeedConfig,
    StageConfig,
    StopConfig,
    SurrogateConfig,
    ThreatConfig,
    entry,
)

NAMED = ("model", "method", "schedule", "averaging")  # settings that are an entry of a table with its parameters
NAMES = tuple(f"{part}.name" for part in NAMED)
COLLECTIONS = ("timm", "torchvision", "foolbox")  # what stands before a colon and is no module to import
WITHOUT_EFFECT = ("resident", "activation_checkpointing")  # settings of `speed` that decide nothing of the result
DEFAULTS = 1  # version of the defaults of all settings; raise it with a change of one that changes what is trained


class TrainConfig(Settings):
    """Everything that decides the weights of a run; equal configs give equal weights on one machine.

    model, method, activation, augment and dataset are names of their tables, or `package.module:callable` with
        parameters, see `core.plugins`.
    activation: with parameters as in "celu:alpha=2"; kept in its canonical spelling.
    image_size: side in pixels for data sets that are resized.
    attack_bn_mode: whether batch norms use running ("eval") or batch statistics ("train") while images are crafted;
        the running ones never move then.
    sync_batch_norm: whether batch norms of several processes learn from the whole batch, as those of one process do,
        and not each from its own images.
    accumulation: in how many parts a process's images of a batch go through the network, one after another, in attack
        and update. Their gradients add up to that of the batch, but batch norms learn from each part alone, as from
        the share of a process, and their running statistics are averaged over the parts.
    schedule: of the learning rate, at fractional epochs. averaging: "ema" or "swa" of the weights, which are then what
        is measured and kept.
    data, measure: what is held out for validation, and how it is measured.
    budget: what the run may cost, in place of `epochs`.
    init_from: the network whose weights the run begins with, as `satbench eval --model` names it; null initialises them
        from the seed. It must have the same architecture.
    stages: parts of the run, one after another, with other methods or learning rates; none where it is one whole.
    drop_last: whether an epoch leaves out the images beyond its last whole batch. The order is drawn anew every epoch,
        so that these are other images each time.
    """

    recipe: str = Field(min_length=1)
    dataset: str
    image_size: Annotated[Whole, Field(ge=4, description="a whole number from 4")] | None = None
    model: Named
    activation: str
    method: Named
    threat: ThreatConfig
    epochs: Steps
    batch_size: Annotated[Whole, Field(ge=2, description="a whole number from 2")]
    optimizer: OptimizerConfig
    augment: str = "none"
    attack_bn_mode: Literal["eval", "train"] = "eval"
    sync_batch_norm: bool = False
    accumulation: Count = 1
    label_smoothing: SmoothingConfig = SmoothingConfig()
    surrogate: SurrogateConfig = SurrogateConfig()
    schedule: Named = Named(name="one-cycle")
    averaging: Named = Named(name="none")
    stop: StopConfig = StopConfig()
    speed: SpeedConfig = SpeedConfig()
    seed: Index = 0
    drop_last: bool = True
    data: DataConfig = DataConfig()
    measure: MeasureConfig = MeasureConfig()
    budget: BudgetConfig = BudgetConfig()
    init_from: str | None = None
    stages: tuple[StageConfig, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_runs(cls, raw: Any) -> Any:
        """PGD's steps on the validation split were a setting of their own."""
        if not isinstance(raw, dict) or "selection_steps" not in raw:
            return raw
        rest = {key: value for key, value in raw.items() if key != "selection_steps"}
        if raw["selection_steps"] == 10:
            return rest
        evaluators = ("clean", "fgsm", f"pgd:steps={raw['selection_steps']}")
        return rest | {"measure": {**rest.get("measure", {}), "evaluators": evaluators}}

    @field_validator("model", "method", "schedule", "averaging", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return entry(value) if isinstance(value, str) else value

    @field_validator("stages", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        if value is not None and not isinstance(value, list | tuple):
            raise BadInput(
                f"stages are {value!r}; give a list in a recipe file, such as "
                "[{epochs: 10, changes: {method: standard}}, {}], or null for none"
            )
        return value or ()

    @field_validator("stages")
    @classmethod
    def _lengths(cls, stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        for number, one in enumerate(stages, 1):
            given = (one.epochs is not None) + (one.updates is not None)
            if number == len(stages) and given:
                raise ValueError("the last stage lasts until the run ends; leave its length out")
            if number < len(stages) and given == 0:
                raise ValueError(f"stage {number} needs a length; give it epochs or updates")
            if given == 2:
                raise ValueError(
                    f"stage {number} has epochs={one.epochs:g} and updates={one.updates}; give one of them"
                )
        return stages

    @field_validator("activation")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return canonical(text)

    @model_validator(mode="after")
    def _within_budget(self) -> "TrainConfig":
        from satbench.training.stages import epochs_within  # which imports this module

        if self.budget.passes is not None:
            object.__setattr__(self, "epochs", epochs_within(self, self.budget.passes))
        return self

    @property
    def own_code(self) -> list[str]:
        """The names in the config, with their parameters, that are `package.module:callable`."""
        names = [self.model.name, self.activation, self.augment, self.init_from or "", *self.measure.evaluators]
        names += methods_in(self.model_dump())
        found = [one for one in names if is_reference(spelled(one)[0]) and one.partition(":")[0] not in COLLECTIONS]
        return [*found, *(name for name in (self.dataset, self.data.extra) if name and is_own_data(name))]

    @property
    def label(self) -> str:
        """Architecture and activation, how tables call the model."""
        return f"{self.model.name} {self.activation}"

    def digest(self, train_digest: str, extra_digest: str | None = None) -> str:
        """A hash of the training images and all settings but the seed: equal for the seeds of one training.

        extra_digest: of the images of `data.extra`. A setting or parameter at its default does not count, so that a new
        one renames no earlier run; nor does the recipe's name, where the images lie, or whether activations are
        recomputed.
        """
        return self._hash(train_digest, extra_digest, "seed")

    def family(self, train_digest: str, extra_digest: str | None = None) -> str:
        """The same hash without the activation: equal for trainings that differ in it, and the seed, alone."""
        return self._hash(train_digest, extra_digest, "seed", "activation")

    def _hash(self, train_digest: str, extra_digest: str | None, *without: str) -> str:
        left_out: dict[str, Any] = {**dict.fromkeys(("recipe", *without), True), "speed": set(WITHOUT_EFFECT)}
        settings = self._without_defaults().model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        settings = {key: value for key, value in settings.items() if value != {}}
        images = [train_digest] if extra_digest is None else [train_digest, extra_digest]
        text = json.dumps([DEFAULTS, settings, *images], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_values(self, values: Mapping[str, Any]) -> "TrainConfig":
        """A copy with dotted keys replaced, such as {"optimizer.lr": "0.05", "method.steps": 7, "threat.eps": "8/255"}.

        Keys below `model`, `method`, `schedule` and `averaging` other than `name` are their parameters; naming another
        one, as in "trades:beta=3", drops the old one's parameters. Strings are read as the field's type. A change of
        anything that counts but activation and seed shows in the recipe's name, `digits-sat [epochs=2]`, unless the
        values name a recipe, so that different trainings are never taken for seeds of one. Raises `BadInput` for an
        unknown key or a bad value.
        """
        raw = self.model_dump()
        values = {key.removesuffix(".name") if key in NAMES else key: value for key, value in values.items()}
        for part in NAMED:
            if part in values and values[part] != raw[part]["name"]:
                raw[part] = entry(values[part])
        for key, value in values.items():
            if key not in NAMED:
                _put(raw, key, value)
        changed = parsed(TrainConfig, raw, "the settings")
        return changed if "recipe" in values else changed.named_after(self)

    def _without_defaults(self) -> "TrainConfig":
        """A copy without the parameters of table entries that have their default, which say nothing."""
        changed = {}
        for part, defaults in self._defaults().items():
            named: Named = getattr(self, part)
            params = {key: value for key, value in named.params.items() if (key, value) not in defaults.items()}
            changed[part] = Named(name=named.name, params=params)
        return self.model_copy(update=changed)

    def _defaults(self) -> dict[str, dict[str, Any]]:
        """The defaults of each table entry's parameters; none of code of the user's own."""
        from satbench.training.averaging import AVERAGES  # which import this module
        from satbench.training.schedule import SCHEDULES

        tables: tuple[Mapping[str, Callable[..., Any]], ...] = (ARCHITECTURES, METHODS, SCHEDULES, AVERAGES)
        found = {}
        for part, table in zip(NAMED, tables, strict=True):
            name = getattr(self, part).name
            known = inspect.signature(table[name]).parameters if name in table else {}
            found[part] = {key: parameter.default for key, parameter in known.items()}
        return found

    def named_after(self, start: "TrainConfig") -> "TrainConfig":
        """A copy whose recipe is called as `start`, with the settings in brackets in which it differs from that."""
        before, after = (one._without_defaults().model_dump() for one in (start, self))
        for part, defaults in self._defaults().items():
            if before[part]["name"] == after[part]["name"]:  # a parameter that went back to its default differs too
                given = {key: defaults[key] for key in before[part]["params"] if key in defaults}
                after[part]["params"] = given | after[part]["params"]
        differences = _differences(before, after)
        name = f"{start.recipe} [{', '.join(differences)}]" if differences else start.recipe
        return self.model_copy(update={"recipe": name})


def methods_in(raw: Mapping[str, Any]) -> list[str]:
    """The names of all methods, and of those that they wrap, in a config as it is stored."""
    method = raw.get("method")
    held = {**method, **method.get("params", {})} if isinstance(method, dict) else {"name": method}
    places = [held, *(stage.get("changes", {}) for stage in raw.get("stages") or ())]
    return [str(place[key]) for place in places for key in ("name", "method", "method.method") if key in place]


def _differences(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    unnamed = ("activation", "seed", *(f"speed.{one}" for one in WITHOUT_EFFECT))
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new and key in after and f"{prefix}{key}" not in unnamed and key != "recipe":
            shown = "+".join(map(_shown, new)) if isinstance(new, tuple | list) else new
            found.append(f"{prefix}{key}={shown}".replace(".params.", ".").replace(".name=", "="))
    return found


def _shown(value: Any) -> str:
    """An entry of a list; of a stage, what differs from one without length and changes."""
    if not isinstance(value, dict):
        return str(value)
    changes = value.get("changes", {})
    given = {key: one for key, one in value.items() if key != "changes" and one}
    return " ".join(f"{key}={one}" for key, one in {**given, **changes}.items())


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    head, dot, tail = key.partition(".")
    value = None if value == "null" else value
    if head not in raw:
        raise BadInput(f"unknown setting {key!r}; {nearest(head, raw)}")
    if not isinstance(raw[head], dict):
        if dot:
            raise BadInput(f"unknown setting {key!r}; {head!r} has no parts")
        raw[head] = value
    elif not tail:
        raise BadInput(f"{head!r} has parts; set one, such as {head}.{next(iter(raw[head]))}")
    elif head in NAMED:
        raw[head]["params"][tail] = value
    elif tail in raw[head]:
        raw[head][tail] = value
    else:
        raise BadInput(f"unknown setting {key!r}; {nearest(tail, raw[head])}")
