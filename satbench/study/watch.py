"""How far a study is, from its folder: what is finished, what each worker does, and how long the rest will take."""

import time
from dataclasses import dataclass

from satbench.study.folder import Status, StudyFolder
from satbench.study.jobs import Training

REST = 50  # times as long as a look at the folder took, until the next
LONGEST = 1.0  # seconds between two looks


@dataclass(frozen=True)
class View:
    """A study at one moment.

    left: estimated seconds until it is finished; only a lower bound unless `is_whole`, while nothing tells how long
    its trainings or its evaluations take.
    """

    finished: int
    jobs: int
    workers: dict[str, Status]
    seconds: float
    left: float
    is_whole: bool


class Watch:
    """Looks at the folder of a study, for at most a fiftieth of the time and at least once a second."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder
        self.total = len(folder.jobs.names)
        self.new: list[str] = []  # names of the jobs that were finished since `take_new`
        self._unfinished = {job.name: job for job in folder.unfinished()}
        self._best: dict[str, float] = {}  # the largest share that was done of each unfinished job
        self._began: dict[str, float] = {}  # when a worker began each job, on the clock of this process
        self._took: dict[bool, list[float]] = {True: [], False: []}  # seconds of trainings and of evaluations
        self._statuses: dict[str, Status] = {}
        self._started = self._next = time.monotonic()

    def remaining(self) -> float:
        """The jobs that are left; of those that run, the share that is left."""
        self._look()
        return sum(1 - min(0.99, self._best.get(name, 0.0)) for name in self._unfinished)

    def take_new(self) -> list[str]:
        """The names of the jobs that were finished since this was called last."""
        new, self.new = self.new, []
        return new

    def view(self) -> View:
        """The study as it was at the last look."""
        seconds = time.monotonic() - self._started
        return View(self.total - len(self._unfinished), self.total, self._statuses, seconds, *self._left())

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        left = {job.name for job in self.folder.unfinished()}
        for name, job in list(self._unfinished.items()):
            if name not in left:
                del self._unfinished[name]
                self.new.append(name)
                if name in self._began:
                    self._took[isinstance(job, Training)].append(now - self._began[name])
        self._statuses = {name: one for name, one in self.folder.statuses().items() if one.job in self._unfinished}
        for one in self._statuses.values():
            self._best[one.job] = max(one.fraction, self._best.get(one.job, 0.0))
            self._began.setdefault(one.job, now - one.seconds)
        looked = time.monotonic()
        self._next = looked + min(REST * (looked - now), LONGEST)

    def _left(self) -> tuple[float, bool]:
        """Seconds, from the mean time of a training and of an evaluation, divided among the workers of now."""
        now, seconds, is_whole = time.monotonic(), 0.0, True
        for kind, took in self._took.items():
            names = [name for name, job in self._unfinished.items() if isinstance(job, Training) == kind]
            running = [name for name in names if self._best.get(name, 0.0) > 0.05]
            known = [*took, *((now - self._began[name]) / self._best[name] for name in running)]
            is_whole = is_whole and bool(known or not names)
            mean = sum(known) / len(known) if known else 0.0
            seconds += sum(mean * (1 - self._best.get(name, 0.0)) for name in names)
        return seconds / max(1, len(self._statuses)), is_whole
