"""A random search over squares, without gradients: a short Square (Andriushchenko et al. 2020, arXiv 1912.00049)."""

import torch
from torch import Tensor

from satbench.numerics.threat import ThreatModel
from satbench.trust.subject import Subject

FIRST_SHARE = {"Linf": 0.8, "L2": 0.3, "L1": 0.3}  # of the image that the first squares cover
HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of all queries, as in the paper's schedule


def squares(
    subject: Subject, threat: ThreatModel, x: Tensor, y: Tensor, queries: int, draws: torch.Generator
) -> Tensor:
    """Which of the images (N, C, H, W) with labels (N,) fall within so many queries each, bool (N,).

    Starts at vertical stripes; a query adds one square of random place and colour to the best point so far, projects
    it onto ball and box, and keeps it where the margin grew. One generator serves all images.
    """
    fallen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    standing = torch.arange(len(x), device=x.device)
    stripes = _signs((len(x), x.shape[1], 1, x.shape[3]), draws, x)
    best, highest = x, torch.full((len(x),), -torch.inf, device=x.device)
    for query in range(queries):
        if not len(standing):
            break
        change = _square(x, threat, query / queries, draws) if query else threat.eps * stripes
        candidate = threat.project(x, best + change)
        margins = subject.margins(candidate, y)
        better = (margins > highest) & threat.contains(x, candidate)
        best = torch.where(better.view(-1, 1, 1, 1), candidate, best)
        highest = torch.where(better, margins, highest)
        left = highest <= 0
        fallen[standing[~left]] = True
        standing, x, y, best, highest = standing[left], x[left], y[left], best[left], highest[left]
    return fallen


def _square(x: Tensor, threat: ThreatModel, spent: float, draws: torch.Generator) -> Tensor:
    """One square an image, (N, C, H, W): as long as eps in L2 and L1, twice as high as eps in Linf."""
    n, channels, height, width = x.shape
    share = FIRST_SHARE[threat.norm] / 2 ** sum(spent > at for at in HALVED_AT)
    side = max(1, min(height, width, round((share * height * width) ** 0.5)))
    values = side * side * channels
    size = {"Linf": 2 * threat.eps, "L2": threat.eps / values**0.5, "L1": threat.eps / values}[threat.norm]
    top = torch.randint(height - side + 1, (n, 1), generator=draws).to(x.device)
    start = torch.randint(width - side + 1, (n, 1), generator=draws).to(x.device)
    down = torch.arange(height, device=x.device)
    across = torch.arange(width, device=x.device)
    in_rows = (down >= top) & (down < top + side)
    in_columns = (across >= start) & (across < start + side)
    inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    square: Tensor = size * _signs((n, channels, 1, 1), draws, x) * inside
    return square


def _signs(shape: tuple[int, ...], draws: torch.Generator, like: Tensor) -> Tensor:
    return (2 * torch.randint(2, shape, generator=draws) - 1).to(like)
