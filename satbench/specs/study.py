"""What a study trains and measures, as a value that one YAML file holds."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from satbench.core.bounded import check_plain
from satbench.core.eps import Norm, Threat
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.parameters import Count, Number
from satbench.core.parsing import parsed
from satbench.core.strict_yaml import read_mapping
from satbench.specs.attack import AttackInfo
from satbench.specs.evaluation import EvaluationSpec

AXES = {"recipe": "recipes", "activation": "activations", "seed": "seeds"}  # settings with a field of their own
OF_STUDY = {"of", "tolerance", "published"}  # fields of a measurement that `EvaluationSpec` does not have
DECIDED = ("model", "checkpoint", "name", "group")  # fields of an evaluation that the network of a study decides


def _listed(value: object) -> object:
    """One value as a list of one; raises for a list that is empty or holds a value twice."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("the list is empty; give at least one value, or leave the field out")
    for position, one in enumerate(values):
        if one in values[:position]:
            raise ValueError(f"{one!r} is listed twice; remove one")
    return values


def _one_or_several(schema: dict[str, Any]) -> WithJsonSchema:
    """How editors learn that one value may stand for a list of one."""
    return WithJsonSchema({"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1}]})


TEXT = {"type": "string", "minLength": 1}
THREAT = {"anyOf": [TEXT, {"type": "object", "required": ["norm", "eps"]}]}
Listed = BeforeValidator(_listed)
Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Listed, _one_or_several(TEXT)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, strict=True)], ...], Listed, _one_or_several({"type": "integer", "minimum": 0})
]


def _refuse_unknown(cls: type[BaseModel], value: Any) -> Any:
    for key in value if isinstance(value, dict) else ():
        if key not in cls.model_fields:
            raise ValueError(f"unknown field {key!r}; {nearest(key, cls.model_fields)}")
    return value


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return _refuse_unknown(cls, value)


class Resources(_Frozen):
    """What each worker of a study has.

    cpus: cores, and torch's threads, on which bits depend. gpus: by default none; from 2 on a training is started by
    torchrun, with a process on each.
    """

    cpus: int = Field(default=1, ge=1, strict=True)
    gpus: int = Field(default=0, ge=0, strict=True)


class Choice(_Frozen):
    """One combination of a grid: a training before its recipe is looked up. None is what the recipe says."""

    recipe: str
    activation: str | None
    seed: int | None
    overrides: dict[str, Any]


class Grid(_Frozen):
    """Trainings: every combination of recipes, activations, overrides and seeds.

    name: what `of` of an evaluation calls these trainings.
    recipes: names, or files as `satbench train` takes them.
    activations, seeds: by default those of the recipe.
    overrides: settings by dotted keys as in `satbench train --set`; a list is an axis of the grid.
    """

    name: str | None = Field(default=None, min_length=1)
    recipes: Names
    activations: Names | None = None
    seeds: Seeds | None = None
    overrides: dict[str, Annotated[tuple[Any, ...], Listed, _one_or_several({})]] = {}

    @field_validator("overrides")
    @classmethod
    def _no_axis(cls, overrides: dict[str, Any]) -> dict[str, Any]:
        for key in overrides:
            if key in AXES:
                raise ValueError(f"{key!r} is not an override; give {AXES[key]}")
        return overrides

    def choices(self) -> Iterator[Choice]:
        """The combinations, seeds innermost."""
        settings = [dict(zip(self.overrides, values, strict=True)) for values in product(*self.overrides.values())]
        for recipe, activation, overrides, seed in product(
            self.recipes, self.activations or (None,), settings, self.seeds or (None,)
        ):
            yield Choice(recipe=recipe, activation=activation, seed=seed, overrides=overrides)


class Existing(_Frozen):
    """A network that is there already, with the fields of `EvaluationSpec`; the model alone may be written as text."""

    model: str = Field(min_length=1)
    checkpoint: Path | None = None
    name: str | None = None
    group: str | None = None


MODEL = {"anyOf": [TEXT, Existing.model_json_schema()]}


class Of(_Frozen):
    """The networks of a study that an evaluation is for.

    A training must be among all of `trainings` (names of grids), `recipes`, `activations` and `seeds` that are given,
    each as the study spells it; without any of these no training is. `models` lists the existing networks.
    """

    trainings: Names | None = None
    recipes: Names | None = None
    activations: Names | None = None
    seeds: Seeds | None = None
    models: Names | None = None

    def takes(self, grid: str | None, choice: Choice) -> bool:
        """Whether a training of the grid called `grid` is meant."""
        asked = (
            (self.trainings, grid),
            (self.recipes, choice.recipe),
            (self.activations, choice.activation),
            (self.seeds, choice.seed),
        )
        given = [(wanted, value) for wanted, value in asked if wanted is not None]
        return bool(given) and all(value in wanted for wanted, value in given)


Points = Annotated[Number, Field(ge=0, le=100, description="points from 0 to 100")]


