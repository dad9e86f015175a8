"""foolbox's attacks by name: one contract for all of them, and foolbox itself as the answer."""

import logging
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from attack_contract import EPS, assert_contract, images, mixed_model, streams, wrong
from torch import Tensor, nn

from satbench.attacks import build_attack, parse_attack
from satbench.attacks.foolbox import LP, REFUSED, STARTS, Foolbox, names
from satbench.core.errors import BadInput
from satbench.numerics.seeding import integer
from satbench.numerics.threat import ThreatModel

pytestmark = pytest.mark.numeric

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox

NEEDS_NUMBA = {"L1BrendelBethgeAttack", "L2BrendelBethgeAttack", "LinfinityBrendelBethgeAttack"}
QUICK = {  # where the defaults take seconds
    "BoundaryAttack": {"steps": 40},
    "DDNAttack": {"steps": 10},
    "EADAttack": {"steps": 20, "binary_search_steps": 2},
    "GaussianBlurAttack": {"steps": 10},
    "HopSkipJumpAttack": {"steps": 1, "initial_gradient_eval_steps": 20},
    "L2CarliniWagnerAttack": {"steps": 20, "binary_search_steps": 2},
    "LinearSearchBlendedUniformNoiseAttack": {"steps": 20, "directions": 20},
    "LinearSearchContrastReductionAttack": {"steps": 20},
    "NewtonFoolAttack": {"steps": 10},
    "SaltAndPepperNoiseAttack": {"steps": 20},
    "VirtualAdversarialAttack": {"steps": 2},
    **{f"{norm}FMNAttack": {"steps": 10} for norm in ("L1", "L2", "LInf")},
    **{f"{norm}PGD": {"steps": 10} for norm in ("L1", "L2", "Linf")},
    **{
        f"L2{clipping}RepeatedAdditive{noise}NoiseAttack": {"repeats": 10}
        for clipping in ("", "ClippingAware")
        for noise in ("Gaussian", "Uniform")
    },
    **{
        f"{norm}{kind}ProjectedGradientDescentAttack": {"steps": 10}
        for norm in ("L1", "L2", "Linf")
        for kind in ("", "Adam")
    },
}
RUN = [name for name in names() if name not in NEEDS_NUMBA]


def norms(name: str) -> list[str]:
    """The norms that an attack accepts."""
    model = mixed_model()
    x, y = images(model, 1)
    accepted = []
    for norm in EPS:
        with suppress(BadInput):
            Foolbox(name, QUICK.get(name))(model, x, y, ThreatModel(norm, 0), streams(1))
            accepted.append(norm)
    return accepted


def test_every_attack_of_foolbox_is_run_or_refused_with_a_reason() -> None:
    classes = {
        value.__name__
        for value in vars(foolbox.attacks).values()
        if isinstance(value, type) and value is not foolbox.attacks.Attack
    }
    assert set(names()) | set(REFUSED) == classes
    assert not set(names()) & set(REFUSED)
    assert (len(names()), len(REFUSED)) == (52, 6)
    for name, reason in REFUSED.items():
        with pytest.raises(BadInput, match=f"foolbox:{name} cannot be run here: it ") as refusal:
            Foolbox(name)
        assert reason in str(refusal.value)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("name", RUN)
def test_the_contract(name: str) -> None:
    model, attack = mixed_model(side=3), Foolbox(name, QUICK.get(name))
    x, y = images(model, 3, shape=(2, 3, 3))
    accepted = norms(name)
    assert accepted
    assert_contract(attack, ThreatModel(accepted[0], EPS[accepted[0]]), model, x, y)


@pytest.mark.parametrize("name", sorted(NEEDS_NUMBA))
def test_what_needs_numba_says_so(name: str) -> None:
    try:
        import numba  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(BadInput, match="needs the package numba"):
            Foolbox(name)
    else:
        pytest.skip("numba is there")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LinfPGD", ["Linf"]),
        ("L1FMNAttack", ["L1"]),
        ("EADAttack", ["L1"]),
        ("L2DeepFoolAttack", ["L2"]),
        ("SaltAndPepperNoiseAttack", ["L2"]),
        ("HopSkipJumpAttack", ["L2"]),
        ("PointwiseAttack", ["Linf", "L2", "L1"]),
        ("InversionAttack", ["Linf", "L2", "L1"]),
        ("LinfAdditiveUniformNoiseAttack", ["Linf"]),
    ],
)
def test_an_attack_takes_threats_of_its_own_norm(name: str, expected: list[str]) -> None:
    assert norms(name) == expected


