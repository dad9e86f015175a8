"""Training methods: what they leave alone, what they cost, what they minimise, what they remember."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.base import batch_statistics
from satbench.attacks.gradient import PGD
from satbench.core.errors import BadInput
from satbench.core.lookup import pick
from satbench.methods import METHODS, Method, Processes, Step
from satbench.methods.awp import AWP
from satbench.methods.base import NO_LABEL
from satbench.methods.free import Free
from satbench.methods.pgd_at import PGDAT
from satbench.numerics.seeding import generator, uniform
from satbench.numerics.threat import ThreatModel
from satbench.training.step import Learner

pytestmark = pytest.mark.numeric

CASES: dict[str, list[dict[str, Any]]] = {  # parameters to try, beside the defaults of every method
    "pgd_at": [
        {"steps": 1},
        {"steps": 3, "init": "zero", "step_size": 0.02},
        {"steps": 2, "init": "gaussian"},
        {"steps": 4, "early_stop": [[0, 9]]},
    ],
    "trades": [{"beta": 1, "steps": 2, "step_size": 0.03}],
    "mart": [{"beta": 6, "steps": 1}],
    "awp": [{"method": name, "steps": 2, "gamma": 0.005} for name in ("trades", "mart")],
    "n_fgsm": [{"k": 1, "step_over_eps": 0.5}],
    "gradalign": [{"lam": 2}],
    "free": [{"replays": 3}],
    "sglr": [
        {"start_epoch": 0, "steps": 2},
        {"start_epoch": 0, "anchor": "interp", "clean_bn_mode": "eval"},
        {"start_epoch": 0, "base": "trades", "weighted": True, "clean_share": 1},
    ],
    "te": [
        {"start_epoch": 0, "end_epoch": 2, "steps": 2},
        {"start_epoch": 0, "end_epoch": 2, "base": "trades", "beta": 3},
    ],
    "adr": [{"steps": 2, "interpolation": 0.2}, {"base": "trades", "beta": 3}],
    "simclr": [{"temperature": 0.1}],
    "ssl_at": [{"steps": 2, "temperature": 0.1, "step_size": 0.02}],
}


JOINED = ("pgd_at", "trades", "mart", "adr")  # to AWP by a source
CASES["awp"] += [{"method": name} for name in JOINED]
EVERY = [
    pytest.param(name, params, id=f"{name}-{params.get('method', '')}{i}")
    for name in METHODS
    for i, params in enumerate([{}, *CASES.get(name, [])])
]
# what these methods promise beyond the contract
EXACT = ("standard", "pgd_at", "trades", "mart", "awp", "fgsm_rs", "n_fgsm", "gradalign", "free")
LEAVES_THE_BALL = ("n_fgsm",)
LINF = ThreatModel("Linf", 0.1)
THREATS = [LINF, ThreatModel("L2", 0.6), ThreatModel("L1", 3.0)]
AROUND = ("pgd_at", "trades", "mart")  # by AWP
on_every_case = pytest.mark.parametrize(("name", "params"), EVERY)
on_every_threat = pytest.mark.parametrize("threat", THREATS, ids=str)


def network() -> nn.Sequential:
    """With batch normalisation, whose statistics must not move while images are crafted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3))
    model[4].bias.grad = torch.ones(3)
    model[2].eval()
    return model


def data() -> tuple[Tensor, Tensor]:
    return torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


def smoothed() -> Tensor:
    return torch.rand(8, 3, generator=torch.Generator().manual_seed(2)).softmax(1)


def build(name: str, params: dict[str, Any]) -> Method:
    method = pick(METHODS, name, "method", **params)
    assert isinstance(method, Method)
    return method


def begin(method: Method, threat: ThreatModel = LINF, trained: nn.Module | None = None, **parts: Any) -> Step:
    """The first step of a run on the network that is trained, by default one of `network()`."""
    x, y = data()
    state, trained = method.initial_state(8, 3, tuple(x.shape)), trained or network()
    method.begin(trained, state, dict)
    start = Step.of(x, y, threat, generator(0))
    return replace(start, state=state, network=trained, **{"views": (x.flip(3),), **parts})


