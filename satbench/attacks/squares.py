"""Random search over squares of signs, which needs no gradient.

A short form of Square (Andriushchenko et al. 2020, arXiv 1912.00049), which has other moves in L2 and L1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from satbench.numerics.threat import ThreatModel

HALVED_AT = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)  # of the queries: the squares' area, as in the paper

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]


def square_search(
    threat: ThreatModel, x: Tensor, best: Tensor, chances: Tensor, area: float, length: float, judge: Judge
) -> None:
    """Add one square at a time to the best point so far of each image, inside ball and box.

    x: float images (N, C, H, W). best: the points to start from, like `x`. chances: (N, Q, 2 + C) in [0, 1), the place
    of the square and its sign in each channel for each of Q queries, so that images do not depend on each other. area:
    of the first squares, as a share of the image. length: of a square in the threat's norm, in units of eps.
    judge: takes the points of the images still searched and returns the positions, int64 (n,), of those that are
    searched further and their best points (n, C, H, W).
    """
    ball, queries = threat.around(x), chances.shape[1]
    channels, height, width = x.shape[1:]
    for query in range(queries):
        if not len(best):
            break
        share = area / 2 ** sum(query > at * queries for at in HALVED_AT)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        values = side * side * channels
        added = length * threat.eps / {"Linf": 1, "L2": math.sqrt(values), "L1": values}[threat.norm]
        points = ball.project(best + squares(chances[:, query], (height, width), side) * added)
        left, best = judge(points)
        if len(left) < len(points):
            chances = chances[left]
            ball.keep(left)


def squares(chance: Tensor, shape: tuple[int, int], side: int) -> Tensor:
    """Squares of ±1 in images of zeros (N, C, *shape); `chance` (N, 2 + C) in [0, 1) says where, and each sign."""
    inside = []
    for axis, extent in enumerate(shape):
        first = (chance[:, axis] * (extent - side + 1)).long()[:, None]
        place = torch.arange(extent, device=chance.device)
        inside.append((place >= first) & (place < first + side))
    return signs(chance[:, 2:])[:, :, None, None] * (inside[0][:, None, :, None] & inside[1][:, None, None, :])


def signs(chance: Tensor) -> Tensor:
    """-1 or 1 like `chance`, which is uniform in [0, 1)."""
    return torch.where(chance < 0.5, -1, 1).to(chance.dtype)
