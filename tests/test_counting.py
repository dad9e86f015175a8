"""The counting wrapper: passes image by image, the fall, and networks too large for the memory at hand."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from satbench.attacks import PGD, build_attack
from satbench.data import load_images
from satbench.evaluation import evaluate
from satbench.evaluation.counting import Counted
from satbench.numerics.seeding import PerSample, Randomness
from satbench.numerics.threat import ThreatModel

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
    PGD(steps=3, schedule="cosine", keep=keep)(
        network.watched, x, y, THREAT, PerSample.of(0, [str(i) for i in range(12)])
    )
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


class Normalised(nn.Module):
    """Takes images of any size; what it normalises for is its `model`."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Conv2d(1, 8, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
            self.model = nn.Sequential(*layers)

    def normalised(self, x: Tensor) -> Tensor:
        return (x - 0.3) / 0.4

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalised(x))
        return logits


def loss(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(logits, y, reduction="sum")


def by_autograd(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    given = x.clone().requires_grad_()
    return torch.autograd.grad(loss(logits(given), y), given)[0]


def of_each(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    def one(image: Tensor, label: Tensor) -> Tensor:
        return loss(model(image[None]), label[None])

    found: Tensor = torch.func.vmap(torch.func.grad(one))(x, y)
    return found


def at_scales(model: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([model(x / 2**i) for i in range(4)]).mean(0)


# how an attack may take its gradient, and with how many passes through the network
WAYS: dict[str, tuple[Callable[..., Tensor], int]] = {
    "resized": (lambda model, x, y: by_autograd(lambda z: model(functional.interpolate(z, scale_factor=2)), x, y), 1),
    "shifted": (lambda model, x, y: by_autograd(lambda z: model(z.roll((3, 3), (2, 3))), x, y), 1),
    "scaled": (lambda model, x, y: by_autograd(lambda z: at_scales(model, z), x, y), 4),
    "grad": (lambda model, x, y: torch.func.grad(lambda z: loss(model(z), y))(x), 1),
    "vmap": (of_each, 1),
    "child": (lambda model, x, y: by_autograd(lambda z: model.model(model.normalised(z)), x, y), 1),
    "forward": (lambda model, x, y: by_autograd(model.forward, x, y), 1),
    "keyword": (lambda model, x, y: by_autograd(lambda z: model(x=z), x, y), 1),
}


@dataclass(frozen=True)
class Adaptive:
    """Three steps along the sign of a gradient that is taken in one of `WAYS`."""

    way: str

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        x_adv = x
        for _ in range(3):
            x_adv = threat.ascend(x, x_adv, WAYS[self.way][0](model, x_adv, y), threat.eps / 2)
        return x_adv


@pytest.mark.one_in(4)
@pytest.mark.parametrize("way", WAYS)
def test_an_adaptive_attack_works_as_on_the_network_itself(way: str, tmp_path: Path) -> None:
    """Equal examples, every pass counted, and a note where the counts are not known image by image."""
    model, threat = Normalised().eval(), ThreatModel("Linf", 0.05)
    data = load_images("digits", "test").head(24)
    with torch.no_grad():
        data = replace(data, y=model(data.x).argmax(1))
    run = evaluate(model, tmp_path / "run", [Adaptive(way)], eps=threat.eps, dataset=data, search="plain", trust=False)
    x_adv = Adaptive(way)(model, data.x, data.y, threat, PerSample.of(0, data.ids))
    with torch.no_grad():
        broken = model(x_adv).argmax(1) != data.y
    assert 0 < broken.sum() < len(data)
    assert run.records["broken"].tolist() == broken.tolist()
    passes = 3 * WAYS[way][1]
    assert set(run.records["forward"]) == set(run.records["backward"]) == {passes}
    fell_at = run.records["fell_at"]
    if way == "scaled":  # the first of every four passes is on an image in the ball: that one is noticed
        assert set(fell_at[broken.numpy()]) <= {5, 9, passes}
        assert fell_at.min() == -1
    else:
        assert fell_at.tolist() == torch.where(broken, passes, -1).tolist()
    if way in ("shifted", "scaled"):
        assert run.manifest.notes == []
    else:
        (note,) = run.manifest.notes
        assert note.startswith(f"pass counts of Adaptive(way='{way}') are uniform estimates")


def test_an_attack_gets_the_users_own_network_in_all_but_name() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    watched = Counted(model, 10).watched
    assert isinstance(watched, nn.Sequential)
    assert [name for name, _ in watched.named_modules()] == [name for name, _ in model.named_modules()]
    assert watched[1] is model[1]
    assert [id(one) for one in watched.parameters()] == [id(one) for one in model.parameters()]
    watched.train(False)
    assert not model.training
    watched.temperature = 2.0
    assert model.temperature == 2.0


def test_a_copy_of_what_an_attack_gets_is_a_network_of_its_own(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, y, THREAT)
    changed = copy.deepcopy(network.watched)
    with torch.no_grad():
        changed[1].weight.zero_()
        torch.testing.assert_close(changed(x), changed[1].bias.expand(12, 3))
        assert not torch.equal(network.watched(x), changed(x))
    assert network.counts()[0].tolist() == [1] * 12


def test_copies_of_a_few_images_are_not_taken_for_other_images(images: tuple[Tensor, Tensor]) -> None:
    """Darkened images are all nearest to the darkest one."""
    x, y = images
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, y, THREAT)
    with torch.no_grad():
        network.watched(x[[7, 2, 9]])
        network.watched(x[[7, 2, 9]] / 16)
        assert network.counts()[0].tolist() == [0, 0, 2, 0, 0, 0, 0, 2, 0, 2, 0, 0]
        assert not network.estimated
        network.watched(x[:6] / 16)
    assert network.estimated
    assert int(network.counts()[0].sum()) == 6 + 12


def test_rows_that_are_surely_of_an_image_are_counted_for_it_beside_estimates(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    network = Counted(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3)), 100)
    network.watch(x, y, THREAT)
    with torch.no_grad():
        network.watched(x)
        network.watched(x[[3, 4]])
        assert not network.estimated
        network.watched(functional.interpolate(x[:6], scale_factor=2))
    assert network.estimated
    assert network.counts()[0].tolist() == [2, 2, 2, 3, 3, *[2] * 7]  # half a pass each, rounded up


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_rows_far_outside_the_ball_are_counted_for_the_image_that_they_are_nearest_to(norm: str) -> None:
    """As FAB's iterates are: all of them, then some, then others in their place."""
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, torch.zeros(12, dtype=torch.int64), ThreatModel(norm, 0.001))
    away = 0.25 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        network(x + away)
        for rows in ([7, 2, 9], [7, 2, 9], [9, 7, 2], [2, 3, 4]):
            network(x[rows] + away[rows])
    assert network.counts()[0].tolist() == [1, 1, 5, 2, 2, 1, 1, 4, 1, 4, 1, 1]
    assert not network.estimated


def test_a_row_in_the_ball_of_one_image_is_of_it_though_another_is_nearer() -> None:
    """As where PGD drops rows: the row is 0.2 from its image in all 64 pixels, and 0.05 from the other in 63."""
    x = torch.full((2, 1, 8, 8), 0.3)
    x[1] += 0.15
    x[1, 0, 0, 0] += 0.5
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, torch.zeros(2, dtype=torch.int64), ThreatModel("Linf", 0.2))
    with torch.no_grad():
        network(x)
        network(x[:1] + 0.2)
    assert network.counts()[0].tolist() == [2, 1]
    assert not network.estimated


