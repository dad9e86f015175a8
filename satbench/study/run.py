"""Runs a study: writes its jobs into its folder, keeps workers going until all are finished, and reads the runs."""

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from satbench.core.errors import BadInput
from satbench.core.files import check_output_folder
from satbench.core.plugins import allow
from satbench.core.shared import exchange_now, is_url, shared
from satbench.engines import Call, Resources, make_engine, run_workers
from satbench.results.store import Run, read_run
from satbench.study.folder import HIDDEN, STUDY, StudyFolder
from satbench.study.jobs import Jobs
from satbench.study.live import shown
from satbench.study.watch import Watch


def run_study(
    jobs: Jobs,
    out: str | Path,
    engine: str = "local",
    device: str = "auto",
    data_dir: Path | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[Run]:
    """Compute every job that is not finished in `out`, a folder or a URL; returns the runs in the order of the jobs.

    A study that was stopped, or killed at any time, continues where it was when called again, and two on one folder
    help each other; the bytes are those of an uninterrupted one. Jobs that are finished are not computed again, also
    when the study asks for others beside them. `engine` is a name as `engines.make_engine` takes it; `device` and
    `data_dir` are those of `train` and `evaluate`. `meanwhile` is called once after the workers were started, and not
    where everything is finished. Standard error shows how far the study is.

    Raises `BadInput` for a folder of something else and an engine that is not there before anything is written, and
    for the first job that cannot be computed.
    """
    place = str(out) if is_url(out) else str(Path(out).absolute())
    allow(jobs.own_code)
    session = secrets.token_hex(4)
    with shared(place) as path:
        check_output_folder(path, STUDY)
        workers = make_engine(engine)
        was_there = (path / STUDY).is_file()
        folder = StudyFolder(path, jobs, session)
        arguments = {
            "folder": place,
            "jobs": folder.write_jobs(),
            "session": session,
            "device": device,
            "data_dir": None if data_dir is None else str(data_dir.absolute()),
        }
        exchange_now(path)  # the workers read the jobs
        call = Call("satbench.study.worker:work", arguments, place, software="satbench.study.worker:software")
        watch = Watch(folder)
        try:
            with shown(watch) as update:
                run_workers(workers, call, resources_of(jobs, device), watch.remaining, update, meanwhile)
        except BadInput:
            if not was_there and {one.name for one in path.iterdir()} <= {STUDY, HIDDEN}:
                shutil.rmtree(path)  # nothing was computed
            raise
        finally:
            workers.close()
            shutil.rmtree(path / HIDDEN / "opened" / session, ignore_errors=True)
        return [read_run(path / one.name) for one in jobs.evaluations]


def resources_of(jobs: Jobs, device: str) -> Resources:
    """What each worker of the study gets: on a machine with GPUs one of them, if the study does not say more."""
    wanted = jobs.resources
    if device == "cpu":
        return Resources(wanted.cpus, 0)
    return Resources(wanted.cpus, wanted.gpus or int(torch.cuda.is_available()))
