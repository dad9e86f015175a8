"""`satbench study FILE --status`: which jobs of a study are finished, and what its workers do."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from satbench.cli.output import echo, echo_table, echo_verdict

if TYPE_CHECKING:
    from satbench.study import Jobs


def echo_status(jobs: "Jobs", out: Path, as_json: bool) -> None:
    """Print a line for each job and a count, or as JSON a list of jobs.

    A job is finished, running, open, or measured: its run is there, and the study will check that it is the one of this
    network and this version of satbench.
    """
    import pandas as pd

    from satbench.core.files import to_json
    from satbench.results.store import MANIFEST
    from satbench.study.folder import StudyFolder

    folder = StudyFolder(out, jobs, "")
    left = {job.name for job in folder.unfinished()}
    workers = {one.job: one for one in folder.statuses().values()}
    rows: list[dict[str, Any]] = []
    for name in jobs.names:
        status = workers.get(name) if name in left else None
        if name not in left:
            state = "finished"
        elif status is not None:
            state = "running"
        else:
            state = "measured" if (out / name / MANIFEST).is_file() else "open"
        share = status.fraction if status else float(state in ("finished", "measured"))
        rows.append({"job": name, "state": state, "done": share, "at": status.what if status else ""})
    if as_json:
        echo(to_json(rows), nl=False)
        return
    echo_table(pd.DataFrame([{**row, "done": f"{row['done']:.0%}"} for row in rows]))
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    echo_verdict(f"{out}: {counts}", "good" if set(states) == {"finished"} else "doubt")
