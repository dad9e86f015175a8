"""ReLU with the derivative of parametric softplus: the function, the context around a network, the search with it."""

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import Tensor, nn

from satbench import evaluate, load_model
from satbench.attacks import PGD, Attack
from satbench.core.errors import BadInput
from satbench.evaluation.search import Surrogate
from satbench.evaluation.verify import verify
from satbench.models import ModelSpec, build_model
from satbench.models.surrogate import SurrogateReLU, surrogate_derivative
from satbench.models.weights import model_digest
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.results.store import Run

pytestmark = pytest.mark.numeric

GRID = torch.cat([torch.linspace(-3, 3, 601, dtype=torch.float64), torch.tensor([0.0, -0.0, 1e-7, -1e-7, 50, -50])])
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(torch.zeros(()).double(), 10 * x) / 10


def network(architecture: str = "preact-resnet18", activation: str = "relu") -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec(architecture, activation, 5, 3, 8, (0.5,) * 3, (0.25,) * 3, {"width": 4})).eval()


def gradient(model: nn.Module, x: Tensor = X) -> Tensor:
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(model(x).logsumexp(1).sum(), x)
    return found


# the function


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_value_is_relus_to_the_bit(dtype: torch.dtype, inplace: bool) -> None:
    x = torch.cat([GRID, torch.tensor([torch.inf, -torch.inf, torch.nan])]).to(dtype)
    wanted = nn.functional.relu(x).view(torch.uint8)
    assert torch.equal(SurrogateReLU()(x).view(torch.uint8), wanted)
    given = x.clone()
    found = SurrogateReLU(inplace=inplace)(given)
    assert torch.equal(found.view(torch.uint8), wanted)
    assert (found.data_ptr() == given.data_ptr()) is inplace