def test_hop_skip_jump_takes_the_norm_of_its_constraint() -> None:
    model = mixed_model()
    x, y = images(model, 1)
    attack = Foolbox("HopSkipJumpAttack", {"constraint": "linf"})
    with pytest.raises(BadInput, match="measures in Linf, not in L2; use --norm Linf"):
        attack(model, x, y, ThreatModel("L2", 0.1), streams(1))
    assert torch.equal(attack(model, x, y, ThreatModel("Linf", 0), streams(1)), x)


def theirs(
    name: str, parameters: dict[str, Any], model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel
) -> Tensor:
    """The examples that foolbox's own door gives, from the seed that the adapter uses."""
    if name == "PointwiseAttack":
        pytest.skip("foolbox's own door fails for it, since its constructor sets no distance")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(integer(streams(len(x))))
        attack = getattr(foolbox.attacks, name)(**parameters)
        if getattr(attack, "_distance", False) is None:
            attack._distance = LP[threat.norm]
        model.eval()
        found: Tensor = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=threat.eps)[1]
    return found


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("LinfPGD", "Linf"),
        ("L2DeepFoolAttack", "L2"),
        ("L1FMNAttack", "L1"),
        ("InversionAttack", "L1"),
        ("DDNAttack", "L2"),
        ("FGM", "L2"),
    ],
)
def test_the_examples_are_those_of_foolbox(name: str, norm: str) -> None:
    model = mixed_model()
    x, y = images(model, 20)
    parameters = QUICK.get(name, {})
    attack = Foolbox(name, parameters)
    threat = ThreatModel(norm, EPS[norm])
    expected = theirs(name, parameters, model, x, y, threat)
    found = attack(model, x, y, threat, streams(20))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not torch.equal(found, x)


def test_a_minimum_norm_attack_counts_inside_eps_alone() -> None:
    """Of a linear model's images, those whose distance to the boundary is below eps fall, the others do not."""
    x = torch.linspace(0.5, 0.9, 9).view(9, 1, 1, 1).expand(9, 1, 2, 2).contiguous()
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0] * 4, [0.0] * 4]))
        model[1].bias.copy_(torch.tensor([-4 * 0.45, 0.0]))  # class 0 above a mean of 0.45
    y = torch.zeros(9, dtype=torch.int64)
    threat = ThreatModel("Linf", 0.21)
    x_adv = Foolbox("LinfDeepFoolAttack")(model, x, y, threat, streams(9))
    assert threat.contains(x, x_adv).all()
    assert wrong(model, x_adv, y).tolist() == [True] * 4 + [False] * 5  # 0.5, 0.55, 0.6, 0.65


