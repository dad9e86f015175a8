"""AutoAttack: equal to the reference implementation, and what that one fails on is repaired."""

import logging
from typing import Any

import pytest
import torch
from attack_contract import EPS, Failing, assert_contract, assert_unchanged, images, mixed_model, state, streams, wrong
from pyautoattack import AutoAttack as Reference
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from satbench.attacks import build_attack, parse_attack
from satbench.attacks.autoattack import COMPONENTS, VERSIONS, AutoAttack, AutoAttackComponent
from satbench.core.errors import BadInput
from satbench.numerics.seeding import generator, integer
from satbench.numerics.threat import ThreatModel

pytestmark = pytest.mark.numeric

NORMS = tuple(EPS)
SOME = {"Linf": 0.06, "L2": 0.25, "L1": 0.7}  # where some images of `net` fall and some stand
GRADIENT = [name for name in COMPONENTS if name != "square"]
QUICK = [("apgd-ce", "Linf"), ("apgd-dlr", "L2"), ("fab-t", "L2"), ("apgd-t", "Linf"), ("fab", "L1"), ("apgd-ce", "L1")]
EVERYTHING = {"Linf": 0.9, "L2": 8.0, "L1": 60.0}  # where all fall, to square within a second


def net(classes: int = 10, shape: tuple[int, int, int] = (1, 5, 5)) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        size = shape[0] * shape[1] * shape[2]
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.SiLU(), nn.Linear(24, classes))
    return model.eval().requires_grad_(False)


def batch(model: nn.Module, count: int, shape: tuple[int, int, int] = (1, 5, 5)) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return x, model(x).argmax(1)


def reference(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, version: str, names: list[str], seed: int
) -> Tensor:
    """What pyautoattack's own door returns when it is told to run these components at this version's settings."""
    with torch.random.fork_rng():
        whole = Reference(
            model,
            attacks=names if version == "custom" else None,
            eps=threat.eps,
            norm=threat.norm,
            seed=seed,
            version=version,
        )
        whole.attacks_to_run = names
        found: Tensor = whole.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return found


@pytest.mark.one_in(8)
@pytest.mark.parametrize(
    ("name", "version", "norm"),
    [
        *((name, "standard", norm) for name, norm in QUICK),
        ("apgd-ce", "rand", "Linf"),
        *(
            pytest.param(name, "standard", norm, marks=pytest.mark.slow)
            for name in GRADIENT
            for norm in NORMS
            if (name, norm) not in QUICK
        ),
        pytest.param("apgd-ce", "plus", "L2", marks=pytest.mark.slow),
        pytest.param("apgd-t", "plus", "L1", marks=pytest.mark.slow),
    ],
)
def test_a_component_returns_what_the_reference_returns(name: str, version: str, norm: str) -> None:
    model = net()
    x, y = batch(model, 6)
    threat = ThreatModel(norm, SOME[norm])
    expected = reference(model, x, y, threat, version, [name], seed=integer(streams(6)))
    found = AutoAttackComponent(name, version=version)(model, x, y, threat, streams(6))
    assert torch.equal(found, expected)
    assert 0 < wrong(model, found, y).sum() < 6


@pytest.mark.parametrize("norm", NORMS)
def test_square_returns_what_the_reference_returns(norm: str) -> None:
    """On images that all fall in the end, because one that stands costs 5,000 passes."""
    model = net()
    x, y = batch(model, 5)
    threat = ThreatModel(norm, {"Linf": 0.3, "L2": 1.0, "L1": 5.0}[norm])
    seed = integer(streams(5))
    expected = reference(model, x, y, threat, "standard", ["square"], seed)
    found = AutoAttackComponent("square")(model, x, y, threat, streams(5))
    assert torch.equal(found, expected)
    assert wrong(model, found, y).all()