def test_a_call_without_images_counts_nothing(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, y, THREAT)
    for _ in range(3):
        assert network.watched(x[:0]).shape == (0, 3)
    assert network.counts()[0].tolist() == [0] * 12


def test_backward_passes_are_counted_for_the_rows_of_their_own_call(images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    network = Counted(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 100)
    network.watch(x, y, THREAT)
    logits = []
    for rows in ([0, 1, 2], [3, 4], [5]):
        logits.append(network(x[rows].requires_grad_()))
    for one in (logits[2], logits[0], logits[1], logits[1]):
        one.sum().backward(retain_graph=True)
    assert network.counts()[1].tolist() == [1, 1, 1, 2, 2, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("norm", "far"), [("Linf", False), ("Linf", True), ("L2", False), ("L1", True)])
def test_a_pass_on_the_rows_of_the_call_before_costs_a_few_operations(norm: str, far: bool) -> None:
    """So that counting stays a small share of any evaluation; benchmarks/autoattack.py --counting measures it."""
    x = torch.rand(12, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 3))
    nn.init.constant_(model[1].weight, 0.0)  # no image is misclassified, wherever it moves
    network = Counted(model, 100)
    network.watch(x, model(x).argmax(1), ThreatModel(norm, 1e-3))
    moved = x + (0.01 if far else 0)

    with torch.no_grad():
        network.watched(moved)
    assert operations(network, moved) <= (22 if far else 14)


def test_misclassified_rows_outside_the_ball_cost_a_few_operations_more() -> None:
    """As in FAB, of which a row may come nearer to another image than to its own."""
    x = torch.rand(12, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 3))
    network = Counted(model, 100)
    network.watch(x, (model(x + 0.01).argmax(1) + 1) % 3, ThreatModel("Linf", 1e-3))
    moved = x + 0.01
    moved[0] = 0.45 * x[0] + 0.55 * x[1]
    assert operations(network, moved) <= 52
    assert network.counts()[0].tolist() == [1] * 12
    assert network.counts()[2].tolist() == [-1] * 12


class Operations(TorchDispatchMode):
    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen += 1
        return function(*args, **(kwargs or {}))


def operations(network: Counted, x: Tensor) -> int:
    """How many operations of a pass are the wrapper's."""
    with torch.no_grad():
        with Operations() as all_in_all:
            network.watched(x)
        with Operations() as bare:
            network.model(x)
    return all_in_all.seen - bare.seen


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["apgd-t", "fab-t", "square"])
def test_counts_of_autoattack_are_the_rows_that_went_through(name: str) -> None:
    data = load_images("digits", "test").head(8)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)).eval()
    with torch.no_grad():
        y = model(data.x).argmax(1)
    rows = 0

    def note(_: nn.Module, given: tuple[Tensor], __: Tensor) -> None:
        nonlocal rows
        rows += len(given[0])

    network = Counted(model, 100)
    model.register_forward_hook(note)
    threat = ThreatModel("Linf", 0.3 if name == "square" else 0.02)
    network.watch(data.x, y, threat)
    x_adv = build_attack(name, {})(network.watched, data.x, y, threat, PerSample.of(0, data.ids))
    forward, _, fell_at = network.counts()
    assert int(forward.sum()) == rows
    assert not network.estimated
    with torch.no_grad():
        broken = model(x_adv).argmax(1) != y
    assert torch.equal(fell_at > 0, broken)
