"""The gradient loop against plain loops, literal transcriptions of its papers, and linear networks."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from attack_contract import streams
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import Tensor, nn
from torch.nn import functional

from satbench import load_model
from satbench.attacks.gradient import PGD, fgsm, sat_pgd
from satbench.attacks.losses import LOSSES, likeliest_wrong
from satbench.attacks.schedules import checkpoints
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.numerics.seeding import PerSample, generator, rows
from satbench.numerics.threat import ThreatModel

pytestmark = pytest.mark.numeric

NORMS = ("Linf", "L2", "L1")
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}
HALF = 200
EPS = {"Linf": 0.04, "L2": 0.2, "L1": 0.6}
N = 420


@pytest.fixture(scope="module")
def blobs() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network of five classes in float64, and 420 images of it, some in the wrong."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.arange(N) % 5
        x = (0.3 + 0.4 * torch.rand(5, 1, 6, 6)[y] + 0.14 * torch.randn(N, 1, 6, 6)).clamp(0, 1)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), nn.Flatten()
        ).append(nn.Linear(32, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
        for _ in range(25):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y, label_smoothing=0.1).backward()
            optimizer.step()
    return model.eval().double(), x.double(), y


def standing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1) == y


def rows_passed(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Tensor, list[int]]:
    """What the attack returns, and the batch size of every forward pass."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    x_adv = attack(model, x, y, threat, streams(len(x)))
    handle.remove()
    return x_adv, seen


def gradient(model: nn.Module, x: Tensor, loss: Any) -> tuple[Tensor, Tensor]:
    point = x.detach().requires_grad_()
    value = loss(model(point))
    return torch.autograd.grad(value.sum(), point)[0], value.detach()