def conv_net(batch_norm: bool) -> nn.Module:
    """On 2-channel images of 9 x 9, with batch norms whose statistics are not the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers: list[nn.Module] = []
        for before, after in ((2, 6), (6, 8)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), *[nn.BatchNorm2d(after)] * batch_norm, nn.ReLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 9, 10))
        model.train()(torch.rand(64, 2, 9, 9))
    return model.eval()


def mixed_images(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Six with labels the model gives them: noise, noise in eight bits, one mostly black and white, one all black."""
    x = torch.rand(6, 2, 9, 9, generator=torch.Generator().manual_seed(4))
    x[2:4] = (x[2:4] * 255).round() / 255
    x[4], x[5] = (3 * x[4] - 1).clamp(0, 1), 0
    return x, model(x).argmax(1)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("name", "eps", "batch_norm"),
    [
        ("fab", 0.02, False),
        ("fab-t", 0.02, True),
        ("square", 0.05, False),
        pytest.param("fab", 0.02, True, marks=pytest.mark.slow),
        pytest.param("fab-t", 0.02, False, marks=pytest.mark.slow),
        pytest.param("square", 0.05, True, marks=pytest.mark.slow),
    ],
)
def test_linf_returns_what_the_reference_returns_on_any_network(name: str, eps: float, batch_norm: bool) -> None:
    """Where our projection and our search of squares stand in for the reference's; some images are never broken."""
    model = conv_net(batch_norm)
    x, y = mixed_images(model)
    threat = ThreatModel("Linf", eps)
    expected = reference(model, x, y, threat, "standard", [name], seed=integer(streams(6)))
    found = AutoAttackComponent(name)(model, x, y, threat, streams(6))
    assert torch.equal(found, expected)
    assert 0 < wrong(model, found, y).sum() < 6


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", ["fab", "fab-t", "square"])
def test_a_dead_network_returns_what_the_reference_returns(name: str) -> None:
    """Gradients of exactly zero for images darker than 0.9."""

    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.flatten(1)[:, :10] - 0.9) + torch.arange(10).flip(0) / 50

    x = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    x[:2] *= 0.5
    y, threat = Dead()(x).argmax(1), ThreatModel("Linf", 0.2)
    expected = reference(Dead(), x, y, threat, "standard", [name], seed=integer(streams(4)))
    assert torch.equal(AutoAttackComponent(name)(Dead(), x, y, threat, streams(4)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["standard", "plus"])
def test_the_ensemble_returns_what_the_reference_returns(version: str) -> None:
    """The reference takes the seeds that our stages draw, one for each component."""
    model = net()
    x, y = batch(model, 12)
    threat = ThreatModel("Linf", SOME["Linf"])
    found = AutoAttack(version)(model, x, y, threat, generator(3))
    draws = generator(3)
    with torch.random.fork_rng():
        whole = Reference(model, eps=threat.eps, norm=threat.norm, seed=0, version=version)
        whole.get_seed = lambda: integer(draws)
        expected = whole.run_standard_evaluation(x, y, batch_size=12)[0]
    assert torch.equal(wrong(model, found, y), wrong(model, expected, y))
    assert 0 < wrong(model, found, y).sum() < 12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("version", list(VERSIONS))
def test_every_setting_is_the_references(version: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attributes with which each part is called, one by one."""
    called: list[dict[str, Any]] = []
    left_out = {"model", "predict", "logger"}

    def record(self: Any, x: Tensor, y: Tensor) -> Tensor:
        called.append({key: value for key, value in vars(self).items() if key not in left_out})
        return x.clone()

    for cls in (APGDAttack, APGDAttack_targeted, FABAttack_PT, SquareAttack):
        monkeypatch.setattr(cls, "perturb", record)
    model = net()
    x, y = batch(model, 3)
    names = list(VERSIONS[version]) or ["apgd-ce", "apgd-dlr", "fab", "fab-t", "square", "apgd-t"]
    seed = integer(generator(0))
    reference(model, x, y, ThreatModel(norm, SOME[norm]), version, names, seed)
    expected, called[:] = [*called], []
    for name in names:
        AutoAttackComponent(name, version=version)(model, x, y, ThreatModel(norm, SOME[norm]), generator(0))
    assert len(called) == len(expected) == len(names)
    assert called == [{**one, "device": torch.device("cpu")} for one in expected]


def test_the_stages_are_those_of_the_paper() -> None:
    assert AutoAttack().stages == tuple(AutoAttackComponent(name) for name in ("apgd-ce", "apgd-t", "fab-t", "square"))
    for version in ("standard", "plus", "rand"):
        whole = Reference(net(), version=version)
        assert [stage.name for stage in AutoAttack(version).stages] == whole.attacks_to_run
    custom = AutoAttack("custom", "square+fab", unit=7).stages
    assert custom == tuple(AutoAttackComponent(name, 7, "custom") for name in ("square", "fab"))


def test_the_identities() -> None:
    assert repr(AutoAttack()) == "AutoAttack(version='standard', components='', unit=250)"
    assert repr(build_attack("apgd-t", {})) == "AutoAttackComponent(name='apgd-t', unit=250)"
    assert repr(AutoAttack("plus", unit=9).stages[0]) == ("AutoAttackComponent(name='apgd-ce', unit=9, version='plus')")


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    ("name", "norm"),
    [("apgd-ce", "Linf"), ("apgd-dlr", "L2"), ("apgd-t", "L1"), ("fab", "L2"), ("fab-t", "Linf"), ("fab-t", "L1")],
)
def test_the_contract(name: str, norm: str) -> None:
    model = mixed_model()
    x, y = images(model)
    assert_contract(AutoAttackComponent(name), ThreatModel(norm, EPS[norm]), model, x, y)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("norm", NORMS)
def test_the_contract_of_square_and_of_the_ensemble(norm: str) -> None:
    model = mixed_model()
    x, y = images(model)
    threat = ThreatModel(norm, EVERYTHING[norm])
    for attack in (AutoAttackComponent("square"), AutoAttack(unit=3)):
        x_adv = assert_contract(attack, threat, model, x, y)
        assert wrong(mixed_model(), x_adv, y).all()


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize("allowed", [0, 1, 2, 4, 9])
def test_everything_is_restored_after_the_model_raises(name: str, allowed: int) -> None:
    model = Failing(mixed_model(), allowed)
    x, y = images(model.inner)
    before = state(model)
    with pytest.raises(RuntimeError, match="out of passes"):
        AutoAttackComponent(name)(model, x, y, ThreatModel("Linf", 1e-4), streams(len(x)))
    assert_unchanged(before, state(model))


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_radius_of_zero_costs_nothing(name: str) -> None:
    x = torch.rand(3, 2, 6, 6)
    model = Failing(mixed_model(), 0)
    assert torch.equal(AutoAttackComponent(name)(model, x, torch.zeros(3).long(), ThreatModel("L2", 0), streams(3)), x)


@pytest.mark.one_in(12)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", COMPONENTS)
def test_few_classes(name: str, classes: int, norm: str) -> None:
    """The reference raises IndexError here, or asks for targets that do not exist."""
    model = net(classes)
    x, y = batch(model, 5)
    threat = ThreatModel(norm, EVERYTHING[norm])
    x_adv = AutoAttackComponent(name)(model, x, y, threat, streams(5))
    assert threat.contains(x, x_adv).all()
    assert wrong(model, x_adv, y).all()


@pytest.mark.one_in(3)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", GRADIENT)
def test_few_classes_where_all_stand(name: str, classes: int) -> None:
    """So that every target is tried."""
    model = net(classes)
    x, y = batch(model, 3)
    x_adv = AutoAttackComponent(name)(model, x, y, ThreatModel("Linf", 1e-5), streams(3))
    assert not wrong(model, x_adv, y).any()


@pytest.mark.parametrize(
    ("name", "classes", "said"),
    [("apgd-dlr", 2, True), ("apgd-dlr", 3, False), ("apgd-t", 3, True), ("apgd-t", 4, False)],
)
def test_a_margin_in_place_of_dlr_is_told(
    name: str, classes: int, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = net(classes)
    x, y = batch(model, 2)
    with caplog.at_level(logging.INFO, "satbench.attacks"):
        AutoAttackComponent(name)(model, x, y, ThreatModel("Linf", 0.01), streams(2))
    assert (f"{name} ascends the margin, because DLR is undefined for {classes} classes" in caplog.text) == said


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize(
    "shape", [(1, 2, 2), (2, 3, 7), (3, 4, 4), (1, 8, 8), (1, 12, 12), (1, 14, 9), (1, 24, 5), (2, 32, 24)]
)
def test_square_takes_every_size(shape: tuple[int, int, int], norm: str) -> None:
    """The reference divides by zero below 5 rows, and its first tiles overrun 12, 14 or 24 rows and 32 x 24."""
    model = net(3, shape)
    x, y = batch(model, 2, shape)
    threat = ThreatModel(norm, {"L2": x[0].numel() ** 0.5, "L1": x[0].numel()}[norm])
    x_adv = AutoAttackComponent("square")(model, x, y, threat, streams(2))
    assert threat.contains(x, x_adv).all()
    assert wrong(model, x_adv, y).all()


@pytest.mark.parametrize("size", [12, 14, 18, 19, 24, 4])
def test_the_reference_does_not_take_these_sizes(size: int) -> None:
    """Should this fail with a newer pyautoattack, the border in our Square can go."""
    model = net(3, (1, size, size))
    x, y = batch(model, 2, (1, size, size))
    with torch.random.fork_rng(), pytest.raises((RuntimeError, ZeroDivisionError)):
        SquareAttack(model, norm="L2", eps=0.01, n_queries=1, device="cpu").perturb(x, y)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", GRADIENT)
def test_one_image(name: str, norm: str) -> None:
    model = net()
    x, y = batch(model, 1)
    threat = ThreatModel(norm, EVERYTHING[norm])
    x_adv = AutoAttackComponent(name)(model, x, y, threat, streams(1))
    assert x_adv.shape == x.shape
    assert wrong(model, x_adv, y).all()


def test_channels_last_and_double_precision_come_back_as_they_were() -> None:
    model = net(4, (3, 5, 5))
    x, y = batch(model, 3, (3, 5, 5))
    threat = ThreatModel("L2", 0.5)
    expected = AutoAttackComponent("apgd-ce")(model, x, y, threat, streams(3))
    strided = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(AutoAttackComponent("apgd-ce")(model, strided, y, threat, streams(3)), expected)
    double = AutoAttackComponent("apgd-ce")(model, x.double(), y, threat, streams(3))
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, rtol=0, atol=1e-6)


def test_the_unit_decides_which_images_draw_together() -> None:
    model = net()
    x, y = batch(model, 12)
    threat = ThreatModel("L2", SOME["L2"])
    cut = AutoAttackComponent("apgd-ce", unit=5)(model, x, y, threat, streams(12))
    assert not torch.equal(cut, AutoAttackComponent("apgd-ce")(model, x, y, threat, streams(12)))
    for first, last in ((0, 5), (5, 10), (10, 12)):
        part = slice(first, last)
        alone = AutoAttackComponent("apgd-ce")(model, x[part], y[part], threat, streams(last - first, first=first))
        torch.testing.assert_close(cut[part], alone, rtol=0, atol=1e-6)


class Brink(nn.Module):
    """Class 1 wins above a mean of 0.6, where the gradient has been NaN from 0.58 on."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1, keepdim=True)
        other = torch.zeros_like(mean)
        logits = torch.cat([torch.ones_like(mean), 10 * (mean - 0.5), other, other - 1], 1)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: torch.where(mean > 0.58, torch.nan, gradient))
        return logits


@pytest.mark.one_in(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_fab_keeps_what_it_found_before_the_gradient_was_nan(name: str, norm: str) -> None:
    """Its first step lands beyond 0.6, the next turns the reference's example into NaN."""
    x = torch.full((2, 1, 2, 2), 0.52)
    y = torch.zeros(2, dtype=torch.int64)
    threat = ThreatModel(norm, {"Linf": 0.1, "L2": 0.2, "L1": 0.4}[norm])
    if (name, norm) == ("fab", "L2"):
        assert not wrong(Brink(), reference(Brink(), x, y, threat, "standard", [name], seed=1), y).any()
    x_adv = AutoAttackComponent(name)(Brink(), x, y, threat, streams(2))
    assert threat.contains(x, x_adv).all()
    assert wrong(Brink(), x_adv, y).all()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["fab", "fab-t"])
def test_fab_stands_still_without_a_gradient(name: str, norm: str) -> None:
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([1.0, 0.0, -1.0]).expand(len(x), 3) + 0 * x.flatten(1).sum(1, keepdim=True)

    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_adv = AutoAttackComponent(name)(Flat(), x, torch.zeros(3).long(), ThreatModel(norm, 0.5), streams(3))
    assert torch.equal(x_adv, x)


class Poisoned(nn.Module):
    """A linear network whose gradient is NaN on images with a bright first pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net(4)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        if logits.requires_grad:
            bright = x[:, 0, 0, 0] > 0.5
            logits.register_hook(lambda grad: torch.where(bright[:, None], torch.nan, grad))
        return logits


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("name", "norm"),
    [("apgd-ce", "Linf"), ("apgd-t", "L2"), *((name, norm) for name in ("fab", "fab-t") for norm in NORMS)],
)
def test_nan_gradients_spoil_their_own_images_alone(name: str, norm: str) -> None:
    model = Poisoned()
    x, y = batch(model.inner, 6)
    threat = ThreatModel(norm, SOME[norm])
    x[:3, 0, 0, 0], x[3:, 0, 0, 0] = 0.99, 0.01
    y = model(x).argmax(1)
    x_adv = AutoAttackComponent(name)(model, x, y, threat, streams(6))
    assert threat.contains(x, x_adv).all()
    healthy = AutoAttackComponent(name)(model.inner, x, y, threat, streams(6))
    assert torch.equal(wrong(model, x_adv, y)[3:], wrong(model.inner, healthy, y)[3:])


def test_a_zero_gradient_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            dead = torch.relu(x.flatten(1)[:, :4] - 2)
            return dead - torch.arange(4)

    x = torch.full((2, 1, 2, 2), 0.2)
    with caplog.at_level(logging.INFO, "satbench.attacks"):
        AutoAttackComponent("apgd-t")(Dead(), x, torch.zeros(2).long(), ThreatModel("Linf", 0.1), streams(2))
    assert caplog.text.count("apgd-t met images whose gradient is exactly zero") == 1


def test_a_model_without_gradients_is_refused() -> None:
    class Stepped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot((x.flatten(1).mean(1) > 0.5).long(), 4).float()

    x = torch.rand(2, 1, 4, 4)
    for name in GRADIENT:
        with pytest.raises(BadInput, match=r"no gradient to its input.*--attack square"):
            AutoAttackComponent(name)(Stepped(), x, Stepped()(x).argmax(1), ThreatModel("Linf", 0.1), streams(2))


def test_logits_that_are_the_image_itself_are_not_written_into() -> None:
    """Square in the reference writes minus infinity into the logits, here a view of the picture."""
    x = torch.tensor([0.6, 0.4, 0.1, 0.1]).view(1, 1, 2, 2)
    threat = ThreatModel("Linf", 0.2)
    x_adv = AutoAttackComponent("square")(nn.Flatten(), x, torch.tensor([0]), threat, streams(1))
    assert threat.contains(x, x_adv).all()
    assert wrong(nn.Flatten(), x_adv, torch.tensor([0])).all()


def test_square_asks_about_images_only() -> None:
    """Where every margin is exactly zero, the reference asks the model about no images at all."""

    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x), "an empty batch"
            return 0 * x.flatten(1)[:, :3]

    x = torch.full((2, 1, 2, 2), 0.5)
    x_adv = AutoAttackComponent("square")(Tied(), x, torch.zeros(2).long(), ThreatModel("Linf", 0.1), streams(2))
    assert not wrong(Tied(), x_adv, torch.zeros(2).long()).any()


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_misclassified_image_is_left_alone(name: str) -> None:
    model = net()
    x, y = batch(model, 3)
    x_adv = AutoAttackComponent(name)(model, x, (y + 1) % 10, ThreatModel("Linf", 0.05), streams(3))
    assert torch.equal(x_adv, x)


@pytest.mark.left_out
def test_nothing_is_printed_or_logged_that_nobody_must_know(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = net()
    x, y = batch(model, 3)
    with caplog.at_level(logging.DEBUG):
        for stage in AutoAttack("plus").stages:
            stage(model, x, y, ThreatModel("Linf", 0.3), streams(3))
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("autoattack:version=standrad", "did you mean standard"),
        ("autoattack:version=custom", "components"),
        ("autoattack:components=square", "version=custom"),
        ("autoattack:version=custom,components=apgd_ce", "unknown component 'apgd_ce'.*did you mean apgd-ce"),
        ("autoattack:version=custom,components=apgd-ce+", "unknown component ''"),
        ("autoattack:unit=0", "unit of autoattack is 0"),
        ("apgd-ce:unit=2.5", "unit of apgd-ce is 2.5; give a whole number"),
        ("apgd-ce:unit=true", "unit of apgd-ce is True"),
        ("fab-t:version=fast", "unknown version 'fast'"),
        ("square:queries=10", "unknown parameter 'queries' of attack 'square'"),
    ],
)
def test_bad_parameters_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build_attack(*parse_attack(text))
