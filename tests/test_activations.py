"""Every activation against its formula in float64, and its stated smoothness against its derivatives."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import expit, ndtr
from torch import nn

from satbench.core.errors import BadInput
from satbench.core.tables import Activation
from satbench.models import ACTIVATIONS, ARCHITECTURES, ModelSpec, canonical, empty_model
from satbench.models.activations import activation

pytestmark = pytest.mark.numeric

Formula = Callable[[np.ndarray], np.ndarray]
C = math.sqrt(2 / math.pi)
GRID = np.unique(np.concatenate([np.linspace(-6, 6, 241), [0.0, 1e-3, -1e-3, 1e-6, -1e-6, 30.0, -30.0]]))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def inner(x: np.ndarray) -> np.ndarray:
    return np.tanh(C * (x + 0.044715 * x**3))


def exp_below(x: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(x, 0))


def leaky(slope: float) -> tuple[Formula, Formula]:
    return lambda x: np.where(x > 0, x, slope * x), lambda x: np.where(x > 0, 1, slope)


def elu(alpha: float) -> tuple[Formula, Formula]:
    return (
        lambda x: np.where(x >= 0, x, alpha * (exp_below(x) - 1)),
        lambda x: np.where(x >= 0, 1, alpha * exp_below(x)),
    )


def celu(alpha: float) -> tuple[Formula, Formula]:
    return lambda x: np.where(x >= 0, x, alpha * (exp_below(x / alpha) - 1)), lambda x: exp_below(x / alpha)


def pssilu(alpha: float, beta: float) -> tuple[Formula, Formula]:
    """Dai et al. 2021; without the shift `beta` this is PSiLU."""

    def slope(x: np.ndarray) -> np.ndarray:
        gate = expit(alpha * x)
        return (gate - beta + alpha * x * gate * expit(-alpha * x)) / (1 - beta)

    return lambda x: x * (expit(alpha * x) - beta) / (1 - beta), slope


FORMULAS: dict[str, tuple[Formula, Formula]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "silu": (lambda x: x * expit(x), lambda x: expit(x) + x * expit(x) * expit(-x)),
    "gelu": (
        lambda x: x / 2 * (1 + inner(x)),
        lambda x: (1 + inner(x)) / 2 + x / 2 * (1 - inner(x) ** 2) * C * (1 + 3 * 0.044715 * x**2),
    ),
    "gelu_exact": (
        lambda x: x * ndtr(x),
        lambda x: ndtr(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi),
    ),
    "softplus": (softplus, expit),
    "parametric_softplus": (lambda x: softplus(10 * x) / 10, lambda x: expit(10 * x)),
    "leaky_relu": leaky(0.01),
    "elu": elu(1),
    "celu": celu(1),
    "mish": (
        lambda x: x * np.tanh(softplus(x)),
        lambda x: np.tanh(softplus(x)) + x * expit(x) / np.cosh(softplus(x)) ** 2,
    ),
    "smoothrelu": (
        lambda x: np.maximum(x, 0) - np.log(1 + 400 * np.maximum(x, 0)) / 400,
        lambda x: 400 * np.maximum(x, 0) / (1 + 400 * np.maximum(x, 0)),
    ),
    "psilu": pssilu(1, 0),
    "pssilu": pssilu(1, 1e-8),
}
WITH_PARAMETERS: dict[str, tuple[Formula, Formula]] = {
    "parametric_softplus:alpha=5": (lambda x: softplus(5 * x) / 5, lambda x: expit(5 * x)),
    "leaky_relu:negative_slope=0.1": leaky(0.1),
    "elu:alpha=2": elu(2),
    "celu:alpha=2": celu(2),
    "celu:alpha=0.3": celu(0.3),
    "psilu:alpha=3": pssilu(3, 0),
    "pssilu:alpha=3,beta=0.25": pssilu(3, 0.25),
}
KINKED = [name for name, row in ACTIVATIONS.items() if row.smoothness == 0]
SITES = {
    "mlp": 2,
    "cnn-small": 3,
    # two or three in a block, and the last
    "preact-resnet18": 2 * 8 + 1,
    "preact-resnet34": 2 * 16 + 1,
    "preact-resnet50": 3 * 16 + 1,
    "resnet18-cifar": 2 * 8 + 1,
    "wide-resnet": 2 * 15 + 1,
    **{f"resnet{depth}": 1 + 3 * blocks for depth, blocks in ((50, 16), (101, 33), (152, 50))},
    **{f"resnext{depth}": 1 + 3 * blocks for depth, blocks in (("50-32x4d", 16), ("50-32x8d", 16), ("152-32x8d", 50))},
    # stem and head; two in a block without expansion, three in one with it
    **{
        f"efficientnet-{name}": 2 + 2 * without + 3 * (blocks - without)
        for name, without, blocks in (
            ("b0", 1, 16),
            ("b1", 2, 23),
            ("b2", 2, 23),
            ("b3", 2, 26),
            ("b4", 2, 32),
            ("b5", 3, 39),
            ("b6", 3, 45),
            ("b7", 4, 55),
            ("l1", 4, 63),
        )
    },
}


def derivatives(name: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, first and second derivative of the named module at float64 points, by autograd."""
    module = activation(name)().double()
    x = torch.from_numpy(points).requires_grad_()
    value = module(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    second = torch.zeros_like(x)
    if first.requires_grad:
        (found,) = torch.autograd.grad(first.sum(), x, allow_unused=True)
        second = second if found is None else found
    return value.detach().numpy(), first.detach().numpy(), second.detach().numpy()


def test_every_activation_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", [*FORMULAS, *WITH_PARAMETERS])
def test_value_and_derivative_follow_the_formula(name: str) -> None:
    value, first, _ = derivatives(name, GRID)
    expected, slope = {**FORMULAS, **WITH_PARAMETERS}[name]
    np.testing.assert_allclose(value, expected(GRID), rtol=1e-9, atol=1e-8)
    smooth = GRID != 0 if name in (*KINKED, "elu:alpha=2") else np.full(GRID.shape, True)
    np.testing.assert_allclose(first[smooth], slope(GRID)[smooth], rtol=1e-7, atol=1e-8)


def test_elu_and_celu_differ_where_alpha_is_not_1() -> None:
    """Claim 10 of Xie et al. 2020: raising alpha gives ELU a kink, and CELU stays smooth."""
    sides = np.array([-1e-9, 1e-9])
    below, above = derivatives("elu:alpha=2", sides)[1]
    assert (below, above) == pytest.approx((2, 1))
    assert derivatives("celu:alpha=2", sides)[1] == pytest.approx((1, 1))
    for one, other in zip(derivatives("elu", GRID)[:2], derivatives("celu", GRID)[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("silu", "silu"),
        ("celu:", "celu"),
        ("celu:alpha=1", "celu"),
        ("celu:alpha=1.0", "celu"),
        ("celu:alpha=2.0", "celu:alpha=2"),
        ("celu: alpha = 2e0", "celu:alpha=2"),
        ("celu:alpha=1/4", "celu:alpha=0.25"),
        ("parametric_softplus:alpha=10", "parametric_softplus"),
        ("pssilu:beta=0.10,alpha=2", "pssilu:alpha=2,beta=0.1"),
        ("pssilu:beta=1e-8,alpha=2", "pssilu:alpha=2"),
        ("leaky_relu:negative_slope=.1", "leaky_relu:negative_slope=0.1"),
    ],
)
def test_equal_activations_have_one_spelling(given: str, wanted: str) -> None:
    assert canonical(given) == wanted == canonical(wanted)
    assert ModelSpec("mlp", given, 3, 1, 8, (0.5,), (0.5,)).activation == wanted
    assert repr(activation(given)()) == repr(activation(wanted)())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cellu:alpha=2", "unknown activation 'cellu'; did you mean celu"),
        ("celu:alhpa=2", "unknown parameter 'alhpa' of activation 'celu'; did you mean alpha"),
        ("relu:inplace=1", "unknown parameter 'inplace' of activation 'relu'; it takes none"),
        ("celu:inplace=1", "unknown parameter 'inplace' of activation 'celu'; known: alpha"),
        ("celu:2", "activation 'celu:2': '2' is not key=value; write celu:alpha=2"),
        ("celu:alpha=", "alpha is ''; give a positive number"),
        ("celu:alpha=two", "alpha is 'two'; give a positive number"),
        ("celu:alpha=0", "alpha is '0'; give a positive number"),
        ("celu:alpha=-1", "alpha is '-1'; give a positive number"),
        ("celu:alpha=nan", "alpha is 'nan'; give a positive number"),
        ("celu:alpha=inf", "alpha is 'inf'; give a positive number"),
        ("celu:alpha=1/0", "alpha is '1/0'; give a positive number"),
    ],
)
def test_a_misspelled_activation_is_refused_in_one_line(given: str, message: str) -> None:
    for read in (activation, canonical):
        with pytest.raises(BadInput, match=message) as error:
            read(given)
        assert "\n" not in str(error.value)


