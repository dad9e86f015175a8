"""The counting wrapper: passes image by image, the fall, and networks too large for the memory at hand."""

import pytest
import torch
from torch import Tensor, nn

from satbench.attacks import PGD
from satbench.evaluation.counting import Counted
from satbench.seeding import PerSample
from satbench.threat import ThreatModel

pytestmark = pytest.mark.numeric

THREAT = ThreatModel("Linf", 0.1)


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(12) % 3


class Shy(nn.Module):
    """Linear, and sure of every image's own label by `bonus` if it is given; counts its own rows."""

    def __init__(self, y: Tensor, bonus: float) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        nn.init.normal_(self.linear.weight, std=0.01, generator=torch.Generator().manual_seed(1))
        self.labels, self.bonus, self.seen = y, bonus, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        logits: Tensor = self.linear(x.flatten(1))
        if len(x) == len(self.labels):
            logits = logits + self.bonus * nn.functional.one_hot(self.labels, 3)
        return logits


@pytest.mark.parametrize(("keep", "extra"), [("last", 0), ("best", 1)])
def test_an_attack_that_never_succeeds_takes_its_stated_passes(
    keep: str, extra: int, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    inner = Shy(y, 100.0)
    network = Counted(inner, 100)
    network.watch(x, y, THREAT)
    PGD(steps=3, schedule="cosine", keep=keep)(network, x, y, THREAT, PerSample.of(0, [str(i) for i in range(12)]))
    forward, backward, fell_at = network.counts()
    assert forward.tolist() == [3 + extra] * 12
    assert backward.tolist() == [3] * 12
    assert fell_at.tolist() == [-1] * 12
    assert inner.seen == int(forward.sum())


def test_rows_are_recognised_whatever_is_dropped_moved_or_repeated(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, y, THREAT)
    with torch.no_grad():
        network(x)
        network((x[[7, 2, 9]] + 0.05).clamp(0, 1))
        network(x[[7, 2, 9]])
        network(x[[7, 2, 5]])
        network(x[[4, 4, 4, 4]])
    expected = [1] * 12
    for row in (7, 2, 9, 7, 2, 9, 7, 2, 5):
        expected[row] += 1
    expected[4] += 4
    forward, backward, _ = network.counts()
    assert forward.tolist() == expected
    assert backward.tolist() == [0] * 12


def test_a_fall_counts_inside_ball_and_box_only(images: tuple[Tensor, Tensor]) -> None:
    x, _ = images
    sign = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        sign[1].weight.copy_(torch.stack([torch.ones(64), -torch.ones(64)]))
        sign[1].bias.copy_(torch.tensor([-32.0, 32.0]))
    y = sign(x).argmax(1)
    away = torch.where(y == 0, -1.0, 1.0).view(-1, 1, 1, 1)
    network = Counted(sign, 100)
    network.watch(x, y, THREAT)
    with torch.no_grad():
        network(x)
        network(x + away * 0.5)  # errs, but far outside
        network((x + away * 0.03).clamp(0, 1))
        network((x + away * 0.03).clamp(0, 1))
    fallen = sign((x + away * 0.03).clamp(0, 1)).argmax(1) != y
    assert 0 < fallen.sum() < 12
    assert network.counts()[2].tolist() == torch.where(fallen, 3, -1).tolist()


def test_a_network_that_gets_a_few_rows_at_a_time_answers_and_counts_alike(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 3))
    largest = 0

    def note(_: nn.Module, given: tuple[Tensor], __: Tensor) -> None:
        nonlocal largest
        largest = max(largest, len(given[0]))

    inner.register_forward_hook(note)
    results = []
    for at_once in (100, 5):
        largest = 0
        network = Counted(inner, at_once)
        network.watch(x, y, THREAT)
        given = x.clone().requires_grad_()
        logits = network(given)
        results.append((logits.detach(), torch.autograd.grad(logits.square().sum(), given)[0], *network.counts()))
        assert largest == min(at_once, 12)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