def update(method: Method, model: nn.Module, step: Step, optimizer: torch.optim.Optimizer) -> None:
    """The trainer's order of things."""
    x_adv = method.perturb(model, step)
    model.train()
    with method.around_update(model, x_adv, step):
        loss = method.loss(model, x_adv, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    method.after_update(model, x_adv, step)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def test_every_method_is_under_contract() -> None:
    assert set(CASES) <= set(METHODS)
    assert {param.values[0] for param in EVERY} == set(METHODS)
    assert {name for name in METHODS if METHODS[name]().awp_source} == set(JOINED)
    assert [name for name in EXACT if build(name, {}).norms == ("Linf",)] == ["n_fgsm", "gradalign", "free"]


def inner(name: str, params: dict[str, Any]) -> str:
    """The method whose images and loss these are."""
    return str(params.get("method", "pgd_at")) if name == "awp" else name


@pytest.mark.one_in(6)
@on_every_threat
@on_every_case
def test_crafting_leaves_the_model_as_it_was(name: str, params: dict[str, Any], threat: ThreatModel) -> None:
    model, method = network(), build(name, params)
    step = begin(method, threat)
    if threat.norm not in method.norms:
        with pytest.raises(BadInput, match=f"is defined for {', '.join(method.norms)}, not {threat.norm}; use pgd_at"):
            method.refuse(threat)
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    global_state, gradient = torch.get_rng_state(), model[4].bias.grad
    x_adv = method.perturb(model, step)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    assert [p.grad is None for p in model.parameters()] == [True] * 5 + [False]
    assert model[4].bias.grad is gradient
    assert torch.equal(gradient, torch.ones(3))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(step.x, data()[0])
    assert x_adv.shape == step.x.shape
    assert x_adv.dtype == step.x.dtype
    assert x_adv.is_leaf
    if name in EXACT:
        assert x_adv.requires_grad is (name == "free")
    assert torch.equal(method.perturb(model, begin(method, threat)), x_adv)
    assert torch.equal(method.perturb(model, begin(method, threat, targets=smoothed())), x_adv)
    if inner(name, params) in LEAVES_THE_BALL:
        furthest = threat.distance(step.x, x_adv).max()
        reach = params.get("k", 2) + params.get("step_over_eps", 1)
        assert threat.eps * 1.3 < furthest <= reach * threat.eps + 1e-6
        assert ((x_adv >= 0) & (x_adv <= 1)).all()
    else:
        assert threat.contains(step.x, x_adv).all()


@on_every_case
def test_a_radius_of_zero_moves_nothing(name: str, params: dict[str, Any]) -> None:
    """A warm-up of eps begins there."""
    method = build(name, params)
    step = begin(method, ThreatModel("Linf", 0.0))
    assert torch.equal(method.perturb(network(), step), step.x)


@on_every_case
def test_the_stated_passes_are_counted(name: str, params: dict[str, Any]) -> None:
    """Rows of the logits, as they come out and as gradients come back to them, over one whole update.

    The stated number is the most, since images may stop early and a term may begin later in the run.
    """
    model, method = network(), build(name, params)
    forward, backward = [], []

    def count(module: nn.Module, inputs: object, logits: Tensor) -> None:
        forward.append(len(logits))
        if logits.requires_grad:
            logits.register_hook(lambda gradient: backward.append(len(gradient)))

    model.register_forward_hook(count)
    update(method, model, begin(method, trained=model), torch.optim.SGD(model.parameters(), lr=0.1))
    assert 8 <= sum(forward) <= 8 * method.passes.forward
    assert 8 <= sum(backward) <= 8 * method.passes.backward
    if inner(name, params) in (*EXACT, "adr"):
        assert (sum(forward), sum(backward)) == (8 * method.passes.forward, 8 * method.passes.backward)
    forward.clear()
    step = begin(method, trained=model)
    x_adv = method.perturb(model, step).detach()
    forward.clear()
    backward.clear()
    method.loss(model, x_adv, step).backward()
    assert 8 <= sum(forward) <= 8 * method.loss_passes.forward
    assert 8 <= sum(backward) <= 8 * method.loss_passes.backward
    if inner(name, params) in EXACT:
        assert (sum(forward), sum(backward)) == (8 * method.loss_passes.forward, 8 * method.loss_passes.backward)


@pytest.mark.parametrize("name", EXACT)
def test_the_accuracy_of_an_update_is_on_the_crafted_images(name: str) -> None:
    """The labels are what the network says of the images as they are, so that any miss is the attack's."""
    model, method = network(), build(name, {})
    with torch.no_grad():
        y = model.train()(data()[0]).argmax(1)
    threat = ThreatModel("Linf", 0.3)
    found = Learner(model, torch.optim.SGD(model.parameters(), lr=0.0), method).update(
        begin(method, threat, y=y, targets=y), lr=0.0
    )
    model = network()
    model.train()(data()[0])  # whose running statistics the attacker saw
    x_adv = method.perturb(model.eval(), begin(method, threat, y=y, targets=y)).detach()
    with torch.no_grad():
        expected = (model.train()(x_adv).argmax(1) == y).float().mean()
    assert found.accuracy == expected
    assert bool(expected < 1) is (name not in ("standard", "free"))  # whose first perturbation is none


@on_every_case
def test_the_loss_is_a_finite_scalar_with_gradient(name: str, params: dict[str, Any]) -> None:
    model, method = network(), build(name, params)
    model.zero_grad()
    step = begin(method)
    loss = method.loss(model, method.perturb(model, step), step)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad.any() for p in model[1 : 5 if method.labelled else 4].parameters())