class HalfBlind(nn.Module):
    """Class 0 whatever the picture, except for dark ones below the line that the first pixel's position sets."""

    def forward(self, x: Tensor) -> Tensor:
        marked = x[:, 0, 0, 0] > 0.5
        score = torch.where(marked, x.flatten(1).mean(1) - 0.95, torch.tensor(-1.0))
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", sorted(set(STARTS) - NEEDS_NUMBA))
def test_images_without_a_start_stand(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Random noise never has a mean of 0.95, so no start is found and nothing is raised."""
    x = torch.full((3, 1, 4, 4), 0.4)
    y = torch.zeros(3, dtype=torch.int64)
    with caplog.at_level(logging.INFO, "satbench.attacks"):
        x_adv = Foolbox(name)(HalfBlind(), x, y, ThreatModel("L2", 0.1), streams(3))
    assert torch.equal(x_adv, x)
    assert f"foolbox:{name} found no example to start from" in caplog.text


@pytest.mark.left_out
@pytest.mark.parametrize("name", ["LinfAdditiveUniformNoiseAttack", "PointwiseAttack"])
def test_the_streams_decide_every_draw(name: str) -> None:
    """The second draws from numpy's generator."""
    model = mixed_model()
    x, y = images(model, 2)
    threat = ThreatModel("Linf", 0.9)
    found = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        np.random.seed(elsewhere)
        torch.manual_seed(elsewhere)
        found.append(Foolbox(name)(model, x, y, threat, streams(2, seed)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_unit_decides_which_images_draw_together() -> None:
    model = mixed_model()
    x, y = images(model, 5)
    threat = ThreatModel("Linf", 0.1)
    parameters = {"steps": 1, "rel_stepsize": 0.01}
    cut = Foolbox("LinfPGD", parameters, unit=2)(model, x, y, threat, streams(5))
    for first, last in ((0, 2), (2, 4), (4, 5)):
        part = slice(first, last)
        alone = Foolbox("LinfPGD", parameters)(model, x[part], y[part], threat, streams(last - first, first=first))
        assert torch.equal(cut[part], alone)
    assert not torch.equal(cut, Foolbox("LinfPGD", parameters)(model, x, y, threat, streams(5)))


def test_the_identity_states_every_parameter_in_force() -> None:
    assert repr(Foolbox("LinfPGD")) == (
        "Foolbox(name='LinfProjectedGradientDescentAttack', rel_stepsize=0.03333333333333333, steps=40, "
        "random_start=True, unit=250)"
    )
    assert repr(Foolbox("PGD", {"abs_stepsize": 0.01}, unit=9)) == (
        "Foolbox(name='LinfProjectedGradientDescentAttack', abs_stepsize=0.01, steps=40, random_start=True, unit=9)"
    )
    assert Foolbox("LinfPGD") == Foolbox("PGD", {"steps": 40})
    assert Foolbox("LinfPGD") != Foolbox("PGD", {"steps": 41})
    assert repr(Foolbox("LinfAdditiveUniformNoiseAttack")) == "Foolbox(name='LinfAdditiveUniformNoiseAttack', unit=250)"


def test_the_step_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = mixed_model()
    x, y = images(model, 1)
    with caplog.at_level(logging.INFO, "satbench.attacks"):
        Foolbox("LinfPGD", {"steps": 3})(model, x, y, ThreatModel("Linf", 0.3), streams(1))
    assert "takes 3 steps of 0.01 at eps 0.3, 0.1 eps in all" in caplog.text


def test_no_log_handler_appears(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """foolbox calls logging.info() itself, which installs a handler that writes to the terminal from then on."""
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own, beside which none is installed
    x, net = torch.rand(1, 1, 2, 2), nn.Flatten()
    Foolbox("LinfDeepFoolAttack")(net, x, net(x).argmax(1), ThreatModel("Linf", 0.1), streams(1))
    assert logging.root.handlers == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("foolbox:LinfDeepFool", "unknown attack 'foolbox:LinfDeepFool'; did you mean .*LinfDeepFoolAttack"),
        ("foolbox:DDN", "unknown attack 'foolbox:DDN'; did you mean DDNAttack"),
        ("foolbox", "unknown attack 'foolbox:'; known: "),
        ("foolbox:DatasetAttack", "it returns images of a data set"),
        ("foolbox:LinfPGD,step=3", "unknown parameter 'step' of foolbox:LinfProj.*; did you mean steps"),
        ("foolbox:LinfPGD,steps=0", "steps of .* is 0; give a whole number from 1"),
        ("foolbox:LinfPGD,steps=1.5", "is 1.5; give a whole number"),
        ("foolbox:LinfPGD,steps=true", "is True; give a whole number"),
        ("foolbox:LinfPGD,rel_stepsize=big", "is 'big'; give a number from 0"),
        ("foolbox:LinfPGD,rel_stepsize=-1", "is -1; give a number from 0"),
        ("foolbox:LinfPGD,random_start=1", "is 1; give true or false"),
        ("foolbox:LinfPGD,rel_stepsize=0.1,abs_stepsize=0.1", "not both"),
        ("foolbox:LinfPGD,unit=0", "unit of foolbox:Linf.* is 0"),
        ("foolbox:L2DeepFoolAttack,loss=hinge", "is 'hinge'; give 'logits' or 'crossentropy'"),
        ("foolbox:BoundaryAttack,init_attack=x", "unknown parameter 'init_attack'"),
        ("foolbox:VirtualAdversarialAttack", "no default for steps"),
        ("foolbox:SparseL1DescentAttack,quantile=2", "quantile needs to be between 0 and 1"),
        ("foolbox:LinfAdditiveUniformNoiseAttack,steps=2", "it takes none"),
    ],
)
def test_what_foolbox_cannot_use_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refusal:
        build_attack(*parse_attack(text))
    assert "\n" not in str(refusal.value)


def test_the_parameters_reach_foolbox() -> None:
    attack = build_attack(*parse_attack("foolbox:L2DeepFoolAttack:steps=7,candidates=none,overshoot=1/4,unit=5"))
    assert attack == Foolbox("L2DeepFoolAttack", {"steps": 7, "candidates": None, "overshoot": 0.25}, unit=5)
    built = attack._build()  # type: ignore[attr-defined]
    assert (built.steps, built.candidates, built.overshoot, built.loss) == (7, None, 0.25, "logits")