def plain_any_iterate(attack: PGD, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Which images stand where every iterate of every restart is judged and nothing ever leaves the batch."""
    randomness, stands = streams(len(x)), torch.ones(len(x), dtype=torch.bool)
    for _ in range(attack.restarts):
        x_adv = x.clone()
        x_adv[stands] = threat.random_start(x[stands], rows(randomness, stands.nonzero()[:, 0]))
        for _ in range(attack.steps):
            stands &= standing(model, x_adv, y)
            grad, _ = gradient(model, x_adv, lambda logits: functional.cross_entropy(logits, y, reduction="none"))
            x_adv = torch.min(torch.max(x_adv + attack.step_size * grad.sign(), x - threat.eps), x + threat.eps).clamp(
                0, 1
            )
        stands &= standing(model, x_adv, y)
    return stands


@pytest.mark.one_in(6)
@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_active_set_nor_cycle_exit_changes_a_result(blobs, restarts: int, dtype: torch.dtype) -> None:
    """All 420 flags of a plain loop, for far fewer passes."""
    model, x, y = blobs
    model, x, threat = model.to(dtype), x.to(dtype), ThreatModel("Linf", EPS["Linf"])
    attack = PGD(steps=60, step_size=threat.eps / 6, restarts=restarts)
    x_adv, passed = rows_passed(attack, model, x, y, threat)
    found, expected = standing(model, x_adv, y), plain_any_iterate(attack, model, x, y, threat)
    model.double()
    assert 100 < expected.sum() < 350
    assert (found != expected).sum() == 0
    assert sum(passed) < 0.6 * 61 * restarts * int(expected.sum())


def test_what_a_cycle_leaves_is_the_point_of_highest_loss(blobs) -> None:
    """Momentum too small to act keeps all samples to the end, and must end with the same loss for each."""
    model, x, y = blobs
    threat = ThreatModel("Linf", EPS["Linf"])
    attack = PGD(steps=60, step_size=threat.eps / 6)
    found, passed = rows_passed(attack, model, x, y, threat)
    held, all_passed = rows_passed(replace(attack, momentum=1e-300), model, x, y, threat)
    assert sum(passed) < 0.6 * sum(all_passed)
    torch.testing.assert_close(found, held, rtol=0, atol=1e-12)


class Flat(nn.Module):
    """No slope at all, so every iterate repeats; `wrong_from` is the pass at which the answer turns wrong."""

    def __init__(self, wrong_from: int, noise: float) -> None:
        super().__init__()
        self.wrong_from, self.noise, self.passes = wrong_from, noise, 0
        self.source = generator(0)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        flat = torch.tensor([2.0, 3.0 if self.passes >= self.wrong_from else 1.0]).expand(len(x), 2)
        return flat + 0 * x.flatten(1)[:, :2] + self.noise * torch.rand(len(x), 2, generator=self.source)


def test_an_iterate_that_repeats_ends_the_restart_unless_the_output_is_random() -> None:
    x, y = torch.rand(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64)
    for noise, passes, stand in ((0.0, 3, 6), (1e-4, 8, 0)):
        model = Flat(wrong_from=8, noise=noise)
        x_adv = PGD(steps=9)(model, x, y, ThreatModel("Linf", 0.1), streams(6))
        assert model.passes == passes
        model.passes = 7 if stand == 0 else 0
        assert standing(model, x_adv, y).sum() == stand


class Staircase(nn.Module):
    """Answers in steps of 0.25 of the first pixel, with the slope of the pixel itself."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, :1]
        stepped = pixel + ((4 * pixel).floor() / 4 - pixel).detach()
        return torch.cat([torch.full_like(pixel, 0.6), stepped], 1)


def test_a_loss_that_repeats_while_the_image_moves_ends_nothing() -> None:
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    x_adv = PGD(steps=20, step_size=0.02, init="zero")(Staircase(), x, y, ThreatModel("Linf", 0.4), streams(3))
    assert not standing(Staircase(), x_adv, y).any()


def test_a_repeating_sample_comes_back_for_the_next_restart() -> None:
    x, y = torch.rand(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64)
    assert rows_passed(PGD(steps=9, restarts=3), Flat(99, 0.0), x, y, ThreatModel("Linf", 0.1))[1] == [6] * 9


STATEFUL: list[dict[str, Any]] = [
    {"steps": 30},
    {"steps": 12, "momentum": 0.9},
    {"steps": 12, "schedule": "cosine", "momentum": 0.5, "restarts": 2},
    {"steps": 30, "schedule": "apgd", "restarts": 2},
    {"steps": 20, "schedule": "apgd", "loss": "dlr-targeted", "n_targets": 3},
    {"steps": 8, "loss": "margin-targeted", "restarts": 2},
    {"steps": 8, "loss": "kl", "init": "gaussian"},
    {"steps": 5, "loss": "kl", "keep": "last", "momentum": 1.0},
]


def fits(params: dict[str, Any], norm: str) -> bool:
    return params.get("schedule") != "apgd" or norm != "L1"


@pytest.mark.one_in(25)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("params", STATEFUL, ids=lambda params: "-".join(map(str, params.values())))
def test_results_do_not_depend_on_the_batch(blobs, params: dict[str, Any], norm: str) -> None:
    if not fits(params, norm):
        return
    model, x, y = blobs
    attack, threat, randomness = PGD(**params), ThreatModel(norm, EPS[norm]), streams(64)
    x, y = x[:64], y[:64]
    whole = attack(model, x, y, threat, randomness)
    randomness = streams(64)
    parts = [
        attack(model, x[i : i + 7], y[i : i + 7], threat, PerSample(randomness.generators[i : i + 7]))
        for i in range(0, 64, 7)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-7)
    assert threat.contains(x, whole).all()
    assert 5 < standing(model, whole, y).sum() < 60


def momentum_by_hand(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, decay: float, cosine: bool
) -> Tensor:
    """MI-FGSM, Dong et al. 2018, algorithm 1."""
    total, point, step = torch.zeros_like(x), x, 2.5 * eps / steps
    for t in range(steps):
        grad, _ = gradient(model, point, lambda logits: functional.cross_entropy(logits, y, reduction="none"))
        total = decay * total + torch.stack([one / one.abs().sum() for one in grad])
        length = step * (1 + math.cos(math.pi * t / steps)) / 2 if cosine else step
        point = (x + (point + length * total.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return point


@pytest.mark.parametrize(("decay", "cosine"), [(1.0, False), (0.7, False), (0.7, True), (0.0, True)])
def test_momentum_and_cosine_follow_their_formulas(blobs, decay: float, cosine: bool) -> None:
    model, x, y = blobs
    attack = PGD(7, 0.25 / 7, init="zero", keep="last", momentum=decay, schedule="cosine" if cosine else "fixed")
    found = attack(model, x, y, ThreatModel("Linf", 0.1), streams(N))
    expected = momentum_by_hand(model, x, y, 0.1, 7, decay, cosine)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_the_checkpoints_of_apgd() -> None:
    """Of 100 steps as in the paper's section 3; p_j N rounded up for others, without repeats."""
    assert checkpoints(100) == (22, 41, 57, 70, 80, 87, 93, 99)
    assert checkpoints(10) == (3, 5, 6, 7, 8, 9, 10)
    for steps in (1, 13, 50, 75, 1000):
        share, before, points = 0.22, 0.0, set()
        while share <= 1 + 1e-12:
            points.add(math.ceil(round(share * steps, 9)))
            share, before = share + max(share - before - 0.03, 0.06), share
        assert checkpoints(steps) == tuple(sorted(points))


class Rounded(nn.Module):
    """Logits to multiples of 2^-24, the gradient of the unrounded ones: the same bits in a batch of any size."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return logits + ((logits * 2**24).round() / 2**24 - logits).detach()


def apgd_by_hand(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, threat: ThreatModel, steps: int) -> Tensor:
    """Croce & Hein 2020, algorithm 1, for one image; returns the point of largest margin loss.

    A tie in condition 1 halves, as in the authors' code; the paper has a strict inequality.
    """

    def loss(logits: Tensor) -> Tensor:
        return LOSSES["margin"](logits, y)

    def clip(z: Tensor) -> Tensor:
        if threat.norm == "Linf":
            return (x + (z - x).clamp(-threat.eps, threat.eps)).clamp(0, 1)
        length = (z - x).norm()
        return (x + (z - x) * min(1.0, threat.eps / length.item())).clamp(0, 1)

    def along(grad: Tensor) -> Tensor:
        return grad.sign() if threat.norm == "Linf" else grad / grad.norm()

    step, marks = 2 * threat.eps, (0, *checkpoints(steps))
    grad, first = gradient(model, start, loss)
    point = [start, clip(start + step * along(grad))]
    value = [first.item(), gradient(model, point[1], loss)[1].item()]
    best = start if value[0] > value[1] else point[1]
    highest = max(value)
    checked_step, checked_value = step, value[0]
    for k in range(1, steps):
        if k in marks:
            before = marks[marks.index(k) - 1]
            rises = sum(value[i + 1] > value[i] for i in range(before, k))
            idle = checked_step == step and checked_value == highest and before > 0
            checked_step, checked_value = step, highest
            if rises <= 0.75 * (k - before) or idle:
                step /= 2
                point[k] = best
        grad, _ = gradient(model, point[k], loss)
        z = clip(point[k] + step * along(grad))
        previous = point[k - 1]
        point.append(clip(point[k] + 0.75 * (z - point[k]) + 0.25 * (point[k] - previous)))
        value.append(gradient(model, point[-1], loss)[1].item())
        if value[-1] > highest:
            best, highest = point[-1], value[-1]
    return best


@pytest.mark.one_in(2)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_follows_its_paper(blobs, norm: str) -> None:
    """With losses that do not depend on the batch: whether a loss rose by its last bit decides a step size."""
    model, x, y = Rounded(blobs[0]), *blobs[1:]
    threat = ThreatModel(norm, EPS[norm] / 2)
    for steps in (9, 50):
        attack = PGD(steps=steps, loss="margin", schedule="apgd", init="zero")
        x_adv = attack(model, x[:30], y[:30], threat, streams(30))
        stand = standing(model, x_adv, y[:30]).nonzero()[:, 0].tolist()
        assert 8 < len(stand) < 30
        for i in stand[:8]:
            one = slice(i, i + 1)
            expected = apgd_by_hand(model, x[one], y[one], x[one], threat, steps)
            torch.testing.assert_close(x_adv[one], expected, rtol=0, atol=1e-6)


def sat_by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: int, steps: int, noise: Tensor) -> Tensor:
    """The released attacker: pixels in 0..255 as p * 2/255 - 1, eps and step in units of 2/255, noise in [-1, 1)."""
    scale = 2 / 255
    radius, step = eps * scale, max(1.0, eps / steps) * scale
    image = 255 * x * scale - 1
    lower, upper = (image - radius).clamp_min(-1), (image + radius).clamp_max(1)
    point = image + radius * noise
    for _ in range(steps):
        grad, _ = gradient(model, point, lambda logits: functional.cross_entropy(logits, y, reduction="none"))
        point = torch.minimum(torch.maximum(point + step * grad.sign(), lower), upper)
    return (point + 1) / 2


class Centred(nn.Module):
    """The same network for pixels in [-1, 1]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x + 1) / 2)


@pytest.mark.parametrize(("eps", "steps"), [(4, 50), (4, 2), (4, 1), (30, 10)])
def test_the_sat_preset_is_the_released_attacker(blobs, eps: int, steps: int) -> None:
    model, x, y = blobs
    x, y = x[:100], y[:100]
    first: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda module, inputs: first.append(inputs[0].detach()))
    found = sat_pgd(steps)(model, x, y, ThreatModel("Linf", eps / 255), streams(100))
    handle.remove()
    assert len(first) == steps
    noise = (first[0] - x) * 255 / eps
    assert noise.abs().max() <= 1 + 1e-9
    assert (first[0] < 0).any()
    assert (first[0] > 1).any()
    assert noise.var().item() == pytest.approx(1 / 3, rel=0.1)
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(found, sat_by_hand(Centred(model), x, y, eps, steps, noise), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        (PGD(), "PGD(steps=10, step_size=None, loss='ce', init='uniform', restarts=1, keep='best')"),
        (fgsm(), "PGD(steps=1, step_size=None, loss='ce', init='zero', restarts=1, keep='best')"),
        (
            sat_pgd(),
            "PGD(steps=50, step_size='sat', loss='ce', init='uniform-unclipped', restarts=1, keep='last')",
        ),
        (
            PGD(momentum=0.5, schedule="cosine", loss="margin-targeted", n_targets=3),
            "PGD(steps=10, step_size=None, loss='margin-targeted', init='uniform', restarts=1, keep='best', "
            "momentum=0.5, schedule='cosine', n_targets=3)",
        ),
    ],
)
def test_an_identity_shows_new_fields_only_where_set(attack: PGD, text: str) -> None:
    assert repr(attack) == text
    assert eval(text, {"PGD": PGD}) == attack


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"momentum": -0.1}, "momentum of an attack is -0.1; give a number from 0 to 1"),
        ({"momentum": True}, "momentum of an attack is True"),
        ({"momentum": math.nan}, "momentum of an attack is nan"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'.*did you mean cosine"),
        ({"n_targets": 0, "loss": "dlr-targeted"}, "n_targets of an attack is 0"),
        ({"n_targets": 3}, "n_targets is for a targeted loss, not 'ce'"),
        ({"step_size": "fast"}, "step_size of an attack is 'fast'"),
        ({"keep": "last", "loss": "margin-targeted"}, "n_targets=1"),
        ({"keep": "last", "schedule": "apgd"}, "use keep='best'"),
        ({"init": "uniform-unclipped"}, "use keep='last'"),
        ({"schedule": "apgd", "momentum": 0.5}, "leave out momentum"),
        ({"schedule": "apgd", "step_size": 0.1}, "leave out momentum and step_size"),
        ({"loss": "kl", "init": "zero"}, "use init='gaussian'"),
    ],
)
def test_combinations_without_sense_are_refused_in_a_line(params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        PGD(**params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("params", "norm", "message"),
    [
        ({"schedule": "apgd"}, "L1", "schedule='apgd' is for Linf and L2"),
        ({"step_size": "sat"}, "L2", "step_size='sat' is for Linf, not L2"),
        ({"init": "uniform-unclipped", "keep": "last"}, "L1", "init='uniform-unclipped' is for Linf, not L1"),
    ],
)
def test_what_a_norm_does_not_have_is_refused(blobs, params: dict[str, Any], norm: str, message: str) -> None:
    model, x, y = blobs
    with pytest.raises(BadInput, match=message):
        PGD(**params)(model, x, y, ThreatModel(norm, 0.1), streams(N))


def test_targeted_dlr_names_the_way_out_for_three_classes() -> None:
    x, y = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(BadInput, match=r"at least 4 classes, the model has 3; use loss=margin-targeted"):
        PGD(loss="dlr-targeted")(model, x, model(x).argmax(1), ThreatModel("Linf", 0.1), streams(4))
    assert PGD(loss="margin-targeted")(model, x, y, ThreatModel("Linf", 0.1), streams(4)).shape == x.shape


def test_targets_are_the_likeliest_wrong_classes_in_order() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    y = torch.tensor([0, 2, 0])
    assert likeliest_wrong(logits, y, 9).tolist() == [[2, 1, 3], [0, 1, 3], [3, 2, 1]]
    assert likeliest_wrong(logits, y, 1).tolist() == [[2], [0], [3]]


@pytest.mark.parametrize(("n_targets", "restarts", "tried"), [(1, 1, 1), (2, 3, 2), (4, 1, 4), (9, 2, 4)])
def test_each_target_has_its_own_restarts_after_one_clean_pass(
    blobs, n_targets: int, restarts: int, tried: int
) -> None:
    model, x, y = blobs
    right = standing(model, x, y).nonzero()[:20, 0]
    attack = PGD(steps=3, momentum=0.5, loss="margin-targeted", n_targets=n_targets, restarts=restarts)
    _, passed = rows_passed(attack, model, x[right], y[right], ThreatModel("Linf", 1e-4))
    assert passed == [20] * (1 + tried * restarts * 4)


@pytest.mark.parametrize("loss", ["margin-targeted", "dlr-targeted"])
def test_a_targeted_search_goes_where_it_is_told(loss: str) -> None:
    """Class 1 is likelier but out of reach, class 2 within it: one target is not enough, two are."""
    weight = torch.tensor([[0.0, 0.0], [0.0, 0.1], [1.0, 0.0], [0.0, 0.0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4))
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(torch.tensor([0.0, -0.1, -0.65, -5.0]))
    x, y = torch.full((8, 1, 1, 2), 0.5), torch.zeros(8, dtype=torch.int64)
    for n_targets, stand in ((1, 8), (2, 0)):
        attack = PGD(steps=10, init="zero", loss=loss, n_targets=n_targets)
        assert standing(model, attack(model, x, y, ThreatModel("Linf", 0.2), streams(8)), y).sum() == stand


def test_a_clean_mistake_costs_a_targeted_search_one_pass(blobs) -> None:
    model, x, y = blobs
    wrong = (y + 1) % 5
    stand = standing(model, x, wrong)
    x_adv, passed = rows_passed(PGD(loss="margin-targeted"), model, x[~stand], wrong[~stand], ThreatModel("Linf", 0.1))
    assert len(passed) == 1
    assert torch.equal(x_adv, x[~stand])


def test_kl_is_the_inner_maximisation_of_trades(blobs) -> None:
    """From a Gaussian start of 0.001, on the sum over classes of p log(p / q), with one clean pass before."""
    model, x, y = blobs
    threat, seen = ThreatModel("Linf", 0.1), []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    attack = PGD(steps=4, step_size=0.03, loss="kl", init="gaussian", keep="last")
    found = attack(model, x, y, threat, streams(N))
    handle.remove()
    assert len(seen) == 5
    assert torch.equal(seen[0], x)
    assert 0.0005 < (seen[1] - x)[(x > 0.1) & (x < 0.9)].std() < 0.0015
    with torch.no_grad():
        p = model(x).softmax(1)
    point = seen[1]
    for _ in range(4):
        grad, _ = gradient(model, point, lambda logits: (p * (p / logits.softmax(1)).log()).sum(1))
        point = (x + (point + 0.03 * grad.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    torch.testing.assert_close(found, point, rtol=0, atol=1e-9)


class Cracked(nn.Module):
    """A linear network whose gradient is NaN for images with a bright first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        dark = torch.where(flat[:, :1] > 0.5, flat[:, :1] - flat[:, :1].detach(), torch.ones_like(flat[:, :1]))
        return self.inner(flat) + 0 * dark.sqrt()


def test_a_gradient_that_is_nan_stops_its_own_image_alone() -> None:
    """Where iterates are judged it counts as 0; with keep='last' the image comes back as NaN, which no check passes."""
    model, threat = Cracked(), ThreatModel("Linf", 0.1)
    x = torch.full((5, 1, 2, 2), 0.2)
    x[1:3, 0, 0, 0] = 0.8
    y = model(x).argmax(1)
    healthy, spoiled = [0, 3, 4], [1, 2]
    for params in ({}, {"momentum": 0.5}, {"schedule": "apgd"}, {"loss": "margin-targeted"}, {"eot": 2}):
        x_adv = PGD(**params)(model, x, y, threat, streams(5))
        sound = PGD(**params)(nn.Sequential(nn.Flatten(), model.inner), x, y, threat, streams(5))
        assert torch.equal(x_adv[healthy], sound[healthy])
        assert (x_adv[spoiled, 0, 0, 0] - x[spoiled, 0, 0, 0]).abs().max() <= 0.1 * (1 + 1e-6)
        assert threat.contains(x, x_adv).all()
    for norm in NORMS:
        threat = ThreatModel(norm, 0.1)
        x_adv = PGD(keep="last")(model, x, y, threat, streams(5))
        assert threat.contains(x, x_adv).tolist() == [True, False, False, True, True]


def test_large_finite_gradients_are_no_error() -> None:
    """Their sum overflows in float32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2e38] * 4, [-1e38] * 4]))
        model[1].bias.zero_()
    x, y = torch.full((3, 1, 2, 2), 1e-2), torch.zeros(3, dtype=torch.int64)
    x_adv = PGD(steps=2, loss="margin", init="zero")(model, x, y, ThreatModel("Linf", 1e-3), streams(3))
    assert (x_adv < x).all()