@on_every_case
def test_soft_targets_are_fitted_or_refused(name: str, params: dict[str, Any]) -> None:
    """A soft label that is all in one class is that label. Cross-entropy is linear in its targets."""
    model, method = network().eval(), build(name, params)
    step, soft = begin(method), smoothed()
    x_adv = method.perturb(model, step)

    def loss(targets: Tensor) -> float:
        return method.loss(model, x_adv, replace(step, targets=targets)).item()

    if not method.labelled:
        blind = replace(step, y=torch.full_like(step.y, NO_LABEL), targets=torch.full_like(step.y, NO_LABEL))
        assert torch.equal(method.perturb(model, replace(blind, randomness=generator(0))), x_adv)
        assert method.loss(model, x_adv, blind).item() == loss(step.y)
        return
    if not method.soft_targets:
        with pytest.raises(BadInput, match=r"hard labels?\b"):
            loss(soft)
        return
    other = functional.one_hot((step.y + 1) % 3, 3).float()
    assert loss(functional.one_hot(step.y, 3).float()) == pytest.approx(loss(step.y), rel=1e-5)
    if inner(name, params) not in EXACT:
        assert loss(soft) != pytest.approx(loss(step.y), rel=1e-5)
        return
    assert loss(0.3 * soft + 0.7 * other) == pytest.approx(0.3 * loss(soft) + 0.7 * loss(other), rel=1e-5)
    logp = model(step.x if "trades" in (name, params.get("method")) else x_adv).log_softmax(1)
    assert loss(soft) - loss(other) == pytest.approx(((other - soft) * logp).sum(1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", ["standard", "pgd_at", "fgsm_rs", "n_fgsm", "free"])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_cross_entropy_in_the_mode_of_the_model(name: str, training: bool) -> None:
    model, method = network().train(training), build(name, {})
    step = begin(method)
    x_adv = (step.x + 0.1).clamp(0, 1)
    before = model[1].running_mean.clone()
    loss = method.loss(model, x_adv, step).item()
    assert torch.equal(model[1].running_mean, before) is not training
    with torch.no_grad():
        p = softmax(model(x_adv).double().numpy())
    assert loss == pytest.approx(-np.log(p[range(8), step.y.numpy()]).mean(), rel=1e-5)


def test_standard_training_sees_the_images_as_they_are() -> None:
    method = build("standard", {})
    step = begin(method)
    assert torch.equal(method.perturb(network(), step), step.x)


@pytest.mark.parametrize("steps", [1, 3])
def test_pgd_at_follows_the_gradient_in_eval_mode(steps: int) -> None:
    """By hand: x <- clip(x + step sign(grad)) from the image itself; a single step has length eps."""
    model, eps = network(), 0.05
    length = eps if steps == 1 else 0.02
    method = build("pgd_at", {"init": "zero", "steps": steps, "step_size": None if steps == 1 else length})
    step = begin(method, ThreatModel("Linf", eps))
    crafted = method.perturb(model, step)
    model.eval()
    point = step.x
    for _ in range(steps):
        point = point + length * slope(model, point, step.y).sign()
        point = point.clamp(step.x - eps, step.x + eps).clamp(0, 1)
    torch.testing.assert_close(crafted, point, rtol=0, atol=1e-6)


def slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    point = x.clone().requires_grad_()
    return torch.autograd.grad(functional.cross_entropy(model(point), y, reduction="sum"), point)[0]


def test_pgd_at_starts_at_random_and_moves_with_its_generator() -> None:
    model, method = network(), build("pgd_at", {"steps": 1, "step_size": 1e-6})
    one, other = (method.perturb(model, begin(method, randomness=generator(seed))) for seed in (0, 1))
    assert (one - other).abs().mean() > 0.02


def test_pgd_at_takes_the_ten_steps_of_rice_et_al_by_default() -> None:
    assert build("pgd_at", {}).passes.forward == 11


def early_stopped(model: nn.Module, step: Step, count: int, steps: int, length: float) -> tuple[Tensor, int]:
    """The bag of tricks' PGD over the whole batch, in which a sample whose counter ran down stands still; its work."""
    x, eps = step.x, step.threat.eps
    left, point, work = torch.full((len(x),), count), x.clone(), 0
    for _ in range(steps):
        work += int((left > 0).sum())
        with torch.no_grad():
            left -= ((model(point).argmax(1) != step.y) & (left > 0)).long()
        moved = (point + length * slope(model, point, step.y).sign()).clamp(x - eps, x + eps).clamp(0, 1)
        point = torch.where((left > 0).view(-1, 1, 1, 1), moved, point)
    return point, work


def test_early_stopped_attacks_leave_the_batch_when_their_counter_has_run_down() -> None:
    model, steps, length = network().eval(), 8, 0.01
    with torch.no_grad():
        margins = model(data()[0])
    y = torch.where(torch.arange(8) < 6, margins.argmax(1), margins.argmin(1))  # six are right at first
    rows: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    work = []
    for count in (1, 2, 3, 99):
        method = build("pgd_at", {"steps": steps, "step_size": length, "init": "zero", "early_stop": [[0, count]]})
        step = begin(method, y=y)
        expected, passes = early_stopped(model, step, count, steps, length)
        rows.clear()
        crafted = method.perturb(model, step)
        torch.testing.assert_close(crafted, expected, rtol=0, atol=1e-6)
        assert sum(rows) == passes
        work.append(sum(rows))
    assert work[0] < work[1] < work[2] < work[3] == 8 * steps
    never = replace(method, early_stop=())
    assert torch.equal(never.perturb(model, begin(never, y=y)), crafted)


@pytest.mark.parametrize("count", [1, 2, 99])
def test_early_stopped_attacks_on_batch_statistics_forward_the_whole_batch(count: int) -> None:
    """Else the statistics would be those of what is left, and one image left over has none at 1 x 1 pixels."""
    model, steps, length = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3)), 8, 0.01
    with torch.no_grad(), batch_statistics(model.eval()):
        first = model(data()[0])
    y = torch.where(torch.arange(8) < 6, first.argmax(1), first.argmin(1))  # six are right at first
    method = build("pgd_at", {"steps": steps, "step_size": length, "init": "zero", "early_stop": [[0, count]]})
    step = begin(method, y=y)
    rows: list[int] = []
    with batch_statistics(model):
        expected, work = early_stopped(model, step, count, steps, length)
        model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
        torch.testing.assert_close(method.perturb(model, step), expected, rtol=0, atol=1e-6)
    assert set(rows) == {8}
    assert (work < 8 * steps) is (count < 99)


