"""Averages of weights against sums taken by hand."""

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from satbench.core.errors import BadInput
from satbench.core.lookup import pick
from satbench.numerics.modes import evaluating
from satbench.training.averaging import AVERAGES, EMA, SWA, Average, refresh_batch_norm

pytestmark = pytest.mark.numeric

PARAMS: dict[str, dict[str, object]] = {"ema": {}, "swa": {"start": 1}}
TOTAL = 12  # updates, three an epoch


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(5 * 36, 4)
        )


def images(n: int = 20, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def halves() -> Iterable[Tensor]:
    return images().split(10)


def change(net: nn.Module, number: int) -> None:
    """Stands for an update: every parameter moves and batch norm's statistics with it."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    net.train()
    net(images(8, number))


def run(average: Average, net: nn.Module, updates: range = range(TOTAL)) -> list[list[Tensor]]:
    """The parameters after each update that the average saw."""
    seen = []
    for number in updates:
        change(net, number)
        average.after_update(net, number, TOTAL)
        seen.append([parameter.detach().clone() for parameter in net.parameters()])
        if number % 3 == 2:
            average.after_epoch(net, number // 3, halves)
    return seen


def equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_average_is_covered() -> None:
    assert {"none", *PARAMS} == AVERAGES.keys()


# every average


@pytest.mark.parametrize("name", PARAMS)
def test_an_average_is_a_frozen_copy_in_eval_mode(name: str) -> None:
    net = network()
    average = pick(AVERAGES, name, "averaging", net, **PARAMS[name])
    assert equal(average.module, net)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    run(average, network(5))
    assert not any(module.training for module in average.module.modules())
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("name", PARAMS)
def test_the_average_of_a_constant_is_the_constant(name: str) -> None:
    net = network()
    average = pick(AVERAGES, name, "averaging", net, **PARAMS[name])
    for number in range(TOTAL):
        average.after_update(net, number, TOTAL)
        if number % 3 == 2:
            average.after_epoch(net, number // 3, halves)
    for averaged, present in zip(average.module.parameters(), net.parameters(), strict=True):
        assert torch.equal(averaged, present)


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("stop", [0, 2, 3, 7, 9])
def test_going_on_from_a_state_gives_the_same_bits(name: str, stop: int) -> None:
    net = network()
    whole = pick(AVERAGES, name, "averaging", net, **PARAMS[name])
    run(whole, net, range(stop))
    state = {key: value.clone() for key, value in whole.state().items()}
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    ready = whole.ready
    run(whole, net, range(stop, TOTAL))

    net = network(9)
    resumed = pick(AVERAGES, name, "averaging", net, **PARAMS[name])
    net.load_state_dict(weights)
    resumed.load(state)
    assert resumed.ready == ready
    run(resumed, net, range(stop, TOTAL))
    assert equal(whole.module, resumed.module)
    assert whole.ready
    assert resumed.ready
    assert all(torch.equal(value, resumed.state()[key]) for key, value in whole.state().items())


def test_the_state_of_another_average_is_refused() -> None:
    ema, swa = EMA(network()), SWA(network(), start=0)
    before = {key: value.clone() for key, value in swa.state().items()}
    for state in (ema.state(), {**before, "0.weight": torch.zeros(2)}):
        with pytest.raises(BadInput, match="another network"):
            swa.load(state)
    assert all(torch.equal(value, before[key]) for key, value in swa.state().items())


# EMA


def test_ema_follows_the_formula() -> None:
    """12 updates, a quarter of them warm-up; the fourth weighs the old average 1/10, the fifth 2/11 and so on."""
    net = network()
    average = EMA(net, decay=0.3, warmup=0.25)
    expected: list[Tensor] = []
    for number, parameters in enumerate(run(average, net)):
        k = number - 3
        decay = 0.0 if k < 0 else min(0.3, (1 + k) / (10 + k))
        expected = [
            decay * old + (1 - decay) * new.double()
            for old, new in zip(expected or [p.double() for p in parameters], parameters, strict=True)
        ]
    for averaged, exact in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(averaged.double(), exact, rtol=1e-6, atol=1e-6)


def test_without_decay_ema_is_the_network_itself() -> None:
    net = network()
    average = EMA(net, decay=0)
    run(average, net)
    assert equal(average.module, net)


def test_ema_takes_batch_norms_statistics_by_value_at_the_end_of_an_epoch() -> None:
    net = network()
    average = EMA(net)
    run(average, net, range(3))
    statistics = net[1].running_mean.clone()
    assert torch.equal(average.module[1].running_mean, statistics)
    run(average, net, range(3, 5))
    assert not torch.equal(net[1].running_mean, statistics)
    assert torch.equal(average.module[1].running_mean, statistics)


# SWA


def test_swa_is_the_mean_of_the_epochs_from_its_start() -> None:
    net = network()
    average = SWA(net, start=1)
    ready, ends = [], []
    for epoch in range(4):
        ends.append(run(average, net, range(3 * epoch, 3 * epoch + 3))[-1])
        ready.append(average.ready)
    assert ready == [False, True, True, True]
    for i, averaged in enumerate(average.module.parameters()):
        exact = torch.stack([end[i].double() for end in ends[1:]]).mean(0)
        torch.testing.assert_close(averaged.double(), exact, rtol=3e-7, atol=3e-7)


def test_swas_batch_norm_belongs_to_the_averaged_weights() -> None:
    """The first layer's output over all images, in two equal batches: the mean of their means is the mean of all."""
    net = network()
    average = SWA(net, start=1)
    run(average, net)
    conv, norm = average.module[0], average.module[1]
    features = conv(images()).double()
    torch.testing.assert_close(norm.running_mean.double(), features.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)


def test_batch_norm_is_refreshed_to_the_statistics_of_the_data() -> None:
    net = network().train()
    net[3].eval()
    net[1].running_var.fill_(math.inf)
    refresh_batch_norm(net, [images()])
    features = net[0](images()).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(net[1].running_mean.double(), features.mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].running_var.double(), features.var(1), rtol=1e-5, atol=1e-6)
    assert [module.training for module in net] == [True, True, True, False, True, True]
    assert net[1].momentum == 0.1


