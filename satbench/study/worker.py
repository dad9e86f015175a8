"""One worker of a study: takes jobs from the study's folder until none is left."""

import subprocess
import sys
import time
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.home import Busy, alone_in
from satbench.core.plugins import check_allowed
from satbench.core.progress import Progress
from satbench.core.shared import shared
from satbench.evaluation import work_on
from satbench.evaluation.fingerprint import numerics_fingerprint
from satbench.evaluation.provenance import revision, versions
from satbench.numerics.device import using_threads
from satbench.study.folder import HIDDEN, Status, StudyFolder, read_jobs
from satbench.study.jobs import Evaluation, Training
from satbench.training import train
from satbench.training.checkpoint import read_metrics
from satbench.training.interrupt import interruptible

REST = 4  # times as long as a look at an evaluation took, until the next
LONGEST = 20.0  # seconds between two looks
IDLE = 50  # times as long as a look for work took that found none, until the next, at most `POLL` seconds
POLL = 1.0  # seconds between two writings of the status


def software() -> dict[str, str]:
    """What workers on different machines must have in common: the code, and every package that can move a number."""
    return {**versions(), "revision of satbench": revision()}


def work(folder: str, jobs: str, session: str, device: str, data_dir: str | None) -> None:
    """Work on the study in `folder`, a path or a URL, until its jobs are finished, by this process or by others.

    Trainings come first; then evaluations whose network is trained and that no worker has; then the others, of which
    several workers share the pieces. Any number of workers, killed at any time, leave the same bytes. `jobs` is the
    name that `StudyFolder.write_jobs` gave them, and `session` names the `run_study` that started the worker. Raises
    `BadInput`, naming the job, for one that cannot be computed.
    """
    with shared(folder) as path:
        place = StudyFolder(path, read_jobs(path / HIDDEN / jobs), session)
        worker = _Worker(place, device, None if data_dir is None else Path(data_dir))
        with using_threads(place.jobs.resources.cpus):
            worker.run()


class _Worker:
    def __init__(self, folder: StudyFolder, device: str, data_dir: Path | None) -> None:
        self.folder, self.device, self.data_dir = folder, device, data_dir
        self.not_before: dict[str, float] = {}  # when to look again at an evaluation whose rest others compute

    def run(self) -> None:
        """Work until everything is finished."""
        for name in self.folder.jobs.own_code:
            check_allowed(name, self.folder.path)
        try:
            if self.folder.jobs.same_numerics:
                self.folder.refuse_other_numerics(numerics_fingerprint())
            while self.folder.unfinished():
                looked = time.monotonic()
                if not (self.trains() or self.measures(alone=True) or self.measures(alone=False)):
                    time.sleep(min(IDLE * (time.monotonic() - looked), POLL))
        finally:
            self.folder.write_status(None)

    def trains(self) -> bool:
        """Take the first training that is unfinished and that no worker has; whether there was one."""
        for training in self.folder.jobs.trainings:
            if self.folder.is_trained(training):
                continue
            with self.folder.claimed(training) as mine:
                if not mine or self.folder.is_trained(training):
                    continue
                try:
                    self._train(training)
                except Busy:  # a `satbench train` outside of the study
                    continue
                except BadInput as error:
                    raise BadInput(f"training {training.name}: {error}") from error
                return True
        return False

    def measures(self, alone: bool) -> bool:
        """Take the first unfinished evaluation whose network is there; whether one got finished.

        alone: only one that no worker has, and claim it.
        """
        trained = {one.name for one in self.folder.jobs.trainings if self.folder.is_trained(one)}
        for evaluation in self.folder.jobs.evaluations:
            if self.folder.is_measured(evaluation):
                continue
            if evaluation.training is not None and evaluation.training not in trained:
                continue
            if not alone:
                if time.monotonic() >= self.not_before.get(evaluation.name, 0) and self._measure(evaluation):
                    return True
                continue
            with self.folder.claimed(evaluation) as mine:
                if mine and not self.folder.is_measured(evaluation) and self._measure(evaluation):
                    return True
        return False

    def _train(self, training: Training) -> None:
        out, report = self.folder.training(training.name), self._reporter(training.name)
        processes = self.folder.jobs.resources.gpus
        if processes > 1:
            self._train_by_torchrun(training, out, processes, report)
        else:
            train(training.config, out, self.device, self.data_dir, report)

    def _train_by_torchrun(self, training: Training, out: Path, processes: int, report: Progress) -> None:
        """Let torchrun train on several GPUs of this machine, or as many processes of a CPU."""
        config = self.folder.path / HIDDEN / "configs" / f"{training.name}.json"
        write_text(config, training.config.model_dump_json())
        words = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "satbench", "train"]
        words += [str(config), "--out", str(out), "--device", self.device]
        words += [] if self.data_dir is None else ["--data-dir", str(self.data_dir)]
        log = config.with_suffix(".log")
        with interruptible() as pressed, log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen([sys.executable, "-m", *words], stdout=output, stderr=subprocess.STDOUT)
            while process.poll() is None:
                if pressed():
                    process.terminate()  # its processes save and end
                    process.wait()
                    raise KeyboardInterrupt
                report(len(read_metrics(out)), training.config.epochs, f"{processes} processes")
                time.sleep(POLL / 2)
        if process.returncode:
            with alone_in(out, "train"):  # raises where the reason is that another process trains there
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            said = [line.partition("satbench: ")[2] for line in lines if "satbench: " in line]
            if said:
                raise BadInput(said[-1])
            raise RuntimeError(f"torchrun ended with status {process.returncode}; see {log}")

    def _measure(self, evaluation: Evaluation) -> bool:
        """Work on an evaluation; whether its run is finished."""
        spec, out = evaluation.spec_in(self.folder.path), self.folder.path / evaluation.name
        started = time.monotonic()
        try:
            is_finished = work_on(spec, out, self.data_dir, self.device, self._reporter(evaluation.name))
        except Busy:  # a `satbench eval` with other settings
            is_finished = False
        except BadInput as error:
            raise BadInput(f"evaluation {evaluation.name}: {error}") from error
        if is_finished:
            self.folder.set_opened(evaluation)
        took = time.monotonic() - started  # mostly to open the network, where nothing was left to do
        self.not_before[evaluation.name] = time.monotonic() + min(REST * took, LONGEST)
        return is_finished

    def _reporter(self, job: str) -> Progress:
        """Writes how far the job is into the status of this process, at most every `POLL` seconds."""
        started = time.monotonic()
        written, first = started, None
        self.folder.write_status(Status(job, 0, 0, "starting", 0.0, 0.0))

        def report(done: int, total: int, what: str) -> None:
            nonlocal written, first
            now = time.monotonic()
            first = first or (done, now)  # where an earlier worker stopped
            if now - written >= POLL:
                written = now
                rate = (done - first[0]) / max(now - first[1], POLL)
                self.folder.write_status(Status(job, done, total, what, round(now - started, 1), round(rate, 1)))

        return report