@dataclass(frozen=True)
class Linear:
    """A linear network and images (2 HALF, C, H, W): the first HALF at eps / 1.01 from the nearest other class, the
    rest at eps / 0.99; the box is out of reach."""

    model: nn.Module
    x: Tensor
    y: Tensor
    threat: ThreatModel


def linear(norm: str, rivals: int, half: int = HALF) -> Linear:
    """Five classes, of which `rivals` wrong ones are ever near: for one rival an untargeted ascent has one peak.

    But for kl, which also grows when the prediction becomes surer, so that only some starts lead the right way.
    """
    source = generator(rivals, norm)
    eps = {"Linf": 0.02, "L2": 0.08, "L1": 0.15}[norm]
    weight = torch.randn(5, 48, generator=source, dtype=torch.float64)
    bias = torch.zeros(5, dtype=torch.float64)
    bias[1 + rivals :] = -100
    direction = torch.randn(40 * half, 48, generator=source, dtype=torch.float64)
    logits = direction @ weight.T
    logits[:, 1 + rivals :] = -torch.inf
    y = logits.argmax(1)
    steepness = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=DUAL[norm], dim=2)
    gaps = (logits.gather(1, y[:, None]) - logits) / steepness
    distance = gaps.scatter(1, y[:, None], torch.inf).amin(1)
    direction /= distance[:, None]
    fits_the_box = direction.abs().amax(1) * eps / 0.99 < 0.49 - eps
    kept = fits_the_box.nonzero()[: 2 * half, 0]
    wanted = eps / torch.where(torch.arange(2 * half) < half, 1.01, 0.99)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5).double())
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(bias - 0.5 * weight.sum(1))
    x = (0.5 + direction[kept] * wanted[:, None]).float().view(-1, 3, 4, 4)
    return Linear(model.float(), x, y[kept], ThreatModel(norm, eps))