def test_the_counter_follows_the_epoch() -> None:
    params = {"steps": 6, "step_size": 0.01, "init": "zero"}
    method, model = build("pgd_at", {**params, "early_stop": [[1, 1], [2.5, 2]]}), network().eval()
    for epoch, alone in ((0.9, []), (1.0, [[0, 1]]), (2.4, [[0, 1]]), (2.5, [[0, 2]])):
        wanted = build("pgd_at", {**params, "early_stop": alone})
        assert torch.equal(method.perturb(model, begin(method, epoch=epoch)), wanted.perturb(model, begin(wanted)))
    one, two = (build("pgd_at", {**params, "early_stop": [[0, n]]}).perturb(model, begin(method)) for n in (1, 2))
    assert not torch.equal(one, two)


def test_patience_is_part_of_an_attack_only_where_it_is_set() -> None:
    assert "patience" not in repr(PGD(keep="last"))
    assert repr(PGD(keep="last", patience=2)).endswith("patience=2)")
    with pytest.raises(BadInput, match="keep='best' stops at the first misclassified iterate; leave out patience"):
        PGD(keep="best", patience=2)
    with pytest.raises(BadInput, match="patience of an attack is 0; give a whole number from 1"):
        PGD(keep="last", patience=0)


class Root(nn.Module):
    """Its slope at a black pixel is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3].sqrt()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("pgd_at", {"steps": 1, "init": "zero"}),
        ("pgd_at", {"steps": 3, "init": "zero", "early_stop": [[0, 1]]}),
        *((name, {}) for name in ("trades", "mart", "fgsm_rs", "n_fgsm", "gradalign")),
    ],
)
def test_an_infinite_slope_is_passed_on_as_nan(name: str, params: dict[str, Any]) -> None:
    method = build(name, params)
    x = torch.full((8, 1, 6, 6), 0.6)
    x[1] = 0
    crafted = method.perturb(Root(), begin(method, x=x))
    assert crafted.isfinite().flatten(1).all(1).tolist() == [True, False, *[True] * 6]
    assert crafted[1].isnan().all()


def trades_by_hand(p: np.ndarray, q: np.ndarray, targets: np.ndarray, beta: float) -> float:
    """p of the clean, q of the adversarial images."""
    return float(np.mean((-targets * np.log(p)).sum(1) + beta * (p * np.log(p / q)).sum(1)))


def mart_by_hand(p: np.ndarray, q: np.ndarray, targets: np.ndarray, beta: float) -> float:
    total = 0.0
    for clean, adversarial, hot in zip(p, q, targets, strict=True):
        true = int(hot.argmax())
        runner_up = max(value for c, value in enumerate(adversarial) if c != true)
        divergence = sum(clean * np.log(clean / adversarial))
        total += -np.log(adversarial[true]) - np.log(1.0001 - runner_up + 1e-12)
        total += beta * divergence * (1.0000001 - clean[true])
    return total / len(p)


@pytest.mark.parametrize("beta", [0.5, 6.0])
@pytest.mark.parametrize(("name", "by_hand"), [("trades", trades_by_hand), ("mart", mart_by_hand)])
def test_trades_and_mart_minimise_their_formula(name: str, by_hand: Callable[..., float], beta: float) -> None:
    """Value, and slope in a direction of the weights: a factor without its gradient would change it."""
    model, method = network().double().eval(), build(name, {"beta": beta})
    step = begin(method)
    x, x_adv = step.x.double(), (step.x + 0.2 * torch.randn(8, 1, 6, 6, generator=generator(3))).double()
    step.x = x
    targets = functional.one_hot(step.y, 3).double().numpy()
    if name == "trades":
        targets = smoothed().double().numpy()
        step.targets = torch.from_numpy(targets)

    def formula() -> float:
        with torch.no_grad():
            return by_hand(softmax(model(x).numpy()), softmax(model(x_adv).numpy()), targets, beta)

    loss = method.loss(model, x_adv, step)
    assert loss.item() == pytest.approx(formula(), rel=1e-9)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    assert slope_along(weights, gradients, formula) == pytest.approx(0, abs=1e-6)


def slope_along(weights: list[Tensor], gradients: tuple[Tensor, ...], value: Callable[[], float]) -> float:
    """How far the gradients are from a central difference of `value` in a random direction, relative to it."""
    draws = generator(4)
    directions = [torch.randn(w.shape, generator=draws, dtype=torch.float64) for w in weights]
    found, h = [], 1e-5
    for sign in (1, -2):
        with torch.no_grad():
            for weight, direction in zip(weights, directions, strict=True):
                weight += sign * h * direction
        found.append(value())
    difference = (found[0] - found[1]) / (2 * h)
    stated = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    return stated / difference - 1


def test_trades_attacks_the_divergence_from_the_clean_prediction() -> None:
    """Labels play no part in it, and the divergence grows."""
    model, method = network().eval(), build("trades", {})
    x_adv = method.perturb(model, begin(method))
    assert torch.equal(method.perturb(model, begin(method, y=(data()[1] + 1) % 3)), x_adv)
    noise = (data()[0] + 0.1 * (2 * uniform(x_adv, generator(5)) - 1)).clamp(0, 1)
    with torch.no_grad():
        clean, *others = (model(x).log_softmax(1) for x in (data()[0], x_adv, noise))
    crafted, random = ((clean.exp() * (clean - other)).sum(1).mean() for other in others)
    assert crafted > 3 * random > 0


def test_mart_attacks_the_label() -> None:
    model, method = network().eval(), build("mart", {})
    step = begin(method)
    with torch.no_grad():
        before, after = (functional.cross_entropy(model(x), step.y) for x in (step.x, method.perturb(model, step)))
    assert after > before + 0.05


@pytest.mark.parametrize("over", [{}, {"step_over_eps": 0.5}])
def test_fgsm_rs_steps_once_from_a_point_of_the_ball(over: dict[str, Any]) -> None:
    model, method = network().eval(), build("fgsm_rs", over)
    step = begin(method)
    start = (step.x + 0.1 * (2 * uniform(step.x, generator(0)) - 1)).clamp(0, 1)
    moved = start + over.get("step_over_eps", 1.25) * 0.1 * slope(model, start, step.y).sign()
    expected = moved.clamp(step.x - 0.1, step.x + 0.1).clamp(0, 1)
    torch.testing.assert_close(method.perturb(model, step), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("params", CASES["n_fgsm"])
def test_n_fgsm_steps_once_from_noise_and_never_goes_back_to_the_ball(params: dict[str, Any]) -> None:
    model, method = network().eval(), build("n_fgsm", params)
    step = begin(method)
    noisy = (step.x + params.get("k", 2) * 0.1 * (2 * uniform(step.x, generator(0)) - 1)).clamp(0, 1)
    expected = (noisy + params.get("step_over_eps", 1) * 0.1 * slope(model, noisy, step.y).sign()).clamp(0, 1)
    torch.testing.assert_close(method.perturb(model, step), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lam", [0.2, 2.0])
def test_gradalign_adds_one_minus_the_cosine_of_two_slopes(lam: float) -> None:
    """Image by image in numpy; the slope of the whole loss by central differences."""
    model, method = network().double(), build("gradalign", {"lam": lam})
    x = data()[0].double()
    step = begin(method, x=x)
    x_adv = method.perturb(model, step)
    at = slope(model.eval(), x, step.y)
    assert torch.equal(x_adv, (x + 0.1 * at.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1))
    near = x + 0.1 * (2 * uniform(x, generator(0)) - 1)

    def formula() -> float:
        by, cosines = slope(model.eval(), near, step.y), []
        for one, other in zip(at.numpy().reshape(8, -1), by.numpy().reshape(8, -1), strict=True):
            cosines.append(one @ other / np.sqrt((one @ one) * (other @ other)))
        with torch.no_grad():
            p = softmax(model.train()(x_adv).numpy())
        return float(-np.log(p[range(8), step.y.numpy()]).mean() + lam * (1 - np.mean(cosines)))

    model[1].momentum = 0.0  # the running statistics stay as they are
    modes = [module.training for module in model.train().modules()]
    loss = method.loss(model, x_adv, step)
    assert [module.training for module in model.modules()] == modes
    assert model[1].num_batches_tracked == 1  # by the adversarial images alone
    assert loss.item() == pytest.approx(formula(), rel=1e-9)
    weights = list(model.parameters())
    gradients = torch.autograd.grad(loss, weights)
    assert slope_along(weights, gradients, formula) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_both_slopes_of_gradalign_are_of_one_network(mode: str) -> None:
    """Batch norms that take over the statistics of the last batch show whether a pass came in between."""
    method = build("gradalign", {"lam": 1.0})
    model, untouched = network(), network().eval()
    for batch_norm in (model[1], untouched[1]):
        batch_norm.momentum = 1.0
    step = replace(begin(method), batch_statistics=mode == "train")
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.0), method, attack_bn_mode=mode)
    found = learner.update(step, lr=0.0)[0]
    at_once = batch_statistics(untouched) if mode == "train" else nullcontext()
    near = step.x + 0.1 * (2 * uniform(step.x, generator(0)) - 1)
    with at_once:
        slopes = [slope(untouched, point, step.y).flatten(1) for point in (step.x, near)]
    cosine = functional.cosine_similarity(*slopes)
    x_adv = (step.x + 0.1 * slopes[0].view_as(step.x).sign()).clamp(step.x - 0.1, step.x + 0.1).clamp(0, 1)
    outer = functional.cross_entropy(network().train()(x_adv), step.y)
    assert found.item() == pytest.approx((outer + (1 - cosine).mean()).item(), abs=1e-5)
    assert model[1].num_batches_tracked == 1


class Nosy(PGDAT):
    """Calls the model as a careless method would, and looks at what the losses get."""

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        point = step.x.detach().requires_grad_()
        logits = model(point)
        assert logits.dtype == torch.float32
        functional.cross_entropy(logits, step.y).backward()
        return step.x + 0.01 * point.grad.sign()

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        logits = model(x_adv)
        assert logits.dtype == torch.float32
        assert all(module.training for module in model.modules())
        return functional.cross_entropy(logits, step.targets)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("precision", ["float32", "bf16-attack", "bf16"])
def test_a_method_that_calls_the_model_crafts_in_eval_mode_and_gets_float32_logits(precision: str, mode: str) -> None:
    model, method = network().train(), Nosy()
    descent = torch.optim.SGD(model.parameters(), lr=0.0)
    Learner(model, descent, method, attack_bn_mode=mode, precision=precision).update(begin(method), lr=0.0)
    assert model[1].num_batches_tracked == 1  # by the loss alone
    assert all(parameter.requires_grad for parameter in model.parameters())


class Dark(nn.Module):
    """Blind, and so without slope, where an image is darker than a half."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(36, 3)
        nn.init.uniform_(self.head.weight, generator=generator(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.flatten(1) - 0.5).relu().square())


