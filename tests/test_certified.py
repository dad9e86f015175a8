"""A network with a certificate: no attack of the table, run through the harness, is ever reported below it.

The network is trained by interval bound propagation (Gowal et al. 2018, arXiv 1810.12715) in a few seconds; its
certificates come from interval arithmetic in float64, widened for what float32 may round.
"""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench import evaluate
from satbench.attacks import ATTACKS, Attack
from satbench.data import ImageSet, load_images
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.results.store import Run

pytestmark = pytest.mark.numeric

EPS = 0.1
N = 200
SLACK = 1e-4  # of a logit; float32 errs by some 1e-6 here
STEPS = 250
N_EXPENSIVE = 20
EXPENSIVE = ("apgd-t", "fab-t", "square")
LONG = ("autoattack", "cascade", "square")  # Square takes 5,000 queries
VARIANTS = [
    "pgd:loss=margin,restarts=3",
    "pgd:steps=40,step_size=0.005,init=zero",
    "pgd:loss=margin-targeted,n_targets=9",
    "pgd:steps=50,schedule=apgd",
    "foolbox:LinfDeepFoolAttack",
    "foolbox:LInfFMNAttack",
    "foolbox:LinfPGD",
]
Interval = tuple[Tensor, Tensor]


def widen(layer: nn.Module, centre: Tensor, radius: Tensor) -> Interval:
    """Centre and radius of an interval after a layer."""
    if isinstance(layer, nn.ReLU):
        low, high = (centre - radius).relu(), (centre + radius).relu()
        return (low + high) / 2, (high - low) / 2
    if isinstance(layer, nn.Linear):
        return layer(centre), functional.linear(radius, layer.weight.abs())
    if isinstance(layer, nn.Conv2d):
        spread = functional.conv2d(radius, layer.weight.abs(), None, layer.stride, layer.padding)
        return layer(centre), spread
    return layer(centre), layer(radius)


def lowest_gaps(net: nn.Sequential, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """A lower bound of the true logit minus each other one, over Linf ball and box, (N, K); the true class has 0."""
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    centre, radius = (low + high) / 2, (high - low) / 2
    for layer in net[:-1]:
        centre, radius = widen(layer, centre, radius)
    last = net[-1]
    weight, bias = last.weight[y][:, None] - last.weight, last.bias[y][:, None] - last.bias
    return torch.einsum("nkd,nd->nk", weight, centre) + bias - torch.einsum("nkd,nd->nk", weight.abs(), radius)


def certified(net: nn.Sequential, images: ImageSet, eps: float) -> Tensor:
    """Which images no example in the eps-ball can break, with the slack that the judge allows on ball and box."""
    wide = eps * (1 + 1e-5) + 2e-6
    with torch.no_grad():
        gaps = lowest_gaps(deepcopy(net).double(), images.x.double(), images.y, wide)
    return gaps.scatter(1, images.y[:, None], torch.inf).amin(1) > SLACK


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_images("digits", "test").head(N)


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    """Trained on the bounds alone, under a radius that grows to a little more than `EPS`."""
    train = load_images("digits", "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
    draw = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for step in range(STEPS):
        rows = torch.randperm(len(train), generator=draw)[:256]
        x, y = train.x[rows], train.y[rows]
        share = min(1.0, max(0.0, (step / STEPS - 0.1) / 0.6))
        gaps = lowest_gaps(net, x, y, 1.1 * EPS * share)
        loss = functional.cross_entropy(-gaps, y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 if step < 0.75 * STEPS else 1e-3
    return net.eval()


def measure(net: nn.Module, images: ImageSet, out: Path, attack: str | Attack, eps: float = EPS) -> Run:
    return evaluate(net, out, [attack], eps=eps, dataset=images, device="cpu", trust=False)  # type: ignore[arg-type]


def broken(run: Run) -> Tensor:
    return torch.tensor(run.records["broken"].to_numpy())


def test_the_bounds_hold_on_examples_and_grow_with_the_radius(net: nn.Sequential, images: ImageSet) -> None:
    previous = None
    for eps in (0.0, 0.02, EPS, 0.3):
        gaps = lowest_gaps(net, images.x, images.y, eps).detach()
        for seed in range(20):
            x = ThreatModel("Linf", eps).random_start(images.x, torch.Generator().manual_seed(seed))
            logits = net(x).detach()
            assert (logits.gather(1, images.y[:, None]) - logits >= gaps - SLACK).all()
        assert previous is None or (gaps <= previous + SLACK).all()
        previous = gaps
    exact = net(images.x).detach()
    torch.testing.assert_close(lowest_gaps(net, images.x, images.y, 0.0), exact.gather(1, images.y[:, None]) - exact)


def test_the_certificate_covers_half_of_the_images(net: nn.Sequential, images: ImageSet) -> None:
    assert certified(net, images, EPS).float().mean() >= 0.5
    assert (certified(net, images, EPS) <= certified(net, images, EPS / 2)).all()


@pytest.mark.one_in(16)
@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one in LONG else [], id=one)
        for one in [*sorted(ATTACKS.keys() - {"knn-guided"}), *VARIANTS]  # it is for no network with logits
    ],
)
def test_no_attack_is_reported_below_the_certificate(
    attack: str, net: nn.Sequential, images: ImageSet, tmp_path: Path
) -> None:
    some = images.head(N_EXPENSIVE if attack in EXPENSIVE else N)
    run = measure(net, some, tmp_path, attack)
    proven = certified(net, some, EPS)
    assert not (broken(run) & proven).any()
    assert (~broken(run)).float().mean() >= proven.float().mean()
    assert not run.records["violation"].any()
    assert (run.records["fell_at"] > 0).any(), "the attack broke nothing at all"


def test_a_certificate_for_less_is_refuted(net: nn.Sequential, images: ImageSet, tmp_path: Path) -> None:
    run = measure(net, images, tmp_path, "pgd:loss=margin-targeted,steps=20")
    assert (broken(run) & certified(net, images, EPS / 4)).any()


@dataclass(frozen=True)
class Cheat:
    """Hands in other digits: misclassified for sure, and far outside the ball."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        others = torch.stack([x[(y != label).nonzero()[0, 0]] for label in y])
        return others if threat.eps < 1 else x


def test_an_attack_that_leaves_the_ball_does_not_count(net: nn.Sequential, images: ImageSet, tmp_path: Path) -> None:
    cheat = Cheat()
    others = cheat(net, images.x, images.y, ThreatModel("Linf", EPS), torch.Generator())
    proven = certified(net, images, EPS)
    assert (net(others).argmax(1) != images.y)[proven].float().mean() > 0.5
    run = measure(net, images, tmp_path, cheat)
    assert not (broken(run) & proven).any()
    assert set(run.records["violation"]) == {"", "outside the ball"}