ONE_RIVAL: list[dict[str, Any]] = [
    {"steps": 40},
    {"steps": 40, "loss": "margin"},
    {"steps": 40, "loss": "dlr"},
    {"steps": 40, "loss": "kl", "restarts": 12},
    {"steps": 40, "loss": "dlr-targeted"},
    {"steps": 40, "momentum": 0.9},
    {"steps": 40, "schedule": "cosine", "init": "zero"},
    {"steps": 40, "schedule": "apgd"},
    {"steps": 40, "schedule": "apgd", "loss": "dlr"},
    {"steps": 40, "keep": "last", "schedule": "cosine", "momentum": 0.5},
]
ANY_RIVALS: list[dict[str, Any]] = [
    {"steps": 40, "loss": "margin-targeted"},
    {"steps": 40, "loss": "dlr-targeted", "schedule": "cosine"},
    {"steps": 40, "loss": "margin-targeted", "schedule": "cosine", "momentum": 0.75},
    {"steps": 40, "loss": "margin-targeted", "schedule": "apgd"},
    {"steps": 40, "loss": "dlr-targeted", "schedule": "apgd", "n_targets": 4},
]
WHITE_BOX = [
    pytest.param(norm, rivals, params, id="-".join([norm, str(rivals), *map(str, params.values())]))
    for rivals, settings in ((1, ONE_RIVAL + ANY_RIVALS), (4, ANY_RIVALS))
    for params in settings
    for norm in NORMS
    if fits(params, norm)
]