def test_the_shift_of_pssilu_stays_below_1() -> None:
    with pytest.raises(BadInput, match="beta of activation 'pssilu' is 1; give a number below 1"):
        activation("pssilu:beta=1")()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_stated_smoothness_is_the_true_one(name: str) -> None:
    """0: f' jumps at 0. 1: f' does not, f'' does. Infinity: neither does, there or elsewhere."""
    h = 1e-9
    value, first, second = (np.diff(part).item() for part in derivatives(name, np.array([-h, h])))
    smoothness = ACTIVATIONS[name].smoothness
    assert smoothness in (0, 1, math.inf)
    assert abs(value) < 1e-6
    assert (abs(first) > 0.1) is (smoothness == 0)
    if smoothness > 0:
        assert abs(first) < 1e-5
        assert (abs(second) > 0.1) is (smoothness == 1)
    if smoothness == math.inf:
        fine = derivatives(name, np.linspace(-6, 6, 12001))[2]
        assert np.abs(np.diff(fine)).max() < 0.02


def test_gelu_is_the_tanh_form_and_differs_from_the_exact_one() -> None:
    point = np.array([1.0])
    assert derivatives("gelu", point)[0].item() == pytest.approx(0.841192, abs=1e-6)
    assert derivatives("gelu_exact", point)[0].item() == pytest.approx(0.841345, abs=1e-6)


