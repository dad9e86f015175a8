"""Searches for examples that share no loss, start or step with PGD's defaults; each judges every point it visits.

A point counts where the network errs on it and ball and box contain it.
"""

import math

import torch
from torch import Tensor

from satbench.attacks.losses import likeliest_wrong
from satbench.data import Images
from satbench.seeding import uniform
from satbench.threat import ThreatModel
from satbench.trust.subject import Counting, Subject

FIRST_STEP = 1.0  # of eps, falling to 0 along half a cosine
MEAN_OF = 1000  # images at most whose means stand for their classes


def class_means(images: Images) -> tuple[Tensor, Tensor]:
    """The mean image of every class that the first images show, (K, C, H, W), and the classes, int64 (K,)."""
    shown = images.head(min(MEAN_OF, len(images)))
    total, seen = torch.zeros(int(images.y.max()) + 1, *images.shape), torch.zeros(int(images.y.max()) + 1)
    for _, x, y in shown.batches(100):
        total.index_add_(0, y, x)
        seen += torch.bincount(y, minlength=len(seen))
    classes = seen.nonzero()[:, 0]
    return total[classes] / seen[classes].view(-1, 1, 1, 1), classes


def between_means(
    subject: Subject, threat: ThreatModel, x: Tensor, y: Tensor, means: Tensor, classes: Tensor
) -> Tensor:
    """Which images fall to one step of length eps from their class's mean towards that of another, bool (N,).

    The other class is the one whose mean is nearest to the image. Takes one pass an image and no gradient.
    """
    distance = torch.cdist(x.flatten(1), means.flatten(1))
    other = distance.masked_fill(y[:, None] == classes, torch.inf).argmin(1)
    own = (y[:, None] == classes).long().argmax(1)
    point = threat.ascend(x, x, means[other] - means[own], threat.eps)
    return _errs(subject.answer(point), threat, x, point, y)


def ascent(
    subject: Subject,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    steps: int,
    targets: int,
    draws: torch.Generator,
    spread: float = 0.0,
    source: Counting | None = None,
) -> Tensor:
    """Which images fall to so many steps towards each of the likeliest wrong classes, bool (N,).

    Each ascends the margin of its class from the image itself. Gradients are taken at random points up to `spread` eps
    from the iterate, which averages over discontinuities; one that is NaN or infinite is 0 there. Takes
    `ascent_passes` an image. With `source` it follows that network's gradient, and every point is still judged on the
    subject's own, by another forward pass.
    """
    fallen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for aim in likeliest_wrong(subject.answer(x), y, targets).T if len(x) else ():
        standing, place = (~fallen).nonzero()[:, 0], x[~fallen]
        for step in range(steps + 1):
            if not len(standing):
                break
            clean, labels = x[standing], y[standing]
            noise = spread * threat.eps * (2 * uniform(clean, draws) - 1)
            point = threat.project(clean, place + noise) if spread else place
            if step == steps or source is not None:
                logits = subject.answer(point)
            if step < steps:
                searched, slope = subject.slope(point, labels, aim[standing], source)
                logits = searched if source is None else logits
                length = FIRST_STEP * threat.eps * (1 + math.cos(math.pi * step / steps)) / 2
                place = threat.ascend(clean, place, slope, length)
            hit = _errs(logits, threat, clean, point, labels)
            fallen[standing[hit]] = True
            standing, place = standing[~hit], place[~hit]
    return fallen


def ascent_passes(steps: int, targets: int) -> int:
    """Forward and backward passes that an ascent takes for an image that stands."""
    return 1 + targets * (2 * steps + 1)


def _errs(logits: Tensor, threat: ThreatModel, x: Tensor, point: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) != y) & threat.contains(x, point)
