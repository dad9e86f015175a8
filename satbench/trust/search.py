"""Searches for examples that share no loss, start or step with PGD's defaults; each judges every point it visits.

A point counts where the network errs on it and ball and box contain it.
"""

import math

import torch
from torch import Tensor

from satbench.attacks.losses import likeliest_wrong
from satbench.attacks.squares import signs, square_search
from satbench.data import Images
from satbench.numerics.seeding import uniform
from satbench.numerics.threat import ThreatModel
from satbench.trust.subject import Counting, Subject

FIRST_STEP = 1.0  # of eps, falling to 0 along half a cosine
AREA = {"Linf": 0.8, "L2": 0.3, "L1": 0.3}  # of the first squares, as a share of the image
SQUARE = {"Linf": 2.0, "L2": 1.0, "L1": 1.0}  # length of a square in the threat's norm, in units of eps
MEAN_OF, MEAN_PIXELS = 1000, 2**24  # images, and pixel values of them, whose means stand for their classes


def class_means(images: Images) -> tuple[Tensor, Tensor]:
    """The mean image of every class among the first images, (K, C, H, W), and these classes, int64 (K,)."""
    shown = images.head(min(MEAN_OF, max(1, MEAN_PIXELS // math.prod(images.shape)), len(images)))
    classes, rows = torch.unique(shown.y, return_inverse=True)
    total, at = torch.zeros(len(classes), *images.shape), 0
    for _, x, _ in shown.batches(100):
        total.index_add_(0, rows[at : at + len(x)], x)
        at += len(x)
    return total / torch.bincount(rows).view(-1, 1, 1, 1), classes


def between_means(
    subject: Subject, threat: ThreatModel, x: Tensor, y: Tensor, means: Tensor, classes: Tensor
) -> Tensor:
    """Which images fall to one step of length eps from their class's mean towards that of another, bool (N,).

    The other class is the one whose mean is nearest to the image. An image whose own class has no mean stands in for
    it. Takes one pass an image and no gradient.
    """
    same = y[:, None] == classes
    own = torch.where(same.any(1).view(-1, 1, 1, 1), means[same.long().argmax(1)], x)
    other = torch.cdist(x.flatten(1), means.flatten(1)).masked_fill(same, torch.inf).argmin(1)
    point = threat.ascend(x, x, means[other] - own, threat.eps)
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


def random_squares(
    subject: Subject, threat: ThreatModel, x: Tensor, y: Tensor, queries: int, draws: torch.Generator
) -> Tensor:
    """Which images fall within `queries` passes of a random search over squares, bool (N,); see `square_search`.

    Starts at vertical stripes and follows the margin alone.
    """
    broken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    standing, best = torch.arange(len(x), device=x.device), x.clone()
    highest = torch.full((len(x),), -torch.inf, device=x.device)

    def judge(points: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal standing
        margins = subject.margins(points, y[standing])
        better = (margins > highest[standing]) & threat.contains(x[standing], points)
        best[standing[better]], highest[standing[better]] = points[better], margins[better]
        left = (highest[standing] <= 0).nonzero()[:, 0]
        broken[standing], standing = highest[standing] > 0, standing[left]
        return left, best[standing]

    if len(x):
        judge(threat.project(x, x + threat.eps * signs(uniform(x[:, :, :1], draws))))
    start = x[standing]
    chances = uniform(start.new_empty(len(start), queries - 1, 2 + x.shape[1]), draws)
    square_search(threat, start, best[standing], chances, AREA[threat.norm], SQUARE[threat.norm], judge)
    return broken


def _errs(logits: Tensor, threat: ThreatModel, x: Tensor, point: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) != y) & threat.contains(x, point)
