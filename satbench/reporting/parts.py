"""The results of a study that was computed in parts, as one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from satbench.core.errors import BadInput
from satbench.reporting.background import Background
from satbench.reporting.packed import portable
from satbench.reporting.pictures import distinct
from satbench.reporting.results_file import StudyResults, images_of
from satbench.results.store import Run

T = TypeVar("T")


def joined(parts: Sequence[StudyResults], title: str | None = None, plan: str | None = None) -> StudyResults:
    """All that the parts hold, with `title` and `plan` or those that they share; a run that several hold counts once.

    Raises `BadInput` where parts differ in title or plan and none is given, or in the activation to compare with, where
    two trainings have one name, and where runs beside files of results show different images under one sample id.
    """
    return StudyResults(
        title=title or _shared("titles", (one.title for one in parts), "; give --title"),
        runs=_comparable(_once(run for one in parts for run in one.runs)),
        curves=_union("training curves", [one.curves for one in parts]),
        notes=_distinct(note for one in parts for note in one.notes),
        reference=_shared("activations to compare with", (one.reference for one in parts)),
        trained=_distinct(trained for one in parts for trained in one.trained),
        reported=_distinct(line for one in parts for line in one.reported),
        background=Background(
            plan=_shared("plans", filter(None, (one.background.plan for one in parts)), "; give --plan")
            if plan is None
            else plan,
            commands=_distinct(command for one in parts for command in one.background.commands),
            seconds=_union("training times", [one.background.seconds for one in parts]),
            pictures=distinct(picture for one in parts for picture in one.background.pictures),
        ),
    )


def _distinct(values: Iterable[T]) -> tuple[T, ...]:
    found: list[T] = []
    for one in values:
        if one not in found:
            found.append(one)
    return tuple(found)


def _shared(what: str, values: Iterable[str], advice: str = "; report on them apart") -> str:
    found = _distinct(values)
    if len(found) > 1:
        shown = " and ".join(repr(one if len(one) < 50 else f"{one[:47]}...") for one in found[:2])
        raise BadInput(f"the parts of the report have several {what}: {shown}{advice}")
    return found[0] if found else ""


def _union(what: str, parts: Sequence[Mapping[str, T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for part in parts:
        for name, value in part.items():
            if found.setdefault(name, value) != value:
                raise BadInput(f"two parts of the report have different {what} of {name!r}; leave one of them out")
    return found


def _once(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The runs without those that come again, under whatever path."""
    return tuple({json.dumps(portable(run.manifest), sort_keys=True): run for run in runs}.values())


def _comparable(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """The runs without hashes of images where only some have them, because files of results do not hold them."""
    if len({bool(run.records["sample_hash"].any()) for run in runs}) < 2:
        return runs
    images_of(runs)
    return tuple(replace(run, records=run.records.assign(sample_hash="")) for run in runs)