@pytest.mark.parametrize("dark", [0, 3, 8])
def test_gradalign_leaves_out_images_without_a_slope(dark: int) -> None:
    model, method = Dark(), build("gradalign", {"lam": 1.0})
    x = 0.6 + 0.4 * data()[0]
    x[:dark] = 0.2
    step = begin(method, x=x)
    x_adv = method.perturb(model, step)
    extra = method.loss(model, x_adv, step) - functional.cross_entropy(model(x_adv), step.y)
    near = x + 0.1 * (2 * uniform(x, generator(0)) - 1)
    cosine = functional.cosine_similarity(slope(model, x, step.y).flatten(1), slope(model, near, step.y).flatten(1))
    expected = 1 - cosine[dark:].mean().item() if dark < 8 else 0
    assert extra.item() == pytest.approx(expected, abs=1e-6)
    assert (expected > 0.01) is (dark < 8)


class Half(Processes):
    """The second of two processes; the first found that its rows are all 0.07 and its gradients the opposite."""

    rank, count = 1, 2

    def everywhere(self, values: Tensor, step: Step) -> Tensor:
        return torch.cat([torch.full_like(values[: step.start], 0.07), values])

    def mean(self, tensors: Any, step: Step) -> list[Tensor]:
        return [-tensor for tensor in tensors]


