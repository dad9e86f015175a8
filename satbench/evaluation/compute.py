"""Does the jobs of an evaluation, together with whoever else works in its folder."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from satbench.attacks import Attack
from satbench.core.home import claimed
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation.assemble import Measured, assemble
from satbench.evaluation.executor import Executor
from satbench.evaluation.parts import Work, work_name
from satbench.evaluation.plan import Job, Plan, Step
from satbench.evaluation.worker import Worker
from satbench.numerics.threat import ThreatModel

CLAIMS = ".claims"
PAUSE = 0.05  # seconds until a worker that waits for others looks again


def measure(
    executor: Executor,
    images: Images,
    attacks: Sequence[Attack],
    threats: Sequence[ThreatModel],
    seed: int,
    batch_size: int,
    device: torch.device,
    identity: Mapping[str, object] = MappingProxyType({}),
    search: object = "",
    numerics: str = "",
    out: Path | None = None,
    examples: bool = False,
    progress: Progress = silent,
    patient: bool = True,
) -> Measured | None:
    """Attack the images with every attack at every threat; None while parts are left that others compute.

    A sample that is misclassified as it is counts as broken and is not attacked; one that a smaller eps of the same
    attack and norm has broken is broken by that example, at no passes. An ensemble's stages run on what still stands of
    the whole run. Images in files are decoded when they are needed.

    With a folder `out` every part is stored there, with `examples` the broken examples too, and found again; `identity`
    is what decides a result beside attack, threat, seed and image, and `search` is `SearchInfo.identity`. When memory
    runs out, half as many images go through the network at a time. Raises `BadInput` when the logits are not (N, K),
    not finite, or too few for the labels.
    """

    def work(step: Step) -> Work:
        name = work_name(identity, step.stage_id, step.position, step.threat, seed, search, device.type)
        return Work(out, name, examples)

    keys = list(zip(images.ids, images.hashes, images.y.tolist(), strict=True))
    plan = Plan(keys, attacks, threats, executor.stages, batch_size, work)
    if not compute(plan, Worker(executor, images, seed, device, numerics), progress, patient):
        return None
    return assemble(plan, attacks, threats, executor.draws, executor.random_network)


def compute(plan: Plan, worker: Worker, progress: Progress = silent, patient: bool = True) -> bool:
    """Do the jobs that nobody has done or is doing; whether the plan has then ended.

    A `patient` worker waits for the parts that others compute, and takes over where one of them is killed. torch's
    generators are left as they were.
    """
    with torch.random.fork_rng(devices=[worker.device] if worker.device.type == "cuda" else []):
        while True:
            job = next((job for job in plan.jobs() if _done(job, worker)), None)
            if job is None:
                if plan.ended or not patient:
                    return plan.ended
                time.sleep(PAUSE)
            elif job.step.attack is not None:
                progress(*plan.done, f"{job.step.attack} {job.step.threat}")


def _done(job: Job, worker: Worker) -> bool:
    """Do a job, unless somebody else is at it or has done it since; whether it was done here."""
    if job.work.run is None:
        worker.do(job)
        return True
    with claimed(job.work.run / CLAIMS / f"{job.work.name}-{job.name}") as mine:
        if not mine or job.work.part(job.name) is not None:
            return False
        worker.do(job)
        return True