@pytest.mark.parametrize("inplace", [False, True])
def test_derivatives_are_those_of_parametric_softplus(inplace: bool) -> None:
    """The first is sigmoid(10 x), the second 10 sigmoid(10 x) sigmoid(-10 x); both also as difference quotients."""
    x = GRID.clone().requires_grad_()
    (first,) = torch.autograd.grad(SurrogateReLU(inplace)(x * 1).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    points = GRID.numpy()
    np.testing.assert_allclose(first.detach().numpy(), expit(10 * points), rtol=1e-12)
    np.testing.assert_allclose(second.numpy(), 10 * expit(10 * points) * expit(-10 * points), rtol=0, atol=1e-13)
    h = 1e-5
    torch.testing.assert_close(first.detach(), (softplus(GRID + h) - softplus(GRID - h)) / (2 * h), rtol=0, atol=1e-8)
    curvature = (softplus(GRID + 1e-3) - 2 * softplus(GRID) + softplus(GRID - 1e-3)) / 1e-6
    torch.testing.assert_close(second, curvature, rtol=0, atol=2e-4)


def test_the_incoming_gradient_is_multiplied_and_keeps_its_dtype() -> None:
    x = torch.tensor([-0.1, 0.0, 0.2], requires_grad=True)
    incoming = torch.tensor([2.0, -4.0, 8.0])
    (found,) = torch.autograd.grad(SurrogateReLU()(x), x, incoming)
    torch.testing.assert_close(found, incoming * torch.tensor([expit(-1.0), 0.5, expit(2.0)]).float())
    half = x.detach().bfloat16().requires_grad_()
    assert torch.autograd.grad(SurrogateReLU()(half).sum(), half)[0].dtype == torch.bfloat16


# the context


class TwoLayers(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(3, 6), nn.ReLU(inplace), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        active = self.act(hidden)
        logits: Tensor = self.second(active + hidden)  # an in-place ReLU changes `hidden` too
        return logits


@pytest.mark.parametrize("inplace", [False, True])
def test_both_gradients_of_a_network_follow_the_chain_rule(inplace: bool) -> None:
    torch.manual_seed(0)
    net = TwoLayers(inplace).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    plain = net(x)
    with surrogate_derivative(net):
        smooth = net(x)
        found = torch.autograd.grad(smooth.sum(), [x, net.first.weight])
    assert torch.equal(plain, smooth)
    hidden = (x @ net.first.weight.T + net.first.bias).detach()
    slope = torch.sigmoid(10 * hidden)
    incoming = net.second.weight.sum(0).detach() * (2 * slope if inplace else slope + 1)
    torch.testing.assert_close(found[0], incoming @ net.first.weight.detach())
    torch.testing.assert_close(found[1], incoming.T @ x.detach())


def test_a_network_has_the_surrogate_only_inside() -> None:
    model = network()
    logits, before, keys, digest = model(X), gradient(model), list(model.state_dict()), model_digest(model)
    state = {id(part): (type(part), dict(part.__dict__)) for part in model.modules()}
    with surrogate_derivative(model):
        inside = gradient(model)
        assert torch.equal(model(X), logits)
        assert list(model.state_dict()) == keys
        assert model_digest(model) == digest
        assert not model.training
        with surrogate_derivative(model):
            assert torch.equal(gradient(model), inside)
        assert torch.equal(gradient(model), inside)
        assert torch.equal(gradient(copy.deepcopy(model)), inside)
    assert (inside - before).abs().max() > 0.01 * before.abs().max()
    assert torch.equal(gradient(model), before)
    assert {id(part): (type(part), dict(part.__dict__)) for part in model.modules()} == state


def test_every_relu_of_a_network_gets_it() -> None:
    """With parametric softplus in the forward too, so far from 0 that it is ReLU, the gradients are the same."""
    relu, smooth = network("mlp"), network("mlp", "parametric_softplus")
    with torch.no_grad():
        for model in (relu, smooth):
            for layer in (model.net[1], model.net[3]):
                layer.bias += 1e3 * torch.where(torch.arange(4) % 2 == 0, 1, -1)
    with surrogate_derivative(relu):
        torch.testing.assert_close(gradient(relu), gradient(smooth))
    deep = network()
    hooked: list[str] = []
    for part in deep.modules():
        if type(part) is nn.ReLU:
            part.register_forward_hook(lambda part, given, output: hooked.append(output.grad_fn.name()))
    with surrogate_derivative(deep):
        gradient(deep)
    assert hooked == ["_SurrogateBackward"] * 17


def test_a_graph_keeps_the_derivative_that_it_was_recorded_with() -> None:
    model = network()
    x = X.clone().requires_grad_()
    with surrogate_derivative(model):
        wanted = gradient(model)
        value = model(x).logsumexp(1).sum()
    (found,) = torch.autograd.grad(value, x)
    assert torch.equal(found, wanted)


def test_nothing_is_left_behind_after_an_error() -> None:
    model = network()
    before = gradient(model)
    with pytest.raises(ZeroDivisionError), surrogate_derivative(model):
        raise ZeroDivisionError
    assert torch.equal(gradient(model), before)
    assert not any(isinstance(part, SurrogateReLU) for part in model.modules())


@pytest.mark.parametrize("model", [network("mlp", "silu"), nn.Sequential(nn.ReLU6()), nn.Linear(2, 2)])
def test_a_network_without_relu_is_refused(model: nn.Module) -> None:
    with pytest.raises(BadInput, match=r"no nn\.ReLU whose derivative could be replaced"), surrogate_derivative(model):
        pass


# the search


def run(out: Path, model: str | nn.Module, attack: str | list[Attack] = "pgd:steps=20", **options: object) -> Run:
    settings: dict[str, object] = {"eps": "0.1", "n": 60, "dataset": "digits", "device": "cpu", "trust": False}
    return evaluate(model, out, attack, **settings | options)  # type: ignore[arg-type]


def test_a_search_with_it_is_labelled_and_judged_on_the_network(tmp_path: Path) -> None:
    model = load_model("digits-relu")
    digest = model_digest(model)
    true = run(tmp_path / "true", model)
    smooth = run(tmp_path / "smooth", model, search="surrogate", save_examples=True)
    assert [info.wraps for info in smooth.manifest.attacks] == true.manifest.attacks
    assert smooth.manifest.attacks[0].id == f"Surrogate(attack={true.manifest.attacks[0].id})"
    assert smooth.manifest.search.identity == true.manifest.search.identity | {"form": "surrogate"}
    assert 0 < smooth.records["broken"].sum() < 60
    standing = ~smooth.records["broken"] & ~true.records["broken"]
    assert (smooth.records["margin"] != true.records["margin"])[standing].any()
    assert verify(smooth, "digits-relu").faults == []
    assert model_digest(model) == digest
    assert {type(part) for part in model.modules() if isinstance(part, nn.ReLU)} == {nn.ReLU}


class Asleep(nn.Module):
    """Its hidden unit, 0 on images that are half bright, alone can change the class."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.weights = nn.ReLU(), nn.Parameter(torch.eye(10))

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1, keepdim=True)
        other = self.act(bright - 0.52)  # 0 on images that are 0.5 bright
        logits: Tensor = self.weights[:1] * 0.01 + self.weights[1:2] * other * 10
        return logits


def test_its_steps_follow_the_surrogate_and_no_other_gradient() -> None:
    """A unit that is off but near 0 hides the way from ReLU's derivative, not from sigmoid(10 x)."""
    images = torch.full((4, 1, 4, 4), 0.5)
    attack = PGD(steps=5, init="zero")
    given = Asleep(), images, torch.zeros(4, dtype=torch.int64), ThreatModel("Linf", 0.1), torch.Generator()
    assert (given[0](attack(*given)).argmax(1) == 0).all()
    assert (given[0](Surrogate(attack)(*given)).argmax(1) == 1).all()


@dataclass(frozen=True)
class Pair:
    """PGD of some steps, and of more for what it leaves."""

    @property
    def stages(self) -> tuple[Attack, ...]:
        return PGD(steps=3), PGD(steps=10)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        raise AssertionError("the harness runs the stages")


def test_every_stage_of_an_ensemble_searches_with_it(tmp_path: Path) -> None:
    found = run(tmp_path, "digits-relu", [Pair()], eps="0.2", search="surrogate")
    assert [info.id for info in found.manifest.attacks] == ["Surrogate(attack=Pair())"]
    assert set(found.records["stage"]) - {""} == {f"Surrogate(attack={stage})" for stage in Pair().stages}


@dataclass(frozen=True)
class Idle:
    """An attack from outside, which is not tried before the run."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return x


def test_a_search_with_it_needs_relu_where_it_searches(tmp_path: Path) -> None:
    told: list[object] = []
    for model, source in (("digits-silu", None), ("digits-relu", "digits-silu")):
        with pytest.raises(BadInput, match=r"no nn\.ReLU whose derivative could be replaced"):
            run(
                tmp_path / "refused",
                model,
                [Idle()],
                n=300,
                source=source,
                search="surrogate",
                progress=lambda *said: told.append(said),
            )
    assert told == []  # not even of the images that are misclassified as they are
    assert not (tmp_path / "refused").exists()
    done = run(tmp_path / "done", "digits-silu", n=10, source="digits-relu", search="surrogate")
    assert done.manifest.attacks[0].id.startswith("Transfer(attack=Surrogate(attack=PGD(")