def test_free_carries_its_perturbation_from_update_to_update_and_from_batch_to_batch() -> None:
    """By hand: delta <- clip(delta + eps sign(g)), g of delta from the same backward pass as the update of the weights.

    That pass goes through the clip to [0, 1], so g is zero where the pixel was clipped.
    """
    model, by_hand, method = network(), network(), build("free", {"replays": 2})
    assert method.replays == 2
    assert build("free", {}).replays == 8
    x, y = torch.rand(12, 1, 6, 6, generator=generator(7)), torch.arange(12) % 3
    optimizer, other = (torch.optim.SGD(net.parameters(), lr=0.5) for net in (model, by_hand))
    state = method.initial_state(12, 3, (5, 1, 6, 6))
    assert state["delta"].shape == (5, 1, 6, 6)
    assert not state["delta"].any()
    delta = torch.zeros(5, 1, 6, 6)
    eps, clipped = 0.1, 0
    for images, labels in ((x[:5], y[:5]), (x[5:10], y[5:10]), (x[10:], y[10:])):
        for _ in range(method.replays):
            update(method, model, replace(Step.of(images, labels, LINF, generator(0)), state=state), optimizer)
            n = len(images)
            shift = delta[:n].clone().requires_grad_()
            other.zero_grad()
            functional.cross_entropy(by_hand.train()((images + shift).clamp(0, 1)), labels).backward()
            clipped += int((shift.grad == 0).sum())
            delta[:n] = (delta[:n] + eps * shift.grad.sign()).clamp(-eps, eps)
            other.step()
            torch.testing.assert_close(state["delta"], delta, rtol=0, atol=1e-7)
    for one, two in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert clipped > 10
    assert delta[2:].abs().max() > 0.09  # rows that the short last batch did not reach


def test_free_climbs_by_steps_of_eps_that_add_up() -> None:
    """On a linear network of two classes no sign ever changes; the ball ends the climb."""
    model, method = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), build("free", {})
    nn.init.normal_(model[1].weight, generator=generator(8))
    step = begin(method, x=0.1 + 0.8 * data()[0], y=data()[1] % 2, targets=data()[1] % 2)  # nothing is clipped
    for eps in (0.02, 0.03):
        step.threat = ThreatModel("Linf", eps)
        update(method, model, step, torch.optim.SGD(model.parameters(), lr=0.0))
        torch.testing.assert_close(step.state["delta"].abs(), torch.full_like(step.x, eps))
    moved = method.perturb(model, step).detach()
    torch.testing.assert_close(moved, (step.x + step.state["delta"]).clamp(0, 1))


