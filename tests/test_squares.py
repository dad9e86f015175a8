import math

import pytest
import torch
from torch import Tensor

from satbench.attacks.squares import square_search
from satbench.numerics.threat import ORDERS, ThreatModel

FAR = {"Linf": 0.1, "L2": 0.5, "L1": 3.0}  # radii of which a whole square fits into the box around 0.5
AREA = 0.5  # of 12 x 10 pixels, so that the first squares have 8 pixels a side


def points(threat: ThreatModel, x: Tensor, chances: Tensor, length: float, kept: list[list[int]]) -> list[Tensor]:
    """The points that a search shows its judge, which never moves and after each query keeps `kept` of them."""
    shown: list[Tensor] = []
    left_over = iter(kept)

    def judge(candidates: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal x
        shown.append(candidates)
        left = torch.tensor(next(left_over, list(range(len(candidates)))), dtype=torch.int64)
        x = x[left]
        return left, x

    square_search(threat, x, x, chances, AREA, length, judge)
    return shown


@pytest.mark.parametrize("norm", ORDERS)
def test_a_square_is_as_long_as_asked_and_shrinks_with_the_queries(norm: str) -> None:
    threat = ThreatModel(norm, FAR[norm])
    x = torch.full((6, 3, 12, 10), 0.5)
    chances = torch.rand(6, 100, 5, generator=torch.Generator().manual_seed(0))
    shown = points(threat, x, chances, 0.5, [])
    assert len(shown) == 100
    for query, halved in ((0, 0), (1, 2), (3, 3), (6, 4), (99, 9)):  # halved at 0.1%, 0.5%, 2%, 5%, ... of 100
        delta = shown[query] - x
        side = max(1, round(math.sqrt(AREA / 2**halved * 120)))
        assert ((delta != 0).sum((2, 3)) == side**2).all()
        assert (delta.flatten(2).sign().sum(2).abs() == side**2).all()  # one sign in a channel
        lengths = torch.linalg.vector_norm(delta.flatten(1).double(), ORDERS[norm], dim=1)
        eps = torch.finfo(torch.float32).eps  # each of the values is rounded twice near 0.5
        slack = eps * {"Linf": 1, "L2": math.sqrt(3 * side**2), "L1": 3 * side**2}[norm]
        assert lengths.tolist() == pytest.approx([0.5 * threat.eps] * 6, abs=slack)


@pytest.mark.parametrize("norm", ORDERS)
def test_the_squares_of_an_image_do_not_depend_on_those_that_left(norm: str) -> None:
    threat = ThreatModel(norm, FAR[norm])
    draws = torch.Generator().manual_seed(1)
    x, chances = torch.rand(4, 1, 9, 9, generator=draws), torch.rand(4, 10, 3, generator=draws)
    together = points(threat, x, chances, 2.0, [[0, 1, 2, 3], [1, 3], [0, 1], [1], [0], []])
    assert [len(one) for one in together] == [4, 4, 2, 2, 1, 1]  # and nothing is asked once no image is left
    alone = points(threat, x[3:], chances[3:], 2.0, [])
    for mixed, own in zip(together, alone, strict=False):
        assert torch.equal(mixed[-1:], own)
        assert threat.contains(x[3:], own).all()
