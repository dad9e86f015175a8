"""What lies in the folder of a study, which all its workers share.

study.json           the jobs of the newest `satbench study` on it, which `satbench report` reads
NAME/training        a training, see `training.checkpoint`
NAME/RUN             an evaluation of it, a run folder
.study/jobs-*.json   the jobs as workers read them, named from their content
.study/.claims/      locks of jobs that a worker is at
.study/status/       what each worker does, a file each
.study/opened/       evaluations of existing networks that a session has opened
.study/numerics      the fingerprint of the first worker, where all must have the same
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from satbench.core.bounded import MOST_JSON, check_plain, read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.home import claimed
from satbench.core.parsing import parsed
from satbench.core.strict_json import read_json
from satbench.evaluation.provenance import revision, versions
from satbench.results.schema import SCHEMA_VERSION
from satbench.results.store import check_seal, read_manifest
from satbench.study.jobs import TRAINING, Evaluation, Jobs, Training
from satbench.training import checkpoint

STUDY = "study.json"
HIDDEN = ".study"
STALE = 120.0  # seconds after which the status of a worker that says nothing is that of a dead one


@dataclass(frozen=True)
class Status:
    """What a worker does.

    done, total: updates of a training; images of an evaluation, each counted for every threat and stage of an attack.
    what: what the job says of itself, such as its attack. seconds: since this worker began the job. rate: of `done`, a
    second, since then.
    """

    job: str
    done: int
    total: int
    what: str
    seconds: float
    rate: float

    @property
    def fraction(self) -> float:
        """The share of the job that is done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0


class StudyFolder:
    """The folder of a study: where its jobs lie, and which of them are finished."""

    def __init__(self, path: Path, jobs: Jobs, session: str) -> None:
        self.path, self.jobs, self.session = path, jobs, session
        self._hidden = path / HIDDEN
        self._made_by = revision(), versions()
        self._finished: set[str] = set()

    def training(self, name: str) -> Path:
        """The folder of a training."""
        return self.path / name / TRAINING

    def is_trained(self, training: Training) -> bool:
        """Whether the training is finished."""
        if training.name not in self._finished and checkpoint.finished(self.training(training.name), training.config):
            self._finished.add(training.name)
        return training.name in self._finished

    def is_measured(self, evaluation: Evaluation) -> bool:
        """Whether the evaluation is finished, by this code and these packages.

        The network of a training is named by its content. An existing one may have changed, so that its evaluation
        counts only once a worker of this session has opened it.
        """
        if evaluation.name not in self._finished and self._has_run(evaluation):
            self._finished.add(evaluation.name)
        return evaluation.name in self._finished

    def unfinished(self) -> list[Training | Evaluation]:
        """The jobs that are left, trainings first."""
        trainings = [one for one in self.jobs.trainings if not self.is_trained(one)]
        return [*trainings, *(one for one in self.jobs.evaluations if not self.is_measured(one))]

    def set_opened(self, evaluation: Evaluation) -> None:
        """Note that a worker of this session found the evaluation finished."""
        if evaluation.training is None:
            write_text(self._opened(evaluation), "")

    @contextmanager
    def claimed(self, job: Training | Evaluation) -> Iterator[bool]:
        """Yields whether this process has the job for the block; the claim of a killed process ends with it."""
        with claimed(self._hidden, job.name.replace("/", "--")) as mine:
            yield mine

    def write_jobs(self) -> str:
        """Write the jobs for workers and for `satbench report`; returns the name under which workers read them."""
        text = self.jobs.model_dump_json(indent=1) + "\n"
        name = f"jobs-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
        write_text(self._hidden / name, text)
        write_text(self.path / STUDY, text)
        return name

    def refuse_other_numerics(self, mine: str) -> None:
        """Raise `BadInput` when another worker was first here, and its numerics fingerprint is not `mine`."""
        file = self._hidden / "numerics"
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            if not file.is_file():
                write_text(file, mine)
            first = read_bounded(file).decode()
        if first != mine:
            raise BadInput(
                f"{socket.gethostname()} computes other bits than the first worker of the study (numerics {mine} and "
                f"{first}), which same_numerics refuses; use equal machines, or leave same_numerics out"
            )

    def write_status(self, status: Status | None) -> None:
        """Say what this process does; None says that it has ended."""
        file = self._hidden / "status" / f"{worker_name()}.json"
        if status is None:
            file.unlink(missing_ok=True)
        else:
            write_text(file, json.dumps(asdict(status)))

    def statuses(self) -> dict[str, Status]:
        """What each worker that is alive does, by its name."""
        found = {}
        for file in sorted((self._hidden / "status").glob("[!.]*.json")):
            try:
                if time.time() - file.stat().st_mtime < STALE:
                    found[file.stem] = Status(**read_json(file))
            except FileNotFoundError:  # its worker has ended since
                continue
        return found

    def _opened(self, evaluation: Evaluation) -> Path:
        return self._hidden / "opened" / self.session / evaluation.name

    def _has_run(self, evaluation: Evaluation) -> bool:
        if evaluation.training is None and not self._opened(evaluation).is_file():
            return False
        folder = self.path / evaluation.name
        try:
            manifest = read_manifest(folder)
            check_seal(folder, manifest)
        except BadInput:
            return False  # missing, or damaged: `work_on` makes it again
        made_by = manifest.get("revision"), manifest.get("versions")
        return manifest["schema_version"] == SCHEMA_VERSION and made_by == self._made_by


def read_jobs(file: Path) -> Jobs:
    """The jobs in a file that `write_jobs` wrote; raises `BadInput` when it is missing or damaged."""
    check_plain(file)
    if not file.is_file():
        raise BadInput(f"no such file: {file}; make the folder of a study with `satbench study`")
    return parsed(Jobs, read_bounded(file, 4 * MOST_JSON), str(file), "run `satbench study` again")


def worker_name() -> str:
    """Names this process among the workers of all machines."""
    return f"{socket.gethostname()}-{os.getpid()}"
