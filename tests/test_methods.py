"""Training methods: what they leave alone, what they cost, what they minimise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from satbench.errors import BadInput
from satbench.lookup import pick
from satbench.methods import METHODS
from satbench.seeding import generator
from satbench.threat import ThreatModel

CASES: dict[str, list[dict[str, Any]]] = {
    "standard": [{}],
    "pgd_at": [{}, {"steps": 1}, {"steps": 3, "init": "zero", "step_size": 0.02}, {"steps": 2, "init": "gaussian"}],
}
EVERY = [pytest.param(name, params, id=f"{name}-{i}") for name in CASES for i, params in enumerate(CASES[name])]
THREATS = [ThreatModel("Linf", 0.1), ThreatModel("L2", 0.6), ThreatModel("L1", 3.0)]
on_every_case = pytest.mark.parametrize(("name", "params"), EVERY)
on_every_threat = pytest.mark.parametrize("threat", THREATS, ids=str)


def network() -> nn.Module:
    """With batch normalisation, whose statistics must not move while images are crafted."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3))
    model[4].bias.grad = torch.ones(3)
    model[2].eval()
    return model


def data() -> tuple[Tensor, Tensor]:
    return torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


def build(name: str, params: dict[str, Any]) -> Any:
    return pick(METHODS, name, "method", **params)


def test_every_method_is_under_contract() -> None:
    assert set(CASES) == set(METHODS)
    assert len({param.values[0] for param in EVERY}) == len(METHODS)


@on_every_threat
@on_every_case
def test_crafting_leaves_the_model_as_it_was(name: str, params: dict[str, Any], threat: ThreatModel) -> None:
    model, method = network(), build(name, params)
    x, y = data()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    global_state, gradient = torch.get_rng_state(), model[4].bias.grad
    x_adv = method.perturb(model, x, y, threat, generator(0))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    assert [p.grad is None for p in model.parameters()] == [True] * 5 + [False]
    assert model[4].bias.grad is gradient
    assert torch.equal(gradient, torch.ones(3))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(x, data()[0])
    assert x_adv.shape == x.shape
    assert x_adv.dtype == x.dtype
    assert not x_adv.requires_grad
    assert threat.contains(x, x_adv).all()
    assert torch.equal(method.perturb(model, x, y, threat, generator(0)), x_adv)


@on_every_case
def test_the_stated_cost_is_the_number_of_passes(name: str, params: dict[str, Any]) -> None:
    model, method = network(), build(name, params)
    x, y = data()
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    x_adv = method.perturb(model, x, y, THREATS[0], generator(0))
    method.loss(model, x, x_adv, y)
    assert seen == [len(x)] * method.cost


@on_every_case
def test_the_loss_is_a_finite_scalar_with_gradient(name: str, params: dict[str, Any]) -> None:
    model, method = network(), build(name, params)
    model.zero_grad()
    x, y = data()
    loss = method.loss(model, x, method.perturb(model, x, y, THREATS[0], generator(0)), y)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model[1:].parameters())


@pytest.mark.parametrize("name", ["standard", "pgd_at"])
@pytest.mark.parametrize("training", [True, False])
def test_the_loss_is_cross_entropy_in_the_mode_of_the_model(name: str, training: bool) -> None:
    model, method = network().train(training), build(name, {})
    x, y = data()
    x_adv = (x + 0.1).clamp(0, 1)
    before = model[1].running_mean.clone()
    loss = method.loss(model, x, x_adv, y).item()
    assert torch.equal(model[1].running_mean, before) is not training
    with torch.no_grad():
        z = model(x_adv).double().numpy()
    assert loss == pytest.approx(np.mean(np.log(np.exp(z).sum(1)) - z[range(8), y.numpy()]), rel=1e-5)


def test_standard_training_sees_the_images_as_they_are() -> None:
    x, y = data()
    assert torch.equal(build("standard", {}).perturb(network(), x, y, THREATS[0], generator(0)), x)


@pytest.mark.parametrize("steps", [1, 3])
def test_pgd_at_follows_the_gradient_in_eval_mode(steps: int) -> None:
    """By hand: x <- clip(x + step sign(grad)) from the image itself; a single step has length eps."""
    model, eps = network(), 0.05
    x, y = data()
    step = eps if steps == 1 else 0.02
    params = {"init": "zero", "steps": steps, "step_size": None if steps == 1 else step}
    crafted = build("pgd_at", params).perturb(model, x, y, ThreatModel("Linf", eps), generator(0))
    model.eval()
    point = x
    for _ in range(steps):
        point = point.detach().requires_grad_()
        (grad,) = torch.autograd.grad(nn.functional.cross_entropy(model(point), y), point)
        point = (point + step * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    torch.testing.assert_close(crafted, point.detach(), rtol=0, atol=1e-6)


def test_pgd_at_starts_at_random_and_moves_with_its_generator() -> None:
    model, method = network(), build("pgd_at", {"steps": 1, "step_size": 1e-6})
    x, y = data()
    one, other = (method.perturb(model, x, y, THREATS[0], generator(seed)) for seed in (0, 1))
    assert (one - other).abs().mean() > 0.02


def test_pgd_at_takes_the_ten_steps_of_rice_et_al_by_default() -> None:
    assert build("pgd_at", {}).cost == 11


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
    ],
)
def test_bad_methods_are_refused_when_they_are_made(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(name, params)
