"""Ball, box, starts and steps of the three norms, against formulas and float64 numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog
from torch import Tensor, nn

from satbench.attacks import PGD, rapid
from satbench.attacks.base import Attack
from satbench.attacks.rapid import Rapid
from satbench.core.eps import NORMS
from satbench.core.errors import BadInput
from satbench.numerics.seeding import PerSample, generator
from satbench.numerics.threat import ThreatModel, distance

pytestmark = pytest.mark.numeric

CALM = settings(deadline=None, derandomize=True, max_examples=60)
ORDER = {"Linf": np.inf, "L2": 2, "L1": 1}
LARGEST = {"Linf": 1.0, "L2": 6.0, "L1": 60.0}
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
RADII = st.sampled_from([0.1, 0.5, 2.0, 8.0])


@st.composite
def cases(draw) -> tuple[ThreatModel, Tensor, torch.Generator]:
    """A threat, images in the box, and a generator for what the test wants to do to them."""
    norm = draw(st.sampled_from(NORMS))
    threat = ThreatModel(norm, draw(st.sampled_from([0.0, 1e-4, 0.01, 0.1, 0.5, 1.0])) * LARGEST[norm])
    source = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.rand(draw(SHAPES), generator=source)
    return threat, x.round() if draw(st.booleans()) else x, source


def numpy_distance(norm: str, x: Tensor, x_adv: Tensor) -> np.ndarray:
    delta = (x_adv.double() - x.double()).flatten(1).numpy()
    return np.linalg.norm(delta, ord=ORDER[norm], axis=1)


def assert_inside(threat: ThreatModel, x: Tensor, x_adv: Tensor) -> None:
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert (numpy_distance(threat.norm, x, x_adv) <= threat.eps * (1 + 1e-5) + 1e-6).all()
    assert threat.contains(x, x_adv).all()


@CALM
@given(cases(), st.sampled_from([0.01, 1.0, 100.0]))
def test_a_projection_is_inside_and_stays_put(case, scale: float) -> None:
    threat, x, source = case
    once = threat.project(x, x + scale * torch.randn(x.shape, generator=source))
    assert_inside(threat, x, once)
    torch.testing.assert_close(threat.project(x, once), once, rtol=0, atol=1e-6)


@CALM
@given(cases())
def test_a_projection_leaves_inside_points_alone(case) -> None:
    threat, x, source = case
    delta = torch.randn(x.shape, generator=source)
    length = torch.from_numpy(numpy_distance(threat.norm, x, x + delta)).float().view(-1, 1, 1, 1)
    inside = (x + 0.99 * threat.eps * delta / length).clamp(0, 1)
    torch.testing.assert_close(threat.project(x, inside), inside, rtol=0, atol=1e-6)


@CALM
@given(cases(), st.booleans())
def test_a_random_start_is_inside(case, own: bool) -> None:
    threat, x, source = case
    randomness = PerSample.of(0, [str(i) for i in range(len(x))]) if own else source
    assert_inside(threat, x, threat.random_start(x, randomness))


def nearest_by_bisection(delta: np.ndarray, eps: float) -> np.ndarray:
    """The L1 projection of one float64 row: soft thresholding at the level that leaves exactly eps."""
    if np.abs(delta).sum() <= eps:
        return delta
    low, high = 0.0, np.abs(delta).max()
    for _ in range(200):
        level = (low + high) / 2
        low, high = (level, high) if np.maximum(np.abs(delta) - level, 0).sum() > eps else (low, level)
    return np.sign(delta) * np.maximum(np.abs(delta) - high, 0)


@CALM
@given(st.integers(0, 2**31), SHAPES, st.sampled_from([0.001, 0.1, 0.45]), st.booleans())
def test_the_l1_projection_is_the_nearest_point(seed: int, shape, eps: float, ties: bool) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    delta = delta.round() if ties else delta / 4
    x = torch.full(shape, 0.5)
    projected = (ThreatModel("L1", eps).project(x, x + delta) - x).flatten(1).numpy()
    moved = (x + delta - x).flatten(1).double().numpy()
    np.testing.assert_allclose(projected, [nearest_by_bisection(row, eps) for row in moved], rtol=0, atol=2e-6)


@CALM
@given(st.integers(0, 2**31), SHAPES, st.sampled_from([0.001, 0.1, 0.45]))
def test_linf_and_l2_projections_follow_their_formulas(seed: int, shape, eps: float) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    x = torch.full(shape, 0.5)
    flat = delta.flatten(1).double().numpy()
    clipped = np.clip(flat, -eps, eps)
    shrunk = flat * np.minimum(1, eps / np.linalg.norm(flat, axis=1, keepdims=True))
    for norm, expected in (("Linf", clipped), ("L2", shrunk)):
        projected = (ThreatModel(norm, eps).project(x, x + delta) - x).flatten(1).numpy()
        np.testing.assert_allclose(projected, expected, rtol=0, atol=1e-6)


def test_the_l1_projection_keeps_its_radius_on_a_large_image() -> None:
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    x_adv = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert_inside(ThreatModel("L1", 12.0), x, ThreatModel("L1", 12.0).project(x, x_adv))


def middle_starts(norm: str, eps: float, dimension: int, count: int = 4000) -> np.ndarray:
    """Perturbations (count, dimension) over eps of random starts whose box never binds."""
    x = torch.full((count, 1, 1, dimension), 0.5, dtype=torch.float64)
    start = ThreatModel(norm, eps).random_start(x, generator(0, norm))
    return ((start - x) / eps).flatten(1).numpy()


def test_the_linf_start_is_uniform() -> None:
    starts = middle_starts("Linf", 0.25, 3)
    for column in starts.T:
        assert stats.kstest(column, stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("dimension", [1, 3, 12])
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_l2_and_l1_starts_are_uniform_in_their_balls(norm: str, dimension: int) -> None:
    """Uniform in the ball: (r / eps)^d is uniform, and coordinates have the textbook second moment."""
    d, starts = dimension, middle_starts(norm, 0.4, dimension)
    radius = np.linalg.norm(starts, ord=ORDER[norm], axis=1)
    assert radius.mean() == pytest.approx(d / (d + 1), rel=0.02)
    assert stats.kstest(radius**d, "uniform").pvalue > 0.01
    second = {"L2": 1 / (d + 2), "L1": 2 / ((d + 1) * (d + 2))}[norm]
    np.testing.assert_allclose((starts**2).mean(0), second, rtol=0.15)
    np.testing.assert_allclose(starts.mean(0), 0, atol=4 * math.sqrt(second / len(starts)))


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_repeats_with_its_seed_and_moves_with_another(norm: str) -> None:
    x, threat = torch.full((2, 3, 4, 4), 0.5), ThreatModel(norm, 0.3)
    assert torch.equal(threat.random_start(x, generator(1)), threat.random_start(x, generator(1)))
    assert not torch.equal(threat.random_start(x, generator(1)), threat.random_start(x, generator(2)))


@CALM
@given(cases())
def test_distance_agrees_with_numpy(case) -> None:
    threat, x, source = case
    x_adv = torch.rand(x.shape, generator=source)
    expected = numpy_distance(threat.norm, x, x_adv)
    np.testing.assert_allclose(threat.distance(x, x_adv).numpy(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(distance(threat.norm, x, x_adv).numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_forgives_rounding_and_no_more(norm: str) -> None:
    threat, x = ThreatModel(norm, 0.25), torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    unit = torch.zeros_like(x)
    unit[0, 0, 1, 0] = 1
    for length, inside in ((0, True), (0.25, True), (0.25 * (1 + 5e-6), True), (0.25 * 1.0005, False), (0.3, False)):
        assert threat.contains(x, x + length * unit).item() is inside


@pytest.mark.parametrize("norm", NORMS)
def test_contains_looks_at_the_box_and_at_each_row_alone(norm: str) -> None:
    x = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, 0.5, 0.5]).view(7, 1, 1, 1)
    x_adv = torch.tensor([-5e-6, 1 + 5e-6, -1e-3, 1 + 1e-3, math.nan, math.inf, -math.inf]).view(7, 1, 1, 1)
    assert ThreatModel(norm, 0.25).contains(x, x_adv).tolist() == [True, True, False, False, False, False, False]


class Robust(nn.Module):
    """Class 0 wins everywhere, so that every attack takes all of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 8, stride=8, bias=False)
        nn.init.normal_(self.conv.weight, std=0.01, generator=generator(0, "weight"))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).tanh().mean((2, 3)) + torch.tensor([3.0, 0.0])


