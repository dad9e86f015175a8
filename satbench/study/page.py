"""The page of a study: its runs and the curves of its trainings."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.recipes import named
from satbench.reporting.background import NOTHING, Background
from satbench.reporting.page import Report, write_report
from satbench.results.store import MANIFEST, Run, read_run
from satbench.study.folder import STUDY, read_jobs
from satbench.study.jobs import TRAINING, Jobs
from satbench.training.checkpoint import read_metrics, read_times


def write_page(study: Path, out: Path, title: str | None = None, background: Background = NOTHING) -> Report:
    """Write the page of the study in the folder `study` into the folder `out`, under `title` or the study's own.

    What is not finished yet is left out, and a note says how much that is. Equal studies give equal bytes. Raises
    `BadInput` when no evaluation is finished.
    """
    jobs = read_jobs(study / STUDY)
    measured = [one for one in jobs.evaluations if (study / one.name / MANIFEST).is_file()]
    if not measured:
        raise BadInput(f"no evaluation of the study {study} is finished; run `satbench study` on it")
    notes = list(jobs.notes)
    if missing := len(jobs.evaluations) - len(measured):
        notes.append(f"The study is not finished: {missing} of its {len(jobs.evaluations)} evaluations are missing.")
    labels = training_labels(jobs)
    curves = {label: read_metrics(study / name / TRAINING) for name, label in labels.items()}
    shown = {label: history for label, history in curves.items() if history}
    recipes = {one.name: named(one.config).recipe for one in jobs.trainings}
    runs = [_called(read_run(study / one.name), recipes.get(one.training or "")) for one in measured]
    words = title or jobs.title or study.resolve().name
    background = background.taking({label: read_times(study / name / TRAINING) for name, label in labels.items()})
    return write_report(out, runs, shown, words, notes, jobs.reference, background)


def _called(run: Run, recipe: str | None) -> Run:
    """The run with its recipe's name as this version gives it; None leaves it.

    A version before this one left out a parameter that a change had put back to its default.
    """
    if recipe is None:
        return run
    model = run.manifest.model.model_copy(update={"recipe": recipe})
    return replace(run, manifest=run.manifest.model_copy(update={"model": model}))


def training_labels(jobs: Jobs) -> dict[str, str]:
    """What curves call each training, by its name: activation and seed, and the recipe where there are several."""
    several = len({one.config.recipe for one in jobs.trainings}) > 1
    labels = {
        one.name: f"{f'{one.config.recipe}, ' if several else ''}{one.config.activation}, seed {one.config.seed}"
        for one in jobs.trainings
    }
    counted = Counter(labels.values())
    return {name: label if counted[label] == 1 else name for name, label in labels.items()}


def is_study(folder: Path) -> bool:
    """Whether the folder is that of a study."""
    return (folder / STUDY).is_file()
