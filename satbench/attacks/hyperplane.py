"""The Linf projection onto a hyperplane inside the pixel box, without sorting.

FAB (Croce & Hein 2020, arXiv 1907.02044, section 2.2) needs the smallest `level` for which moving every pixel by
`level`, or up to the box, reaches the plane. The reference sorts all pixels by their room in the box. Here Newton's
method finds the level, as in Condat's projection onto the simplex (2016, doi 10.1007/s10107-015-0946-6), and a bound on
all roundings proves which rows have the reference's bits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NEWTON_STEPS = 16  # four to six are usual; a row that needs more is left to the reference
FLOAT32, FLOAT64 = 2.0**-24, 2.0**-53  # relative rounding errors


def project_linf(
    points: Tensor, normals: Tensor, offsets: Tensor, reference: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """The steps from `points` (M, D) in [0, 1] to the planes `normals` (M, D) x = `offsets` (M,), all float32.

    On a CPU they have the bits that `reference(points, normals, offsets)` gives, for a reference that sorts, sums in
    float64 and rounds the sums to float32. It computes the rows on which a rounding error could decide.
    """
    steps, certain = _steps(points, normals, offsets)
    if not certain.all():
        left = (~certain).nonzero()[:, 0]
        rows = left.repeat(2)  # the sum of a single row may be split among threads, those of several rows are not
        steps[left] = reference(points[rows], normals[rows], offsets[rows])[: len(left)]
    return steps


def _steps(points: Tensor, normals: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The steps (M, D), and which rows are certain, bool (M,)."""
    surplus = (normals * points).sum(1) - offsets
    towards = normals.sign().mul_(torch.where(surplus >= 0, -1.0, 1.0)[:, None])  # the way that leads to the plane
    up = towards.clamp(min=0)
    room = torch.addcmul(up, points, up * 2 - 1, value=-1)  # 1 - x upwards, else x
    gap, size = surplus.abs(), normals.abs()
    reach = size * room
    whole = reach.sum(1)
    beyond = whole - gap  # how much of the reach is not needed; negative where the box ends before the plane
    level, share = gap / size.sum(1), torch.empty_like(room)
    for _ in range(NEWTON_STEPS):
        share = torch.sub(room, level[:, None], out=share).clamp_(min=0).sign_()  # 1 where the box does not stop
        before, level = level, ((reach * share).sum(1) - beyond) / (size * share).sum(1)
        if torch.equal(level, before):
            break
    slope, covered = ((part * share).sum(1, dtype=torch.float64) for part in (size, reach))
    exact = (covered - (whole.double() - gap.double())) / slope
    nearest = torch.sub(room, exact.float()[:, None], out=share).abs_().amin(1)
    doubt = FLOAT32 * (8 * whole / slope + 4 * exact) + (level - exact).abs()
    settled = (nearest > doubt) & _rounded(slope, room) & _rounded(covered, room)
    out_of_reach = beyond < 0
    level = ((gap + (covered.float() - whole)) / slope.float()).clamp_min(0)
    level = torch.where(out_of_reach, torch.inf, level)
    certain = (out_of_reach | settled) & (beyond.abs() > 64 * FLOAT32 * whole)
    return torch.minimum(room, level[:, None]).mul_(towards), certain


def _rounded(sums: Tensor, room: Tensor) -> Tensor:
    """Whether float64 sums over the rows of `room`, added up in any order, have one float32 value."""
    error = sums * (2 * room.shape[1] * FLOAT64)
    return (sums - error).float() == (sums + error).float()
