"""Training crafts its images on a copy of the network: the same images up to rounding, and the network left alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_search_copy import OTHERS, PROBE, Standardised, Uncopyable, assert_same_function, block, with_twin
from tiny_training import tiny, write_rows
from torch import Tensor, nn

from satbench import train
from satbench.core.errors import BadInput
from satbench.methods import METHODS, Method
from satbench.methods.base import Step
from satbench.models import ModelSpec, build_model
from satbench.models.search_copy import SearchCopy, training_copy
from satbench.models.weights import model_digest
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.training.attacked import attacked
from satbench.training.dry_run import described, dry_run
from satbench.training.step import Learner

pytestmark = pytest.mark.numeric

THREAT = ThreatModel("Linf", 0.1)
LABELS = torch.arange(4)


class PowerCut(Exception):
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


def fresh(architecture: str, activation: str = "silu", **params: int) -> nn.Module:
    """As training starts with it: its batch norms hardly change their input."""
    torch.manual_seed(0)
    return build_model(ModelSpec(architecture, activation, 5, 3, 16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), params))


def learn(net: nn.Module, search: SearchCopy | None, method: Method, updates: int = 3, **options: Any) -> list[Tensor]:
    """Train on `PROBE`; the images of every update."""
    seen: list[Tensor] = []

    class Watched(type(method)):  # type: ignore[misc]
        def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
            seen.append(x_adv.detach().clone())
            loss: Tensor = super().loss(model, x_adv, step)
            return loss

    watched = copy.copy(method)
    object.__setattr__(watched, "__class__", Watched)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9)
    learner = Learner(net, optimizer, watched, search=search, **options)
    x = PROBE.to(next(net.parameters()).dtype)
    for number in range(updates):
        learner.update(Step.of(x, LABELS, THREAT, generator(0, "attack", number)), 0.1)
    return seen


# the copy


NETWORKS = {
    "pre-activation residual": lambda: fresh("preact-resnet18", width=8),
    "residual": lambda: fresh("resnet18-cifar", width=8),
    "learnable activations": lambda: fresh("cnn-small", "psilu", width=8),
    "no batch norm": lambda: fresh("mlp", width=16),
    "activation inside the norm": lambda: fresh("timm:resnet10t"),
    "tied weights": lambda: tied(),
}


def tied() -> nn.Module:
    model = with_twin(lambda self, x: self.bn(self.conv(x)) + self.twin(x), nn.Conv2d(3, 6, 3))
    model.twin.weight = model.conv.weight
    model.other_name = model.conv
    return model


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_refreshed_copy_computes_what_the_trained_network_computes(name: str) -> None:
    net = NETWORKS[name]().train()
    search = training_copy(net, PROBE)
    learn(net, search, METHODS["pgd_at"](steps=2))
    with pytest.raises(AssertionError):
        assert_same_function(search.module, net.eval())  # it has the weights before the last update
    where = {key: tensor.data_ptr() for key, tensor in search.module.state_dict().items()}
    search.refresh()
    assert_same_function(search.module, net.eval())
    assert {key: tensor.data_ptr() for key, tensor in search.module.state_dict().items()} == where
    assert not any(tensor.requires_grad for tensor in search.module.parameters())


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_refreshed_copy_has_the_bits_of_a_new_one(precision: str) -> None:
    net = fresh("preact-resnet18", "psilu", width=8)
    search = training_copy(net, PROBE, precision)
    scaled = ", 9 as scale and shift" if precision == "float32" else ""
    assert search.how == f"folded 8 batch norms{scaled}, channels last, {precision}"
    learn(net, search, METHODS["pgd_at"](steps=2), precision=precision)
    search.refresh()
    found, wanted = (one.module.state_dict() for one in (search, training_copy(net, PROBE, precision)))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
        assert found[name].stride() == tensor.stride()


def test_making_a_copy_changes_nothing() -> None:
    net = fresh("preact-resnet18", width=8)
    digest, state, modes = model_digest(net), torch.get_rng_state(), [part.training for part in net.modules()]
    training_copy(net, PROBE)
    assert model_digest(net) == digest
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in net.modules()] == modes
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_what_only_looks_foldable_before_training_is_not_folded() -> None:
    """A fresh batch norm divides by sqrt(1 + eps), which a comparison within 1e-4 does not see."""
    net = block(conv=Standardised(3, 6, 3)).train()
    net.bn.reset_running_stats()
    net.bn.reset_parameters()
    search = training_copy(net, PROBE)
    assert search.folded == ()
    learn(net, search, METHODS["pgd_at"](steps=2))
    search.refresh()
    assert_same_function(search.module, net.eval(), OTHERS)


# the step


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (METHODS["pgd_at"](steps=4), {}),
        (METHODS["pgd_at"](steps=4, early_stop=[[0, 1]]), {}),
        (METHODS["trades"](steps=4), {}),
        (METHODS["awp"](steps=4), {}),
        (METHODS["fgsm_rs"](), {}),
        (METHODS["pgd_at"](steps=4), {"surrogate_attacker": True}),
    ],
    ids=["pgd_at", "early stop", "trades", "awp", "fgsm_rs", "surrogate"],
)
def test_images_and_weights_are_those_of_the_network_itself(method: Method, options: dict[str, Any]) -> None:
    """In float64, where rounding is 1e-16 and grows by a few updates."""
    nets = [fresh("preact-resnet18", "relu", width=4).double() for _ in range(2)]
    search = training_copy(nets[0], PROBE.double())
    assert search.folded
    on_copy = learn(nets[0], search, method, **options)
    on_network = learn(nets[1], None, method, **options)
    for one, other in zip(on_copy, on_network, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
        assert (one - PROBE).abs().max() > 0.05
    for name, tensor in nets[1].state_dict().items():
        torch.testing.assert_close(nets[0].state_dict()[name], tensor, rtol=0, atol=1e-9)


def test_the_network_is_not_touched_while_images_are_crafted() -> None:
    net = fresh("cnn-small", width=4)
    search = training_copy(net, PROBE)
    states: list[tuple[str, list[bool], list[bool]]] = []
    given: list[nn.Module] = []

    def look() -> None:
        assert all(weight.grad is None for weight in net.parameters())
        modes = [part.training for part in net.modules()]
        states.append((model_digest(net), modes, [weight.requires_grad for weight in net.parameters()]))

    class Looking(METHODS["pgd_at"]):  # type: ignore[misc]
        def perturb(self, model: nn.Module, step: Step) -> Tensor:
            given.append(model)
            look()
            x_adv: Tensor = super().perturb(model, step)
            look()
            return x_adv

    look()
    learn(net, search, Looking(steps=2), updates=1)
    assert states[0] == states[1] == states[2]
    assert given == [search.module]
    assert model_digest(net) != states[0][0]
    assert all(weight.grad is None and not weight.requires_grad for weight in search.module.parameters())


# the decision


PGD4 = {"method.steps": 4}


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (PGD4, "on a copy of the network (folded 3 batch norms, channels last, float32)"),
        (
            {**PGD4, "speed.precision": "bf16-attack"},
            "on a copy of the network (folded 3 batch norms, channels last, bf16)",
        ),
        ({**PGD4, "speed.channels_last": True}, "on a copy of the network (folded 3 batch norms"),
        ({"method.steps": 2, "speed.search_copy": True}, "on a copy of the network (folded 3"),
        ({"method.steps": 2}, "on the network itself (fewer than 3 gradients an update)"),
        ({"method": "awp", "method.steps": 2}, "on the network itself (fewer than 3"),
        ({"method": "awp", "method.steps": 3}, "on a copy of the network"),
        ({**PGD4, "speed.search_copy": False}, "on the network itself (speed.search_copy=false)"),
        ({**PGD4, "attack_bn_mode": "train"}, "on the network itself (attack_bn_mode=train"),
        ({"method": "free"}, "on the network itself (free, which crafts no image"),
        ({**PGD4, "model": "mlp", "model.width": 8}, "on the network itself (a copy would be no faster)"),
        (
            {**PGD4, "model": "mlp", "model.width": 8, "speed.search_copy": True},
            "on a copy of the network (a plain copy, float32)",
        ),
    ],
)
def test_the_dry_run_says_what_images_are_crafted_on(changes: dict[str, object], words: str, dataset: str) -> None:
    config = tiny(dataset, **changes)
    lines = described(config, dry_run(config, "cpu"))
    assert any(line.startswith(f"attack: {words}") for line in lines), lines


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"attack_bn_mode": "train"}, "speed.search_copy=true with attack_bn_mode=train"),
        ({"method": "free"}, "speed.search_copy=true with free, which crafts no image"),
        ({"speed.compile": True}, "speed.search_copy=true with speed.compile"),
    ],
)
def test_a_copy_that_cannot_be_is_refused_before_anything_is_written(
    changes: dict[str, object], hint: str, dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        train(tiny(dataset, **{"speed.search_copy": True}, **changes), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_copied_is_attacked_itself_or_refused(dataset: str) -> None:
    given = METHODS["pgd_at"](steps=4), Uncopyable(block()), (3, 16, 16), torch.device("cpu")
    copy, how = attacked(tiny(dataset, **PGD4), *given)
    assert copy is None
    assert how.startswith("on the model itself, because no copy of it computes the same (TypeError: cannot pickle")
    with pytest.raises(BadInput, match=r"speed\.search_copy=true cannot be met: .*cannot pickle"):
        attacked(tiny(dataset, **PGD4, **{"speed.search_copy": True}), *given)


def test_a_compiled_network_is_attacked_itself(dataset: str) -> None:
    config = tiny(dataset, **PGD4, **{"speed.compile": True})
    copy, how = attacked(config, METHODS["pgd_at"](steps=4), block(), (3, 16, 16), torch.device("cpu"))
    assert copy is None
    assert how.startswith("on the network itself (speed.compile")


def test_passes_through_the_copy_are_counted(dataset: str, tmp_path: Path) -> None:
    history = train(tiny(dataset, **PGD4, epochs=1), tmp_path, "cpu").history
    assert (history[0].forward, history[0].backward) == (5, 5)


def test_a_continued_run_decides_on_the_fresh_network(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on to the same bits; a decision on trained weights could be another one."""
    decided: list[str] = []

    def note(model: nn.Module, probe: Tensor, precision: str) -> SearchCopy:
        decided.append(model_digest(model))
        return training_copy(model, probe, precision)

    def cut(done: int, total: int, what: str) -> None:
        if done == 4:
            raise PowerCut

    monkeypatch.setattr("satbench.training.attacked.training_copy", note)
    config = tiny(dataset, **PGD4)
    train(config, tmp_path / "whole", "cpu")
    with pytest.raises(PowerCut):
        train(config, tmp_path / "run", "cpu", progress=cut, save_seconds=0)
    train(config, tmp_path / "run", "cpu")
    assert len(decided) == 3
    assert len(set(decided)) == 1
    for file in ("last.safetensors", "best.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
