"""Computes a job: attacks some images, judges what comes back, counts the passes."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from satbench.data import Images
from satbench.evaluation.executor import Executor, Passes
from satbench.evaluation.judge import Judged
from satbench.evaluation.parts import Columns, Part
from satbench.evaluation.plan import Job
from satbench.numerics.seeding import PerSample, derive
from satbench.numerics.threat import distance

DISTANCES = {"distance_linf": "Linf", "distance_l2": "L2", "distance_l1": "L1"}


class Worker:
    """A network and images, ready for one job after another; what a job gives depends on no other job.

    `numerics` is the fingerprint of this machine's arithmetic, which every part carries.
    """

    def __init__(self, executor: Executor, images: Images, seed: int, device: torch.device, numerics: str = "") -> None:
        self.executor, self.images, self.seed, self.device = executor, images, seed, device
        self.numerics = numerics

    def do(self, job: Job) -> Part:
        """Compute a job and store its part. Raises `BadInput` for a network or an attack that fails on the images."""
        some = self.images.take(job.rows)
        ids, x, y = next(iter(some.batches(len(job.rows))))
        x, y = x.to(self.device), y.to(self.device)
        started = time.monotonic()
        with _listening() as notes:
            while True:
                torch.manual_seed(derive(self.seed, "model", job.work.name, ids[0]))  # for a model that draws numbers
                try:
                    columns, examples = self._clean(x, y) if job.step.stage is None else self._attacked(job, ids, x, y)
                    break
                except RuntimeError as error:
                    left = self.executor.halve(error, len(ids))
                    notes.append(f"memory ran out; {left} images at a time went through the network from then on")
            if any(columns["violation"]):
                notes.append(f"{job.step.stage} returned examples outside ball or box, which were not counted")
            if job.step.stage is not None and self.executor.search.estimated:
                notes.append(
                    f"pass counts of {job.step.stage} are uniform estimates: it calls the network, or parts of it, on "
                    "images that could not be assigned to those under attack"
                )
        known = {"sample_id": np.array(ids, object), "sample_hash": np.array(some.hashes, object)}
        known["label"] = y.cpu().numpy()
        seconds = time.monotonic() - started
        part = Part({**known, **columns}, seconds, tuple(dict.fromkeys(notes)), self.numerics)
        return job.work.keep(part, examples)

    def _clean(self, x: Tensor, y: Tensor) -> tuple[Columns, Tensor]:
        """What the network says of images as they are; a misclassified one is broken at no passes.

        Its share is 0, because it is never attacked, so it would not be one under attack.
        """
        seen = self.executor.clean(x, y)
        wrong = (seen.predictions != y).cpu().numpy()
        nothing = np.zeros(len(wrong), np.float32)
        columns = {
            "broken": wrong,
            "prediction": seen.predictions.cpu().numpy(),
            "margin": np.where(wrong, seen.margins.cpu().numpy(), np.nan).astype(np.float32),
            "correct_share": np.where(wrong, 0, seen.correct_shares.cpu().numpy()).astype(np.float32),
            **dict.fromkeys(DISTANCES, nothing),
            "fell_at": np.where(wrong, 0, -1),
            "forward": np.zeros(len(wrong), int),
            "backward": np.zeros(len(wrong), int),
            "bad_gradient": np.zeros(len(wrong), bool),
            "violation": np.full(len(wrong), "", object),
        }
        return columns, x[:0].float().cpu()

    def _attacked(self, job: Job, ids: tuple[str, ...], x: Tensor, y: Tensor) -> tuple[Columns, Tensor]:
        """What a stage did to images that are classified correctly, and the examples of the broken ones."""
        stage, threat, position = job.step.stage, job.step.threat, job.step.position
        assert stage is not None
        assert threat is not None
        streams = PerSample.of(self.seed, ids, "attack", *([position] if position else []))
        x_adv, seen, passes = self.executor.attack(stage, threat, x, y, streams, ids)
        columns = _outcomes(x, x_adv, y, seen, passes)
        broken = torch.tensor(columns["broken"], device=x_adv.device)
        return columns, x_adv[broken].float().cpu() if job.work.examples else x_adv[:0].float().cpu()


def _outcomes(x: Tensor, x_adv: Tensor, y: Tensor, seen: Judged, passes: Passes) -> Columns:
    """The columns of `parts.OUTCOMES` but for which images these are and where their examples lie."""
    broken = (seen.predictions != y).cpu() & torch.tensor([not violation for violation in seen.violations])
    return {
        "broken": broken.numpy(),
        "prediction": seen.predictions.cpu().numpy(),
        "margin": seen.margins.cpu().numpy(),
        "correct_share": seen.correct_shares.cpu().numpy(),
        **{name: distance(norm, x, x_adv).float().cpu().numpy() for name, norm in DISTANCES.items()},
        "fell_at": torch.where(broken, torch.where(passes.fell_at < 0, passes.forward, passes.fell_at), -1).numpy(),
        "forward": passes.forward.numpy(),
        "backward": passes.backward.numpy(),
        "bad_gradient": passes.bad_gradient.numpy(),
        "violation": np.array(seen.violations, object),
    }


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what the attacks' libraries say."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    logger, ear = logging.getLogger("satbench.attacks"), Ear(logging.INFO)
    level = logger.level
    logger.addHandler(ear)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