@pytest.mark.one_in(6)
@pytest.mark.parametrize(("norm", "rivals", "params"), WHITE_BOX)
def test_the_optimum_on_a_linear_network_within_a_hundredth(norm: str, rivals: int, params: dict[str, Any]) -> None:
    """Everything that is 1% nearer than eps falls, nothing that is 1% farther, and no example is out of bounds."""
    case = linear(norm, rivals)
    x_adv = PGD(**params)(case.model, case.x, case.y, case.threat, streams(len(case.x)))
    stands = standing(case.model, x_adv, case.y)
    assert not stands[:HALF].any()
    assert stands[HALF:].all()
    moved = (x_adv.double() - case.x.double()).flatten(1).numpy()
    length = np.linalg.norm(moved, ord={"Linf": np.inf, "L2": 2, "L1": 1}[norm], axis=1)
    assert length.max() <= case.threat.eps * (1 + 1e-5)
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_the_linear_cases_are_enough() -> None:
    assert len(WHITE_BOX) * 2 * HALF >= 10_000
    assert {param.values[2].get("loss", "ce") for param in WHITE_BOX} == set(LOSSES)


BOUND: list[dict[str, Any]] = [{"steps": 100}, {"steps": 100, "schedule": "cosine"}, {"steps": 100, "schedule": "apgd"}]


