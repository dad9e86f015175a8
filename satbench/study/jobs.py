"""From a study to its jobs: trainings and evaluations with names from their content."""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from satbench.attacks import is_own
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.names import check_inside
from satbench.core.plugins import is_reference
from satbench.data import check_images, is_own_data
from satbench.evaluation import EvaluationSpec, make_request
from satbench.recipes import named, recipe
from satbench.recipes.file import check_parameters
from satbench.specs.attack import AttackInfo
from satbench.specs.study import Choice, Reported, Resources, Study
from satbench.training import TrainConfig
from satbench.training.combinations import refuse_undefined
from satbench.zoo import is_own_network

TRAINING = "training"  # the folder of a network's training, beside those of its evaluations


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


PathName = Annotated[str, AfterValidator(lambda name: check_inside(name, "job"))]  # below the study's folder


class Training(_Frozen):
    """One network to train. Its folder is `STUDY/name/training`, its evaluations lie in `STUDY/name`."""

    name: PathName
    config: TrainConfig


class Evaluation(_Frozen):
    """One network to evaluate, in the folder `STUDY/name`.

    training: the name of its training; None for a network that exists already, which the spec then names.
    """

    name: PathName
    training: PathName | None
    spec: EvaluationSpec

    def spec_in(self, folder: Path) -> EvaluationSpec:
        """The spec with its network, for a study that lies in `folder`."""
        if self.training is None:
            return self.spec
        return self.spec.model_copy(update={"model": str(folder / self.training / TRAINING)})