def test_activations_are_finite_far_out_in_float32() -> None:
    far = torch.tensor([-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4])
    for name, (formula, _) in FORMULAS.items():
        with torch.no_grad():
            np.testing.assert_allclose(
                activation(name)()(far).numpy(), formula(far.double().numpy()), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("name", ["psilu:alpha=3", "pssilu:alpha=3,beta=0.25"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_scalars_of_the_parametric_silus_learn_and_their_signs_do_not_matter(name: str, sign: int) -> None:
    module = activation(name)().double()
    scalars = list(module.parameters())
    assert {scalar.shape for scalar in scalars} == {(1,)}
    with torch.no_grad():
        for scalar in scalars:
            scalar.mul_(sign)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    value = module(x)
    np.testing.assert_allclose(value.detach().numpy(), WITH_PARAMETERS[name][0](x.numpy()), rtol=1e-7)
    for scalar, slope in zip(scalars, torch.autograd.grad(value.sum(), scalars), strict=True):
        h = 1e-6
        with torch.no_grad():
            up = (scalar.add_(h), module(x).sum())[1]
            down = (scalar.sub_(2 * h), module(x).sum())[1]
            scalar.add_(h)
        assert slope.item() == pytest.approx(((up - down) / (2 * h)).item(), rel=1e-6)
        assert slope.item() != 0


def test_smoothrelu_starts_at_20_with_one_learnable_scalar() -> None:
    ((_, r),) = activation("smoothrelu")().named_parameters()
    assert r.shape == (1,)
    assert r.dtype == torch.float32
    assert r.item() == 20.0
    assert r.requires_grad


@pytest.mark.parametrize("r", [20.0, 3.0, -2.0])
def test_smoothrelu_gradient_of_r_follows_the_formula(r: float) -> None:
    """d/dr of x - log(1 + b x) / b with b = r^2 is 2 r (log(1 + b x) / b^2 - x / (b (1 + b x)))."""
    module = activation("smoothrelu")().double()
    (parameter,) = module.parameters()
    with torch.no_grad():
        parameter.fill_(r)
    b = r * r
    for x in (-1.0, 0.0, 0.003, 0.4, 7.0):
        value = module(torch.tensor([x], dtype=torch.float64))
        (grad,) = torch.autograd.grad(value.sum(), parameter)
        above = max(x, 0)
        expected = 2 * r * (math.log(1 + b * above) / b**2 - above / (b * (1 + b * above)))
        assert grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert value.item() == pytest.approx(above - math.log(1 + b * above) / b, rel=1e-9, abs=1e-12)


def test_smoothrelu_is_near_relu_at_the_start() -> None:
    x = torch.linspace(-1, 1, 4001)
    with torch.no_grad():
        gap = (activation("smoothrelu")()(x) - torch.relu(x)).abs().max().item()
    assert 0.01 < gap <= 0.015


@pytest.mark.one_in(3)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_smoothrelu_has_a_scalar_a_site(architecture: str) -> None:
    assert set(SITES) == set(ARCHITECTURES)
    spec = ModelSpec(architecture, "smoothrelu", 3, 1, 8, (0.5,), (0.5,))
    scalars = [p for name, p in empty_model(spec).named_parameters() if name.endswith("root")]
    assert len({id(p) for p in scalars}) == len(scalars) == SITES[architecture]
    assert all(p.shape == (1,) for p in scalars)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_any_activation_at_every_site(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them in turn, each module where it belongs and no activation beside them."""
    kinds = [activation(name) for name in ACTIVATIONS]
    made: list[nn.Module] = []

    def next_one() -> nn.Module:
        made.append(kinds[len(made) % len(kinds)]())
        return made[-1]

    monkeypatch.setattr("satbench.models.activations.next_one", next_one, raising=False)
    monkeypatch.setitem(ACTIVATIONS, "in turn", Activation("satbench.models.activations:next_one", 0, ""))
    model = empty_model(ModelSpec(architecture, "in turn", 3, 1, 8, (0.5,), (0.5,)))
    types = {type(make()) for make in kinds}
    found = [module for module in model.modules() if type(module) in types]
    assert {id(module) for module in found} == {id(module) for module in made}
    assert len(found) == len(made) == SITES[architecture]


def test_a_factory_gives_a_fresh_module_each_time() -> None:
    for name in ACTIVATIONS:
        make = activation(name)
        assert make() is not make()


@pytest.mark.parametrize("name", [*ACTIVATIONS, *WITH_PARAMETERS])
def test_bfloat16_stays_bfloat16(name: str) -> None:
    x = torch.linspace(-3, 3, 7).bfloat16()
    assert activation(name)()(x).dtype == torch.bfloat16