def test_free_writes_the_rows_of_every_process() -> None:
    model, method = network(), build("free", {})
    x, y = 0.1 + 0.8 * data()[0], data()[1]  # nothing is clipped
    places = (0.01 * torch.arange(8)).view(8, 1, 1, 1).expand(8, 1, 6, 6)
    state = {"delta": places.clone()}
    step = replace(begin(method), x=x[3:7], y=y[3:7], targets=y[3:7], start=3, state=state, processes=Half())
    torch.testing.assert_close(method.perturb(model, step).detach(), (x[3:7] + places[3:7]).clamp(0, 1))
    update(method, model, step, torch.optim.SGD(model.parameters(), lr=0.1))
    assert (state["delta"][:3] == 0.07).all()
    own = state["delta"][3:7]
    torch.testing.assert_close(own, torch.where(own > places[3:7], 0.1, places[3:7] - 0.1))
    assert torch.equal(state["delta"][7:], places[7:])


def around(name: str, **params: Any) -> AWP:
    method = build("awp", {"method": name, **params})
    assert isinstance(method, AWP)
    return method


@contextmanager
def no_statistics(model: nn.Sequential) -> Iterator[None]:
    """Runs the block on a copy of the running statistics."""
    kept = copy.deepcopy(model[1].state_dict())
    yield
    model[1].load_state_dict(kept)


@pytest.mark.parametrize("name", AROUND)
def test_awp_moves_weights_uphill_by_a_share_of_their_length_and_puts_every_bit_back(name: str) -> None:
    model, method = network().train(), around(name, gamma=0.02)
    step = begin(method)
    x_adv = method.perturb(model, step)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with no_statistics(model):
        loss = method.loss(model, x_adv, step).item()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=0.1)
    with method.around_update(model, x_adv, step):
        for key, weight in model.named_parameters():
            way = weight.detach() - before[key]
            if weight.dim() > 1:
                assert way.norm() == pytest.approx(0.02 * before[key].norm().item(), rel=1e-4)
            else:
                assert not way.any()
        assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())
        moved = method.loss(model, x_adv, step)
        assert moved.item() > loss + 1e-3
        moved.backward()
        optimizer.step()
    assert all(torch.equal(weight, before[key]) for key, weight in model.named_parameters())
    assert model[1].num_batches_tracked == (2 if name in ("trades", "mart") else 1)