class Jobs(_Frozen):
    """Everything that a study computes, in the order of its file, and what its page says."""

    title: str | None
    notes: tuple[str, ...]
    reference: str
    reported: tuple[Reported, ...] = ()
    resources: Resources
    same_numerics: bool
    trainings: tuple[Training, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def own_code(self) -> list[str]:
        """The names of all jobs that are `package.module:callable`."""
        found = {name: None for one in self.trainings for name in one.config.own_code}
        for spec in (one.spec for one in self.evaluations):
            data, model = spec.dataset, spec.model
            found |= {data: None} if data is not None and is_own_data(data) else {}
            found |= {model: None} if model is not None and is_own_network(model) else {}
            infos = [layer for one in spec.attacks if isinstance(one, AttackInfo) for layer in one.layers]
            found |= {one.name: None for one in infos if not is_own(one.name) and is_reference(one.name)}
        return list(found)

    @property
    def names(self) -> list[str]:
        """The name of each job, trainings first."""
        return [*(one.name for one in self.trainings), *(one.name for one in self.evaluations)]


def jobs_of(study: Study, where: str) -> Jobs:
    """The jobs of a study; nothing is loaded, trained or written.

    Equal trainings and evaluations have equal names, wherever and from whatever file they are made; different ones
    differ. Raises `BadInput`, beginning with `where`, for a recipe or an attack that does not exist, a setting that is
    unknown or has a bad value, a job that is there twice, and an evaluation that no network gets.
    """
    trainings: dict[str, Training] = {}
    choices: list[tuple[str | None, Choice, Training]] = []
    recipes: dict[str, TrainConfig] = {}
    checked: set[str] = set()
    for position, grid in enumerate(study.trainings):
        for choice in grid.choices():
            try:
                training = _training(choice, recipes, checked)
            except BadInput as error:
                raise BadInput(f"{where}, field 'trainings.{position}': {error}") from None
            if training.name in trainings:
                raise BadInput(
                    f"{where}, field 'trainings.{position}': training {training.name} is there twice; remove one"
                )
            trainings[training.name] = training
            choices.append((grid.name, choice, training))
    methods = {one.config.method.name for one in trainings.values()}
    for position, reported in enumerate(study.reported):
        if reported.method not in methods:
            raise BadInput(
                f"{where}, field 'reported.{position}.method': no training has the method {reported.method!r}; "
                f"{nearest(reported.method, methods)}"
            )
    evaluations: dict[str, Evaluation] = {}
    for position, measurement in enumerate(study.evaluations):
        field = f"{where}, field 'evaluations.{position}'"
        try:
            spec = make_request(measurement.spec).spec
            if spec.dataset is not None:
                check_images(spec.dataset, spec.split, spec.image_size, spec.loader)
        except BadInput as error:
            raise BadInput(f"{field}: {error}") from None
        run, of = run_name(spec), measurement.of
        found = []
        for grid_name, choice, training in choices:
            if of is None or of.takes(grid_name, choice):
                seeded = spec if "seed" in measurement.model_fields_set else _seeded(spec, training.config.seed)
                found.append(Evaluation(name=f"{training.name}/{run}", training=training.name, spec=seeded))
        for one in study.models:
            if of is None or one.model in (of.models or ()):
                named = spec.model_copy(update=one.model_dump())
                found.append(Evaluation(name=f"{_model_folder(named)}/{run}", training=None, spec=named))
        if not found:
            raise BadInput(f"{field}, field 'of': no network of the study is meant; loosen it, or leave it out")
        for evaluation in found:
            if evaluation.name in evaluations:
                raise BadInput(f"{field}: evaluation {evaluation.name} is there twice; remove one")
            evaluations[evaluation.name] = evaluation
    return Jobs(
        title=study.title,
        notes=study.notes,
        reference=study.reference,
        reported=study.reported,
        resources=study.resources,
        same_numerics=study.same_numerics,
        trainings=tuple(trainings.values()),
        evaluations=tuple(sorted(evaluations.values(), key=_network_order(trainings))),
    )


def job_name(config: TrainConfig) -> str:
    """The folder of one training, such as `digits-sat-silu-seed0-1a2b3c4d`; equal where every weight would be."""
    return f"{_words(f'{config.recipe} {config.activation}', 80)}-seed{config.seed}-{config.digest('')[:8]}"


def run_name(spec: EvaluationSpec) -> str:
    """The folder of one evaluation of a network, such as `pgd-1a2b3c4d`; the attacks of `spec` are infos."""
    attacks = dict.fromkeys(info.name for info in spec.attacks if isinstance(info, AttackInfo))
    return f"{_words(' '.join(attacks), 40)}-{spec.digest[:8]}"


def _model_folder(spec: EvaluationSpec) -> str:
    """The folder of a network that exists already, from what the study says of it."""
    given = [spec.model, spec.checkpoint and str(spec.checkpoint), spec.name, spec.group]
    return f"{_words(spec.name or str(spec.model), 80)}-{hashlib.sha256(repr(given).encode()).hexdigest()[:8]}"


def _words(text: str, most: int) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:most]


def _network_order(trainings: Mapping[str, Training]) -> Callable[[Evaluation], int]:
    """A key that puts evaluations in the order of their trainings, and those of existing networks last."""
    positions = {name: position for position, name in enumerate(trainings)}
    return lambda evaluation: positions.get(evaluation.training or "", len(positions))


def _seeded(spec: EvaluationSpec, seed: int) -> EvaluationSpec:
    return spec.model_copy(update={"seed": seed})


def _training(choice: Choice, recipes: dict[str, TrainConfig], checked: set[str]) -> Training:
    """The training that is chosen; `recipes` and `checked` remember what was read and found valid before."""
    if choice.recipe not in recipes:
        recipes[choice.recipe] = recipe(choice.recipe)
    axes = {"activation": choice.activation, "seed": choice.seed}
    given = {name: value for name, value in axes.items() if value is not None}
    config = named(recipes[choice.recipe].with_values({**choice.overrides, **given}))
    what_is_built = config.model_dump_json(exclude={"recipe", "seed", "optimizer", "threat", "epochs", "batch_size"})
    if what_is_built not in checked:
        check_parameters(config)
        for name in filter(None, (config.dataset, config.data.extra)):
            check_images(name, size=config.image_size)
        checked.add(what_is_built)
    refuse_undefined(config)
    return Training(name=job_name(config), config=config)