def largest_drop(norm: str, slope: Tensor, room: Tensor, eps: float) -> float:
    """The most a linear function of this slope can fall within the ball, coordinate i moving at most room[i]."""
    size = slope.abs()
    if norm == "Linf":
        return float((size * room.clamp_max(eps)).sum())
    if norm == "L1":
        order = size.argsort(descending=True)
        before = room[order].cumsum(0) - room[order]
        return float((size[order] * torch.minimum(room[order], (eps - before).clamp_min(0))).sum())
    low, high = 0.0, 1e6
    for _ in range(200):
        level = (low + high) / 2
        moved = torch.minimum(level * size, room)
        low, high = (level, high) if moved.norm() < eps else (low, level)
    return float((size * torch.minimum(low * size, room)).sum())


@pytest.mark.parametrize("params", BOUND)
@pytest.mark.parametrize("norm", NORMS)
def test_the_optimum_where_the_box_binds(norm: str, params: dict[str, Any]) -> None:
    """Most pixels are black or white, so the box cuts the ball; two classes that no move can swap.

    In L2, projecting onto ball and box in turn leads to the optimum only with steps that end small.
    """
    if not fits(params, norm) or (norm == "L2" and params.get("schedule") != "cosine"):
        return
    source, eps = generator(1, norm), {"Linf": 0.3, "L2": 1.0, "L1": 4.0}[norm]
    x = (3 * torch.rand(40, 3, 4, 4, generator=source, dtype=torch.float64) - 1).clamp(0, 1)
    weight = torch.randn(48, generator=source, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2).double())
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weight, -weight]) / 2)
        model[1].bias.copy_(torch.tensor([1000.0, 0.0]))
    y = torch.zeros(40, dtype=torch.int64)
    x_adv = PGD(**params, loss="margin")(model, x, y, ThreatModel(norm, eps), streams(40))
    for before, after in zip(x.flatten(1), x_adv.flatten(1), strict=True):
        room = torch.where(weight > 0, before, 1 - before)
        best = largest_drop(norm, weight, room, eps)
        assert float((before - after) @ weight) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(
    ("norm", "eps", "loss"),
    [
        ("Linf", 0.2, "ce"),
        pytest.param("L2", 1.0, "dlr-targeted", marks=pytest.mark.slow),
        pytest.param("L2", 1.0, "ce", marks=pytest.mark.slow),
        pytest.param("Linf", 0.2, "dlr-targeted", marks=pytest.mark.slow),
    ],
)
def test_apgd_finds_what_its_authors_code_finds(norm: str, eps: float, loss: str) -> None:
    """On the digits, as nearly as two seeds of the authors' code agree with each other."""
    model = load_model("digits-silu").eval()
    images = load_images("digits")
    x, y = images.x[:100], images.y[:100]

    def theirs(seed: int) -> Tensor:
        shared: dict[str, Any] = {"norm": norm, "eps": eps, "seed": seed, "device": "cpu"}
        if loss == "ce":
            attack = APGDAttack(model, 100, **shared)
        else:
            attack = APGDAttack_targeted(model, 100, n_target_classes=2, **shared)
        with torch.random.fork_rng():
            return standing(model, attack.perturb(x.clone(), y.clone()), y)

    first, second = theirs(0), theirs(1)
    targets = {} if loss == "ce" else {"n_targets": 2}
    attack = PGD(steps=100, schedule="apgd", loss=loss, **targets)
    ours = standing(model, attack(model, x, y, ThreatModel(norm, eps), streams(100)), y)
    assert (ours != first).sum() <= (second != first).sum() + 4
    assert ours.sum() <= max(first.sum(), second.sum()) + 2