POINTS = {"type": "number", "minimum": 0, "maximum": 100}
TOLERANCE = {"anyOf": [POINTS, {"type": "object", "additionalProperties": POINTS}]}
ALL = "all"  # figures whose tolerance is not given by name


class Published(_Frozen):
    """An accuracy in percent that others measured on `n` images."""

    rate: Points
    n: Count


class Measurement(EvaluationSpec):
    """An evaluation of every network of the study, or of those that `of` names.

    The fields are those of `EvaluationSpec`; `seed` is by default the seed of the training. For `satbench check`:

    tolerance: by how many points a figure may move, up or down: a number, or numbers by the names of figures, such as
        `PGD-20 at Linf 8/255`, with `all` for those that are not named.
    published: figures that are only known as a rate, by their names.
    """

    attacks: Annotated[tuple[AttackInfo | str, ...], _one_or_several(TEXT)] = ("pgd",)
    threats: Annotated[tuple[Threat | Norm, ...], _one_or_several(THREAT)] = ("Linf",)
    of: Of | None = None
    tolerance: Annotated[dict[str, Points], WithJsonSchema(TOLERANCE)] = Field(default_factory=dict)
    published: dict[str, Published] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return _refuse_unknown(cls, value)

    def __init__(self, **fields: Any) -> None:
        BaseModel.__init__(self, **fields)  # so that `read_study` names the field as the file spells it

    @field_validator("tolerance", mode="before")
    @classmethod
    def _of_all(cls, value: object) -> object:
        return value if isinstance(value, dict) else {ALL: value}

    @field_validator(*DECIDED)
    @classmethod
    def _of_no_network(cls, value: object) -> object:
        raise ValueError("this belongs to a network; give it below models")

    @property
    def spec(self) -> EvaluationSpec:
        """The evaluation of a network that is yet to be named."""
        return EvaluationSpec(**{name: getattr(self, name) for name in self.model_fields_set - OF_STUDY})


class Gate(_Frozen):
    """What `satbench check` must see: a drop of `drop` points beyond the tolerance, in any figure.

    The images come in batches until no such drop is left to fear. With a drop of 0 every image is measured.
    """

    drop: Points = 5.0


class Reported(_Frozen):
    """What a source reports of a method, against the unchanged recipe; the page says whether it shows in the study.

    method: as `--set method` names it. accuracy: which one. expected: of the difference. source: as the page shows it.
    """

    method: str = Field(min_length=1)
    accuracy: Literal["robust", "clean"] = "robust"
    expected: Literal["higher", "lower", "not lower"]
    source: str = Field(min_length=1)


class Study(_Frozen):
    """Trainings and existing networks, and what is measured of them.

    title, notes: heading of the page, and paragraphs below it.
    reference: the activation that the page compares the others with.
    reported: what sources report of its methods.
    trainings: grids; their union is trained, and no training may be in two of them.
    models: networks that are there already.
    evaluations: what is measured; none where the study only trains.
    resources: of each worker.
    same_numerics: refuse workers whose numerics differ from those of the first one.
    gate: what `satbench check` must see.

    Raises `BadInput` through `read_study`, naming file and field.
    """

    title: str | None = Field(default=None, min_length=1)
    notes: tuple[str, ...] = ()
    reference: str = "relu"
    reported: tuple[Reported, ...] = ()
    trainings: tuple[Grid, ...] = ()
    models: Annotated[tuple[Existing, ...], _one_or_several(MODEL)] = ()
    evaluations: tuple[Measurement, ...] = ()
    resources: Resources = Resources()
    same_numerics: bool = Field(default=False, strict=True)
    gate: Gate = Gate()

    @field_validator("models", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple({"model": one} if isinstance(one, str) else one for one in listed)

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if not self.trainings and not self.models:
            raise ValueError("the study has neither trainings nor models; give some")
        if self.models and not self.evaluations:
            raise ValueError("the study has models and no evaluations; give some")
        return self

    @model_validator(mode="after")
    def _selects_networks(self) -> Self:
        known: dict[str, set[Any]] = {
            "trainings": {grid.name for grid in self.trainings if grid.name},
            "recipes": {choice.recipe for grid in self.trainings for choice in grid.choices()},
            "activations": {name for grid in self.trainings for name in grid.activations or ()},
            "seeds": {seed for grid in self.trainings for seed in grid.seeds or ()},
            "models": {one.model for one in self.models},
        }
        for position, measurement in enumerate(self.evaluations):
            for field, names in known.items():
                for one in getattr(measurement.of, field, None) or ():
                    if one not in names:
                        raise ValueError(
                            f"evaluations.{position}.of.{field} names {one!r}, which the study has not; "
                            f"{nearest(one, map(str, names))}"
                        )
        return self


def read_study(file: Path) -> Study:
    """The study in a YAML file; raises `BadInput` that names the file, and the first field that is wrong."""
    check_plain(file)
    if not file.is_file():
        raise BadInput(f"no such file: {file}; give a study file, see `satbench study --schema`")
    return parsed(Study, read_mapping(file), str(file))
