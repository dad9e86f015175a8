"""Does the jobs of an evaluation, together with whoever else works in its folder."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import info_of
from satbench.core.home import claimed
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation.assemble import Measured, assemble
from satbench.evaluation.executor import Executor, Search
from satbench.evaluation.parts import Key, Work, work_name
from satbench.evaluation.plan import Job, Plan, Step
from satbench.evaluation.worker import Worker
from satbench.numerics.threat import ThreatModel

PAUSE = 0.05  # seconds until a worker that waits for others looks again


def measure(
    model: nn.Module,
    images: Images,
    attacks: Sequence[Attack],
    threats: Sequence[ThreatModel],
    seed: int,
    batch_size: int,
    device: torch.device,
    search: Search | None = None,
    identity: Mapping[str, object] = MappingProxyType({}),
    draws: int = 1,
    random_network: bool = False,
) -> Measured:
    """Attack the images with every attack at every threat, here and now, and store nothing.

    `identity` and `search` are those of a run whose random numbers are wanted. Raises `BadInput` when the logits are
    not (N, K), not finite, or too few for the labels.
    """
    executor = Executor(model, search, batch_size, seed, draws, random_network)
    searched = search.info.identity if search else ""

    def work(step: Step) -> Work:
        return Work(None, step_name(step, identity, seed, searched, device.type), examples=False)

    plan = Plan(keys_of(images), attacks, threats, executor.stages, batch_size, work)
    compute(plan, Worker(executor, images, seed, device))
    return assemble(plan, attacks, threats, draws, random_network)


def step_name(step: Step, identity: Mapping[str, object], seed: int, search: object, device: str) -> str:
    """The name of a step's parts; see `work_name`."""
    return work_name(identity, step.stage_id, step.position, step.threat, seed, search, device)


def keys_of(images: Images) -> list[Key]:
    """What outcomes of these images belong to, in order."""
    return list(zip(images.ids, images.hashes, images.y.tolist(), strict=True))


def compute(plan: Plan, worker: Worker, progress: Progress = silent, patient: bool = True) -> bool:
    """Do the jobs that no process has done or is doing; whether the plan has then ended.

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
                plan.look()
                progress(*plan.done, f"{info_of(job.step.attack).label} {job.step.threat}")


def _done(job: Job, worker: Worker) -> bool:
    """Do a job, unless another process does it or has done it since; whether it was done here."""
    if job.work.run is None:
        worker.do(job)
        return True
    with claimed(job.work.run, f"{job.work.name}-{job.name}") as mine:
        if not mine or job.work.part(job.name) is not None:
            return False
        worker.do(job)
        return True
