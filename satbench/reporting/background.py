"""What a page says beside the numbers: the plan, the commands, examples, and what was spent."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from satbench.core.escaping import markdown_html
from satbench.reporting.names import short_names
from satbench.reporting.pictures import Picture
from satbench.reporting.table_forms import MISSING
from satbench.results.store import Run, seconds_of
from satbench.results.training_log import Times

DEPARTURES = "## Departures"  # the heading under which a plan lists what was done otherwise
COMPUTED = "## Computed so far"  # that under which it says what is there
SPENT_NOTE = (
    "Hours are those of processes, each with the threads that it was given. Passes are forward + backward passes of "
    "single images; those of a trust battery are counted with its evaluation."
)


@dataclass(frozen=True)
class Background:
    """What the runs do not hold.

    plan: what was written before the results, as Markdown. commands: what made the runs. seconds: of each training.
    pictures: of examples.
    """

    plan: str = ""
    commands: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()

    def taking(self, times: Mapping[str, Sequence[Times]]) -> "Background":
        """With the seconds of trainings, from the times of their epochs."""
        took = {name: sum(one.seconds + one.measuring_seconds for one in rows) for name, rows in times.items()}
        return replace(self, seconds={name: seconds for name, seconds in took.items() if seconds})


NOTHING = Background()


def section(background: Background, runs: Sequence[Run]) -> dict[str, Any]:
    """What `report.html.j2` shows beside the numbers; a plan's sections `DEPARTURES` and `COMPUTED` stand apart."""
    parts = re.split(r"^(?=## )", background.plan, flags=re.MULTILINE)
    apart = {
        heading: "".join(part.removeprefix(heading) for part in parts if part.startswith(f"{heading}\n"))
        for heading in (DEPARTURES, COMPUTED)
    }
    plan = "".join(part for part in parts if part.partition("\n")[0] not in apart)
    return {
        "plan": markdown_html(plan, deeper=2),
        "departures": markdown_html(apart[DEPARTURES], deeper=2),
        "computed": " ".join(apart[COMPUTED].split()),
        "commands": background.commands,
        "spent": spent(runs, background.seconds),
        "spent_note": SPENT_NOTE,
    }


def spent(runs: Sequence[Run], seconds: Mapping[str, float]) -> pd.DataFrame:
    """A line for the trainings, and one for each set of attacks that runs share: how many, hours and passes."""
    lines: list[tuple[str, int, float, int | None]] = []
    if seconds:
        lines.append(("trainings", len(seconds), sum(seconds.values()), None))
    groups: dict[str, list[Run]] = {}
    shorts = short_names(attack for run in runs for attack in run.manifest.attacks)
    for run in runs:
        name = ", ".join(sorted(shorts[attack.id] for attack in run.manifest.attacks))
        groups.setdefault(name, []).append(run)
    for name, group in sorted(groups.items()):
        passes = sum(run.passes for run in group)
        lines.append((f"evaluations by {name}", len(group), sum(map(seconds_of, group)), passes))
    lines.append(("together", sum(line[1] for line in lines), sum(line[2] for line in lines), None))
    return pd.DataFrame(
        {
            "what": what,
            "number": str(count),
            "hours": f"{took / 3600:.2f}",
            "passes": MISSING if passes is None else f"{passes:,}",
        }
        for what, count, took, passes in lines
    )