@pytest.mark.parametrize("name", AROUND)
def test_awp_takes_the_step_that_its_authors_take(name: str) -> None:
    """Transcribed: a proxy climbs by SGD, the weights move, the optimizer steps, the weights move back.

    In float64, because the sign of a slope near zero decides a pixel.
    """
    x = data()[0].double()
    model, method = network().double().train(), around(name, gamma=0.05)
    proxied, proxy_lr = network().double().train(), 0.1
    optimizers = [
        torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.05) for net in (model, proxied)
    ]
    for seed in range(3):
        update(method, model, begin(method, x=x, randomness=generator(seed)), optimizers[0])
        step = begin(method, x=x, randomness=generator(seed))
        x_adv = method.inner.perturb(proxied, step)
        proxy = copy.deepcopy(proxied)
        proxy.zero_grad()
        (-method.inner.loss(proxy, x_adv, step)).backward()
        torch.optim.SGD(proxy.parameters(), lr=proxy_lr).step()
        ways = {}
        for (key, old), new in zip(proxied.named_parameters(), proxy.parameters(), strict=True):
            if old.dim() > 1:
                way = (new - old).detach()
                ways[key] = old.detach().norm() / (way.norm() + 1e-20) * way
        for sign in (1, -1):
            with torch.no_grad():
                for key, weight in proxied.named_parameters():
                    if key in ways:
                        weight += sign * 0.05 * ways[key]
            if sign == 1:
                optimizers[1].zero_grad()
                method.inner.loss(proxied, x_adv, step).backward()
                optimizers[1].step()
    for one, two in zip(model.state_dict().values(), proxied.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_awp_waits_for_its_warm_up() -> None:
    model, method = network().train(), around("pgd_at", warmup_epochs=2)
    for epoch, moves in ((0.0, False), (1.9, False), (2.0, True)):
        step, before = begin(method, epoch=epoch), model[0].weight.detach().clone()
        with method.around_update(model, step.x, step):
            assert torch.equal(model[0].weight, before) is not moves


def test_awp_puts_the_weights_back_after_an_error() -> None:
    model, method = network().train(), around("pgd_at")
    step, before = begin(method), copy.deepcopy(model.state_dict())

    def interrupted() -> None:
        with method.around_update(model, step.x, step):
            assert not torch.equal(model[0].weight, before["0.weight"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_awp_leaves_a_weight_that_the_loss_does_not_use() -> None:
    model, method = network().train(), around("pgd_at")
    model[2].weight = nn.Parameter(torch.ones(2, 2))
    step = begin(method)
    with method.around_update(model, step.x, step):
        assert torch.equal(model[2].weight, torch.ones(2, 2))


def test_awp_climbs_by_the_gradient_of_all_processes() -> None:
    ways = []
    for processes in (Processes(), Half()):
        model, method = network().train(), around("pgd_at")
        step, before = begin(method, processes=processes), model[4].weight.detach().clone()
        with method.around_update(model, step.x, step):
            ways.append(model[4].weight.detach() - before)
    torch.testing.assert_close(ways[0], -ways[1], rtol=1e-3, atol=1e-6)


class FreeWithSource(Free):
    awp_source = "this test"


def test_awp_needs_one_update_a_batch_whatever_a_method_of_ones_own_says() -> None:
    with pytest.raises(BadInput, match="awp around FreeWithSource is undefined: it is for methods with one update"):
        AWP(FreeWithSource())


def test_awp_says_of_itself_what_its_inner_method_says() -> None:
    assert around("mart").soft_targets is False
    assert around("trades").soft_targets is True
    assert around("trades", beta=1, steps=3).inner == build("trades", {"beta": 1, "steps": 3})


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("pgdat", {}, "unknown method 'pgdat'; did you mean pgd_at"),
        ("pgd_at", {"step": 3}, "unknown parameter 'step' of method 'pgd_at'; did you mean steps"),
        ("standard", {"steps": 3}, "unknown parameter 'steps' of method 'standard'; it takes none"),
        ("pgd_at", {"steps": 0}, "steps"),
        ("pgd_at", {"step_size": -0.1}, "step_size"),
        ("pgd_at", {"step_size": "2/255"}, "step_size"),
        ("pgd_at", {"init": "random"}, "unknown init"),
        *(
            ("pgd_at", {"early_stop": pairs}, "early_stop of pgd_at is .*; give pairs of an epoch and a count from 1")
            for pairs in (1, [[0, 0]], [[0]], [[1, 1], [0, 2]], [[0, 1.5]], [["0", 1]], [[-1, 1]])
        ),
        ("trades", {"beta": 0}, "beta of trades is 0; give a positive number"),
        ("trades", {"steps": 0}, "steps"),
        ("mart", {"beta": "6"}, "beta of mart is '6'; give a positive number"),
        ("fgsm_rs", {"step_over_eps": 0}, "step_over_eps of fgsm_rs is 0"),
        ("n_fgsm", {"k": -1}, "k of n_fgsm is -1"),
        ("gradalign", {"lam": float("nan")}, "lam of gradalign is nan"),
        ("gradalign", {"steps": 2}, "unknown parameter 'steps' of method 'gradalign'; known: lam"),
        ("free", {"replays": 1.5}, "replays of free is 1.5; give a whole number from 1"),
        ("free", {"replays": 0}, "replays of free is 0"),
        ("sglr", {"base": "free"}, "base of sglr is 'free'; give pgd_at or trades; its source joins it to no other"),
        ("sglr", {"base": "trades", "clean_bn_mode": "eval"}, "clean_bn_mode of sglr is for base=pgd_at"),
        ("sglr", {"beta": 3}, "beta of sglr is the weight of TRADES' divergence; leave it out or set base=trades"),
        ("sglr", {"base": "trades", "beta": 0}, "beta of sglr is 0; give a positive number"),
        ("sglr", {"anchor": "none"}, "anchor of sglr is 'none'; give 'fading' or 'interp'"),
        ("sglr", {"start_epoch": 0.5}, "start_epoch of sglr is 0.5; give a whole number from 0"),
        ("sglr", {"momentum": 1}, "momentum of sglr is 1; give a number from 0 to below 1"),
        ("sglr", {"steps": 0}, "steps"),
        ("te", {"base": "mart"}, "base of te is 'mart'; give pgd_at or trades; its source joins it to no other"),
        ("te", {"start_epoch": 5, "end_epoch": 5}, "end_epoch of te is 5; give more than start_epoch, 5"),
        ("te", {"weight": -1}, "weight of te is -1; give a positive number"),
        ("te", {"beta": 6}, "beta of te is the weight of TRADES"),
        *(
            ("awp", {"method": name}, "is undefined: no source joins them; give method=pgd_at or trades or mart or adr")
            for name in METHODS
            if name not in JOINED
        ),
        (
            "moat",
            {"stages": [[0, "single"]]},
            "stages of moat is .*; give pairs of a length above 0 and kinds of examples",
        ),
        ("awp", {"method": "trade"}, "unknown method 'trade'; did you mean trades"),
        ("awp", {"gama": 0.1}, "unknown parameter 'gama' of method 'awp' around 'pgd_at'; did you mean gamma"),
        ("awp", {"method": "trades", "betta": 1}, "unknown parameter 'betta' .* around 'trades'; did you mean beta"),
        ("awp", {"gamma": 0}, "gamma of awp is 0; give a positive number"),
        ("awp", {"warmup_epochs": -1}, "warmup_epochs of awp is -1; give a number from 0"),
    ],
)
def test_bad_methods_are_refused_when_they_are_made(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(name, params)
