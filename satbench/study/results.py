"""What the page of a study is made of: its runs and the curves of its trainings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.recipes import named
from satbench.reporting.background import NOTHING
from satbench.reporting.results_file import StudyResults
from satbench.reporting.trained import Trained
from satbench.results.store import MANIFEST, Run, read_run
from satbench.results.training_log import Epoch
from satbench.study.folder import STUDY, read_jobs
from satbench.study.jobs import TRAINING
from satbench.training import TrainConfig
from satbench.training.checkpoint import read_logged, read_times
from satbench.training.stages import known_from, method_of, passes_of, stage_configs


def study_results(study: Path) -> StudyResults:
    """The results of the study in the folder `study`.

    What is not finished yet is left out, and a note says how much that is. Raises `BadInput` when no evaluation is
    finished.
    """
    jobs = read_jobs(study / STUDY)
    measured = [one for one in jobs.evaluations if (study / one.name / MANIFEST).is_file()]
    if not measured:
        raise BadInput(f"no evaluation of the study {study} is finished; run `satbench study` on it")
    notes = list(jobs.notes)
    if missing := len(jobs.evaluations) - len(measured):
        notes.append(f"The study is not finished: {missing} of its {len(jobs.evaluations)} evaluations are missing.")
    configs = {one.name: named(one.config) for one in jobs.trainings}
    labels = training_labels(configs)
    times = {label: read_times(study / name / TRAINING) for name, label in labels.items()}
    logs = {one.name: read_logged(study / one.name / TRAINING) for one in jobs.trainings}
    curves = {labels[name]: history for name, history in logs.items() if history}
    trained = [_trained(config, logs[name]) for name, config in configs.items() if logs[name]]
    recipes = {name: config.recipe for name, config in configs.items()}
    runs = [_called(read_run(study / one.name), recipes.get(one.training or "")) for one in measured]
    return StudyResults(
        title=jobs.title or study.resolve().name,
        runs=tuple(runs),
        curves=curves,
        notes=tuple(notes),
        reference=jobs.reference,
        trained=tuple(trained),
        reported=jobs.reported,
        background=NOTHING.taking(times),
    )


def _called(run: Run, recipe: str | None) -> Run:
    """The run with its recipe's name as this version gives it; None leaves it.

    A version before this one left out a parameter that a change had put back to its default.
    """
    if recipe is None:
        return run
    model = run.manifest.model.model_copy(update={"recipe": recipe})
    return replace(run, manifest=run.manifest.model_copy(update={"model": model}))


def _trained(config: TrainConfig, history: Sequence[Epoch]) -> Trained:
    """What the page says of a training: papers, certainty and passes are of all its stages."""
    methods = [method_of(one) for one in stage_configs(config)]
    taken = [row.forward + row.backward for row in history if row.forward is not None and row.backward is not None]
    return Trained(
        recipe=config.recipe,
        paper="; ".join(dict.fromkeys(one.paper for one in methods if one.paper)),
        follows=known_from(config),
        epochs=config.epochs,
        budget=config.budget.passes,
        stated=None if any(one.updates for one in config.stages) else passes_of(config, config.epochs),
        taken=methods[-1].replays * sum(taken) if len(taken) == len(history) else None,
    )


def training_labels(configs: Mapping[str, TrainConfig]) -> dict[str, str]:
    """What curves call each training, by its name: recipe, activation and seed."""
    labels = {name: f"{one.recipe}, {one.activation}, seed {one.seed}" for name, one in configs.items()}
    counted = Counter(labels.values())
    return {name: label if counted[label] == 1 else name for name, label in labels.items()}


def is_study(folder: Path) -> bool:
    """Whether the folder is that of a study."""
    return (folder / STUDY).is_file()