def test_batches_weigh_as_many_images_as_they_have() -> None:
    net, parts = network(), images().split([3, 10, 7])
    refresh_batch_norm(net, parts)
    features = net[0](images()).double()
    variances = [net[0](part).double().transpose(0, 1).flatten(1).var(1) * len(part) / 20 for part in parts]
    torch.testing.assert_close(net[1].running_mean.double(), features.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(net[1].running_var.double(), sum(variances), rtol=1e-5, atol=1e-6)


def test_nothing_is_drawn_and_no_parameter_moves_while_batch_norm_is_refreshed() -> None:
    net = network().train()
    parameters = [parameter.detach().clone() for parameter in net.parameters()]
    state = torch.get_rng_state()
    refresh_batch_norm(net, halves())
    assert torch.equal(state, torch.get_rng_state())
    for before, after in zip(parameters, net.parameters(), strict=True):
        assert torch.equal(before, after)
        assert after.grad is None


def test_without_batch_norm_no_batch_is_read() -> None:
    def unread() -> Iterable[Tensor]:
        pytest.fail("a batch was read")
        yield

    refresh_batch_norm(nn.Linear(2, 2), unread())


def test_modes_come_back_after_an_error() -> None:
    net = network().train()
    with pytest.raises(RuntimeError):
        refresh_batch_norm(net, [torch.zeros(2, 1, 8, 8)])
    assert all(module.training for module in net.modules())
    assert net[1].momentum == 0.1


@pytest.mark.parametrize(
    ("name", "params", "hint"),
    [
        ("emma", {}, "ema"),
        ("ema", {"decays": 0.9}, "decay"),
        ("ema", {"decay": 1.1}, "from 0 to 1"),
        ("ema", {"decay": "much"}, "from 0 to 1"),
        ("ema", {"warmup": 1}, "below 1"),
        ("swa", {}, "first epoch to average"),
        ("swa", {"start": -1}, "whole number"),
        ("swa", {"start": 1.5}, "whole number"),
    ],
)
def test_unusable_settings_are_refused(name: str, params: dict[str, object], hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        pick(AVERAGES, name, "averaging", network(), **params)


class Stubborn(nn.Module):
    """A part that refuses eval mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        if not mode:
            raise NotImplementedError
        return super().train(mode)


def test_modes_come_back_where_eval_mode_is_refused_half_way() -> None:
    net = nn.Sequential(nn.Dropout(), Stubborn(), nn.Dropout().eval())
    with pytest.raises(NotImplementedError), evaluating(net):
        pytest.fail("it was entered")
    assert [module.training for module in net.modules()] == [True, True, True, False]