def test_without_early_stop_every_image_takes_all_steps_and_keeps_its_highest_loss() -> None:
    case = linear("Linf", 1, half=8)
    threat = ThreatModel("Linf", 3 * case.threat.eps)
    passed = []
    case.model.register_forward_hook(lambda _, given, __: passed.append(len(given[0])))
    attack = PGD(steps=5, restarts=2)
    stopped = attack(case.model, case.x, case.y, threat, streams(16))
    assert sum(passed) < 16 * 2 * 6
    passed.clear()
    through = attack.exhaustive(case.model, case.x, case.y, threat, streams(16))
    assert passed == [16] * 2 * 6
    with torch.no_grad():
        loss = [functional.cross_entropy(case.model(x_adv), case.y, reduction="none") for x_adv in (stopped, through)]
    assert (loss[1] >= loss[0] - 1e-6).all()
    assert (loss[1] > loss[0] + 0.01).sum() > 8


def test_early_stop_and_expectation_are_shown_where_they_are_set() -> None:
    assert repr(PGD()) == repr(PGD(early_stop=True, eot=1))
    assert repr(PGD(eot=5)).endswith(", eot=5)")
    assert repr(PGD().exhaustive).endswith(", early_stop=False)")
    assert PGD(keep="last").exhaustive == PGD(keep="last")
    for params, said in (
        ({"eot": 0}, "eot of an attack is 0"),
        ({"early_stop": 0}, "early_stop of an attack is 0"),
        ({"keep": "last", "early_stop": False}, "leave out early_stop"),
    ):
        with pytest.raises(BadInput, match=said):
            PGD(**params)


def test_the_gradient_is_averaged_over_passes() -> None:
    """Of a linear network with random weights, whose mean gradient leads a random walk to the optimum."""
    weight = torch.tensor([1.0, -1.0, 1.0, -1.0])

    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            drawn = weight + 4 * torch.randn(4)
            return torch.stack([x.flatten(1) @ drawn, torch.zeros(len(x))], dim=1)

    x, y, threat = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.int64), ThreatModel("Linf", 0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attack = PGD(steps=1, step_size=0.1, init="zero", loss="margin", keep="last", eot=1000)
        x_adv = attack(Random(), x, y, threat, streams(1))
    torch.testing.assert_close(x_adv, x - 0.1 * weight.view(1, 1, 2, 2))
