"""FAB's projection in Linf without sorting: the bits of the reference's, which sorts."""

import pytest
import torch
from pyautoattack.fab_projections import projection_linf
from torch import Tensor

from satbench.attacks.hyperplane import project_linf

pytestmark = pytest.mark.numeric

PIXELS = {
    "uniform": lambda x: x,
    "box": lambda x: (3 * x - 1).clamp(0, 1),  # a third of them black, a third white
    "eight bits": lambda x: (x * 255).round() / 255,
    "one value": lambda x: torch.full_like(x, 0.25),
}


def planes(pixels: str, seed: int, size: int, count: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals with a few zeros, and offsets on both sides of the points, some out of the reach of the box."""
    source = torch.Generator().manual_seed(seed)
    points = PIXELS[pixels](torch.rand(count, size, generator=source))
    normals = torch.randn(count, size, generator=source) * torch.rand(count, size, generator=source)
    normals[:, ::7] = 0
    share = torch.randn(count, generator=source) ** 3
    return points, normals, (normals * points).sum(1) + normals.abs().sum(1) * share / 2


@pytest.mark.parametrize("size", [7, 25, 192, 1024, 3072])
@pytest.mark.parametrize("pixels", PIXELS)
def test_every_step_has_the_references_bits(pixels: str, size: int) -> None:
    left = 0

    def reference(*given: Tensor) -> Tensor:
        nonlocal left
        left += len(given[0]) // 2  # rows are asked for twice
        return projection_linf(*given)

    for seed in range(6):
        given = planes(pixels, seed, size)
        kept = [part.clone() for part in given]
        expected = projection_linf(*given)
        assert torch.equal(project_linf(*given, reference), expected)
        assert all(torch.equal(part, before) for part, before in zip(given, kept, strict=True))
        reached = ((given[0] + expected) * given[1]).sum(1) - given[2]
        assert 0 < (reached.abs() < 1e-3).sum() < len(expected)  # planes within reach, and others
    if pixels == "uniform":
        assert left <= 0.05 * 6 * 60


def test_rows_that_a_rounding_error_decides_are_the_references() -> None:
    points, normals, offsets = planes("box", 0, 64)
    through = (normals * points).sum(1)  # the points lie on their planes
    assert torch.equal(
        project_linf(points, normals, through, projection_linf), projection_linf(points, normals, through)
    )
    corners = normals.clamp(min=0).sum(1)  # planes that touch the box in a corner
    for at in (corners, torch.nextafter(corners, torch.tensor(torch.inf)), torch.nextafter(corners, through)):
        assert torch.equal(project_linf(points, normals, at, projection_linf), projection_linf(points, normals, at))
    for seed in range(20):  # the last moved pixels come to the side of the box just when the plane is reached
        points, normals, _ = planes("eight bits", seed, 1024)
        room = torch.where(normals > 0, points, 1 - points)
        at = (normals * (points - normals.sign() * room.clamp(max=51 / 255))).sum(1)
        assert torch.equal(project_linf(points, normals, at, projection_linf), projection_linf(points, normals, at))
    points, normals, offsets = planes("box", 0, 64)
    normals[::2] = 0
    for at in (offsets, torch.zeros_like(offsets), torch.full_like(offsets, 1e10)):
        torch.testing.assert_close(
            project_linf(points, normals, at, projection_linf),
            projection_linf(points, normals, at),
            rtol=0,
            atol=0,
            equal_nan=True,
        )


def test_a_single_plane() -> None:
    points, normals, offsets = (part[:1] for part in planes("uniform", 1, 1024))
    found = project_linf(points, normals, offsets, projection_linf)
    assert torch.equal(found, projection_linf(points, normals, offsets))
