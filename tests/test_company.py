"""The newer methods with averages of the weights, and weight perturbation around those that a source joins it to."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import BATCHES, BEGUN, tiny, write_rows
from torch import nn

from satbench import train
from satbench.attacks.base import batch_statistics
from satbench.core.errors import BadInput
from satbench.methods import METHODS
from satbench.methods.adr import ADR
from satbench.methods.base import Step, second_network, weights_of
from satbench.numerics.threat import ThreatModel
from satbench.training.stages import method_of
from satbench.training.state import STATE

pytestmark = pytest.mark.numeric

NEWER: dict[str, dict[str, object]] = {
    "moat": {"stages": [[1, "single"], [1, "multi"]], "steps": 2},
    "aft": {"steps": 2, "anchor": 0.5, "early_stop": []},
    "sglr": {"steps": 2, "start_epoch": 1},
    "te": {"steps": 2, "start_epoch": 0, "end_epoch": 1},
    "adr": {"steps": 2, "end_epoch": 2},
}
COMPANY: dict[str, dict[str, object]] = {
    "ema": {"averaging": "ema", "averaging.decay": 0.8},
    "swa": {"averaging": "swa", "averaging.start": 0},
    "awp": {},
}
PAIRS = [(name, company) for name in NEWER for company in COMPANY if company != "awp" or METHODS[name]().awp_source]


ONE = "method=pgd_at or trades or mart or adr"  # the works of Wu et al. 2020, and of Wu et al. 2024


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


def changes(name: str, company: str) -> dict[str, object]:
    params = {f"method.{key}": value for key, value in NEWER[name].items()}
    around = {"method": "awp", "method.method": name} if company == "awp" else {"method": name}
    begun = BEGUN if METHODS[name]().needs_trained else {}
    return {**around, **params, **COMPANY[company], **begun}


@pytest.mark.one_in(8)
@pytest.mark.parametrize(("name", "company"), PAIRS)
def test_every_newer_method_trains_in_company(name: str, company: str, dataset: str, tmp_path: Path) -> None:
    """An average is kept and differs from the network; AWP takes the passes of one more loss."""
    config = tiny(dataset, **changes(name, company))
    run = train(config, tmp_path, "cpu")
    state, kept = load_file(tmp_path / STATE), load_file(tmp_path / "last.safetensors")
    assert all(one.isfinite().all() for one in kept.values())
    weights = [key for key in kept if key.endswith("weight")]
    if company == "awp":
        assert all(torch.equal(kept[key], state[f"model.{key}"]) for key in weights)
        forward = [row.forward for row in run.history]
        assert sum(forward) / 2 == pytest.approx(method_of(config).mean_passes(2).forward)
    else:
        assert all(torch.equal(kept[key], state[f"average.{key}"]) for key in weights)
        assert not any(torch.equal(kept[key], state[f"model.{key}"]) for key in weights)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"method": "adr", "label_smoothing.amount": 0.1}, "label smoothing with adr, whose loss is defined for hard"),
        (
            {"method": "awp", "method.method": "adr", "label_smoothing.amount": 0.1},
            "label smoothing with awp around adr, whose loss is defined for hard labels",
        ),
        ({"method": "adr", "method.base": "mart"}, "pgd_at or trades; its source joins it to no other method"),
        ({"method": "adr", "method.beta": 6}, "beta of adr is the weight of TRADES' divergence"),
        ({"method": "adr", "method.interpolation": 1.2}, "interpolation of adr is 1.2; give a number from 0 to 1"),
        *(
            (
                {"method": "awp", "method.method": name},
                rf"awp around {name} is undefined: no source joins them; give {ONE}",
            )
            for name in ("simclr", "ssl_at", "aft", "moat", "te", "sglr", "fgsm_rs", "gradalign")
        ),
        ({"method": "awp", "method.warmup_epochs": 2}, "awp starts after epoch 2 of 2; set method.warmup_epochs below"),
    ],
)
def test_what_no_source_defines_is_refused(change: dict[str, object], hint: str, dataset: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=hint):
        train(tiny(dataset, **change), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


# the teacher of ADR


def small() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3)).eval()


def begun(method: ADR, net: nn.Module) -> Step:
    x = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    step = Step.of(x, torch.tensor([0, 1, 2, 0, 1, 2]), ThreatModel("Linf", 0.1), torch.Generator().manual_seed(2))
    step.network = net
    method.begin(net, step.state, dict)
    return step


def test_a_second_network_has_statistics_of_its_own_where_the_attack_uses_the_batch() -> None:
    net = small()
    net[1].running_mean.fill_(0.3)
    step = begun(ADR(), net)
    step.state = weights_of(net, "teacher")
    names = list(net.state_dict())
    with torch.no_grad():
        wanted = net(step.x)
    with batch_statistics(net):
        assert torch.equal(second_network(step, "teacher", step.x), wanted)
        assert not torch.allclose(net(step.x), wanted)
    assert list(net.state_dict()) == names
    assert torch.equal(net(step.x), wanted)


@pytest.mark.parametrize(
    ("epoch", "annealed"), [(0, (2.5, 0.7)), (100, (2.25, 0.825)), (200, (2.0, 0.95)), (250, (2.0, 0.95))]
)
def test_temperature_and_interpolation_of_adr_are_annealed(epoch: float, annealed: tuple[float, float]) -> None:
    assert ADR().annealed(epoch) == pytest.approx(annealed)


def test_a_teacher_that_is_sure_of_a_wrong_class_has_no_say() -> None:
    """Its logits are those of class 0: label 0 gets the interpolation, the others stay as they were."""
    net, method = small(), ADR(interpolation=0.8, end_interpolation=0.8, steps=1)
    with torch.no_grad():
        net[3].weight.zero_()
        net[3].bias.copy_(torch.tensor([30.0, 0.0, 0.0]))
    step = begun(method, net)
    method.perturb(net, step)
    label = step.kept["label"]
    torch.testing.assert_close(label.sum(1), torch.ones(6))
    assert torch.equal(label[step.y > 0], torch.eye(3)[step.y[step.y > 0]])
    flat = ADR(interpolation=0.5, end_interpolation=0.5, temperature=1e9, end_temperature=1e9, steps=1)
    flat.perturb(net, step)
    torch.testing.assert_close(step.kept["label"], 0.5 / 3 + 0.5 * torch.eye(3)[step.y])


def test_the_teacher_is_in_the_checkpoint_and_follows_the_network(dataset: str, tmp_path: Path) -> None:
    config = tiny(dataset, method="adr", **{"method.steps": 1, "method.decay": 0.5, "method.end_epoch": 2})
    train(config, tmp_path, "cpu")
    state = load_file(tmp_path / STATE)
    model = {name.removeprefix("model."): one for name, one in state.items() if name.startswith("model.")}
    teacher = {name.removeprefix("method.teacher."): one for name, one in state.items() if "teacher" in name}
    assert teacher.keys() == model.keys()
    counted = [name for name in model if name.endswith("num_batches_tracked")]
    assert [int(teacher[name]) for name in counted] == [2 * BATCHES] * len(counted)
    assert all(not torch.equal(one, model[name]) for name, one in teacher.items() if name.endswith("weight"))
    assert all((one - model[name]).abs().max() < 1 for name, one in teacher.items() if name not in counted)


def test_a_teacher_that_forgets_is_the_network_with_its_statistics(dataset: str, tmp_path: Path) -> None:
    """Also where a batch goes through the network in parts, whose running statistics are averaged after the update."""
    config = tiny(dataset, method="adr", accumulation=3, **{"method.steps": 1, "method.decay": 0, "epochs": 1})
    train(config, tmp_path, "cpu")
    state = load_file(tmp_path / STATE)
    model = {name.removeprefix("model."): one for name, one in state.items() if name.startswith("model.")}
    assert all(torch.equal(state[f"method.teacher.{name}"], one) for name, one in model.items())
    assert any("running_mean" in name for name in model)