LONG = PGD(steps=40, keep="last")
COSINE = PGD(steps=20, schedule="cosine", loss="margin")
MOMENTUM = PGD(steps=20, momentum=0.9)


@pytest.mark.parametrize("side", [32, pytest.param(224, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("norm", "eps", "attacks"),
    [
        ("L1", 0.5, [LONG, Rapid()]),
        ("L1", 12.0, [COSINE, MOMENTUM, PGD(steps=1)]),
        ("L2", 0.01, [PGD(steps=10, schedule="apgd"), PGD(steps=1), LONG, Rapid()]),
        ("L2", 0.5, [PGD(steps=10, schedule="apgd"), COSINE, MOMENTUM, PGD(steps=5, init="gaussian")]),
        ("Linf", 8 / 255, [PGD(steps=10), PGD(steps=10, schedule="apgd"), Rapid()]),
    ],
)
def test_no_own_attack_leaves_the_ball(
    norm: str, eps: float, attacks: list[Attack], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 no L2 or L1 example exceeds eps; in Linf a pixel may round by half an ulp of 1, 2^-25."""
    monkeypatch.setattr(rapid, "ROUNDS", (0,))
    monkeypatch.setattr(rapid, "QUERIES", 10)
    threat, y = ThreatModel(norm, eps), torch.zeros(2, dtype=torch.int64)
    x = torch.rand(2, 3, side, side, generator=generator(0, "images")).mul(255).round() / 255
    x[1] = 0.7  # where every pixel is rounded alike
    for attack in attacks:
        x_adv = attack(Robust().eval(), x, y, threat, PerSample.of(0, ["0", "1"]))
        assert threat.contains(x, x_adv).all()
        assert (numpy_distance(norm, x, x_adv) <= eps + (2**-25 if norm == "Linf" else 0)).all(), attack


def test_the_distance_of_a_large_image_is_exact() -> None:
    """Differences are rounded by a relative 2^-24 at most, and their sum not at all."""
    source = generator(0, "large")
    x, x_adv = (torch.rand(1, 3, 600, 600, generator=source) for _ in range(2))
    delta = np.abs(x_adv.numpy().astype(np.longdouble) - x.numpy().astype(np.longdouble)).ravel()
    for norm, exact in (("L1", delta.sum()), ("L2", np.sqrt(np.square(delta).sum())), ("Linf", delta.max())):
        assert float(distance(norm, x, x_adv)) == pytest.approx(float(exact), rel=2**-24)


def gradients(seed: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=source)
    return torch.where(x < 0.2, 0.0, torch.where(x > 0.8, 1.0, x)), torch.randn(shape, generator=source)


@CALM
@given(st.integers(0, 2**31), SHAPES)
def test_linf_and_l2_steps_are_steepest(seed: int, shape) -> None:
    """Of the stated length, and the inner product with the gradient is its dual norm, which no other step exceeds."""
    _, grad = gradients(seed, shape)
    x, flat = torch.full(shape, 0.5), grad.flatten(1).double().numpy()
    for norm, dual in (("Linf", 1), ("L2", 2)):
        step = (ThreatModel(norm, 0.1).ascend(x, x, grad, 0.1) - x).flatten(1).double().numpy() / 0.1
        np.testing.assert_allclose(np.linalg.norm(step, ord=ORDER[norm], axis=1), 1, rtol=1e-4)
        np.testing.assert_allclose((step * flat).sum(1), np.linalg.norm(flat, ord=dual, axis=1), rtol=1e-4)


@CALM
@given(st.integers(0, 2**31), st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 5), st.integers(1, 5)), RADII)
def test_l1_steps_lead_to_the_optimum_of_a_linear_function(seed: int, shape, eps: float) -> None:
    """Against the linear programme over ball and box, with the move split into its positive and negative part."""
    x, grad = gradients(seed, shape)
    threat = ThreatModel("L1", eps)
    reached = threat.ascend(x, x, grad, 2 * eps)
    assert threat.contains(x, reached).all()
    half = threat.ascend(x, x, grad, eps / 2)
    assert (threat.distance(x, half) <= eps / 2 * (1 + 1e-4) + 1e-6).all()
    for row in range(len(x)):
        pixel, slope = x[row].flatten().double().numpy(), grad[row].flatten().double().numpy()
        best = linprog(
            np.concatenate([-slope, slope]),
            A_ub=np.ones((1, 2 * len(pixel))),
            b_ub=[eps],
            bounds=[(0, room) for room in np.concatenate([1 - pixel, pixel])],
        )
        gained = ((reached[row] - x[row]).flatten().double().numpy() * slope).sum()
        assert gained == pytest.approx(-best.fun, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_no_gradient_means_no_step(norm: str) -> None:
    x = torch.full((2, 1, 3, 3), 0.5)
    x_adv = ThreatModel(norm, 0.1).project(x, x + 0.01)
    moved = ThreatModel(norm, 0.1).ascend(x, x_adv, torch.zeros_like(x), 0.05)
    torch.testing.assert_close(moved, x_adv, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_out_of_a_full_box_is_no_step(norm: str) -> None:
    x = torch.ones(1, 1, 3, 3)
    assert torch.equal(ThreatModel(norm, 0.1).ascend(x, x, torch.ones_like(x), 0.05), x)


def test_an_unknown_norm_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="did you mean Linf"):
        ThreatModel("linf", 0.1)


@pytest.mark.parametrize("eps", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("norm", NORMS)
def test_an_unusable_radius_is_refused(norm: str, eps: float) -> None:
    with pytest.raises(BadInput):
        ThreatModel(norm, eps)


def test_an_linf_radius_in_units_of_255_is_refused() -> None:
    for eps in (8, "8"):
        with pytest.raises(BadInput, match="8/255"):
            ThreatModel("Linf", eps)
    assert ThreatModel("L2", 8).eps == 8.0


def test_a_threat_reads_as_people_write_it() -> None:
    assert ThreatModel("Linf", "8/255") == ThreatModel("Linf", 8 / 255)
    assert str(ThreatModel("Linf", 8 / 255)) == "Linf 8/255"
    assert str(ThreatModel("L2", 0.5)) == "L2 0.5"


def test_a_numpy_radius_is_a_radius() -> None:
    assert ThreatModel("L2", np.linspace(0, 1, 3)[1]).eps == 0.5
