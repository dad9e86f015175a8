"""Linear networks, whose distance to the boundary is known: attacks find it, and never claim what is out of reach.

Images are laid out at one exact distance from the boundary: the logits are homogeneous around grey, so moving an image
towards grey scales its distance. The box is out of reach. At 1.01 of the distance every white-box attack must break
every image, at 0.99 none may, and each example that counts is checked again in float64.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from satbench.attacks import ATTACKS, Attack, build_attack, parse_attack
from satbench.core.errors import BadInput
from satbench.evaluation.judge import judge
from satbench.numerics.seeding import PerSample, Randomness
from satbench.numerics.threat import ThreatModel

pytestmark = pytest.mark.numeric

N = 100
SHAPE = (2, 4, 4)
CLASSES = 4  # the fewest that the targeted DLR loss is defined for
DISTANCE = {"Linf": 0.02, "L2": 0.06, "L1": 0.1}
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": torch.inf}
NORMS = tuple(DISTANCE)
SHORT, BEYOND = 0.99, 1.01  # of the distance
BLACK_BOX = ("square",)
KNN = ("knn-guided",)  # is for no linear network
ONLY = {"sat-pgd": ("Linf",)}
ENDS_IN_SQUARE = ("autoattack", "cascade")  # 5,000 queries for an image that stands
FURTHER = {  # what falls short of the optimum by its own design, and how far it needs
    ("apgd-ce", "L1"): 1.12,  # APGD's sparse L1 steps spread over more pixels than the best
    ("apgd-dlr", "L1"): 1.12,
    ("apgd-t", "L1"): 1.3,
}
TABLE = [
    (name, norm)
    for name, norm in product(sorted(ATTACKS), NORMS)
    if name not in (*BLACK_BOX, *KNN) and norm in ONLY.get(name, NORMS)
]
VARIANTS = [
    *product(["pgd:init=zero", "pgd:loss=margin-targeted,init=zero"], NORMS),
    *product(["pgd:steps=50,schedule=apgd", "pgd:steps=50,schedule=apgd,loss=dlr"], ("Linf", "L2")),
    ("pgd:steps=40,step_size=0.02", "L2"),
    *product(["foolbox:LinfFastGradientAttack", "foolbox:LinfDeepFoolAttack", "foolbox:LInfFMNAttack"], ["Linf"]),
    ("foolbox:LinfPGD,rel_stepsize=0.1", "Linf"),
    ("foolbox:LinfMomentumIterativeFastGradientMethod", "Linf"),
    *product(["foolbox:L2FastGradientAttack", "foolbox:L2DeepFoolAttack", "foolbox:DDNAttack"], ["L2"]),
    ("foolbox:L2PGD,rel_stepsize=0.25", "L2"),
    ("foolbox:L2CarliniWagnerAttack,steps=300,binary_search_steps=5", "L2"),
    ("foolbox:NewtonFoolAttack", "L2"),
    *product(["foolbox:L1FMNAttack", "foolbox:SparseL1DescentAttack"], ["L1"]),
]
# these look for the nearest of several classes; the others follow the loss, which may lead past it
OF_SEVERAL = [
    *product(["autoattack", "cascade", "fab-t", "rapid", "pgd:loss=margin-targeted,init=zero"], NORMS),
    *product(["apgd-t"], ("Linf", "L2")),
    ("foolbox:LinfDeepFoolAttack", "Linf"),
    ("foolbox:L2DeepFoolAttack", "L2"),
]
EVERY = [(*one, 1) for one in TABLE + VARIANTS] + [(*one, 3) for one in OF_SEVERAL]


@dataclass(frozen=True)
class Problem:
    """Images (N, C, H, W), each at `distance` from where a linear network changes its mind, and their labels."""

    model: nn.Module
    x: Tensor
    y: Tensor
    norm: str
    distance: float

    def logits(self, x: Tensor) -> Tensor:
        """In float64."""
        linear = self.model[1]  # type: ignore[index]
        return x.double().flatten(1) @ linear.weight.double().T + linear.bias.double()


@cache
def problem(norm: str, rivals: int) -> Problem:
    """A network in which `rivals` of the wrong classes are near; the others' logits lie far below."""
    draw = torch.Generator().manual_seed(len(norm) + rivals)
    units = SHAPE[0] * SHAPE[1] * SHAPE[2]
    weight = torch.randn(CLASSES, units, generator=draw, dtype=torch.float64)
    weight[1 + rivals :] = weight[: 1 + rivals].mean(0)
    offset = torch.zeros(CLASSES, dtype=torch.float64)
    offset[1 + rivals :] = -50
    directions = 2 * torch.rand(40 * N, units, generator=draw, dtype=torch.float64) - 1
    logits = directions @ weight.T + offset
    y = logits.argmax(1)
    gap = logits.gather(1, y[:, None]) - logits
    steep = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=DUAL[norm], dim=2)
    away = (gap / steep).scatter(1, y[:, None], torch.inf)[:, : 1 + rivals].amin(1)
    scale = DISTANCE[norm] / away
    fits = (scale * directions.abs().amax(1) < 0.49 - DISTANCE[norm]).nonzero()[:N, 0]
    x = 0.5 + (scale[:, None] * directions)[fits]
    model = nn.Sequential(nn.Flatten(), nn.Linear(units, CLASSES)).eval()
    with torch.no_grad():
        model[1].weight.copy_(weight)
        model[1].bias.copy_(offset - 0.5 * weight.sum(1))
    return Problem(model, x.float().view(-1, *SHAPE), y[fits], norm, DISTANCE[norm])


def claimed(case: Problem, attack: Attack, eps: float) -> Tensor:
    """Which images the harness would count as broken; each such example is held against float64 arithmetic."""
    threat = ThreatModel(case.norm, eps)
    streams = PerSample.of(0, [str(i) for i in range(N)], "attack")
    x_adv = attack(case.model, case.x, case.y, threat, streams)
    seen = judge(case.model, case.x, x_adv, case.y, threat)
    counted = (seen.predictions != case.y) & torch.tensor([not violation for violation in seen.violations])
    moved = (x_adv.double() - case.x.double()).flatten(1)
    length = torch.linalg.vector_norm(moved, ord={"Linf": torch.inf, "L2": 2, "L1": 1}[case.norm], dim=1)
    assert (length[counted] <= eps * (1 + 1e-5) + 1e-6).all()
    assert x_adv[counted].min() >= -1e-6 if counted.any() else True
    assert x_adv[counted].max() <= 1 + 1e-6 if counted.any() else True
    logits = case.logits(x_adv)
    true = logits.gather(1, case.y[:, None])
    assert (logits.scatter(1, case.y[:, None], -torch.inf).amax(1) - true[:, 0] > -1e-5)[counted].all()
    return counted


def build(spelled: str) -> Attack:
    return build_attack(*parse_attack(spelled))


def marked(*slow: tuple[str, str]) -> list[object]:
    """Every case; those of an attack and norm in `slow` are left out of the default run."""
    return [
        pytest.param(*case, id="-".join(map(str, case)), marks=[pytest.mark.slow] if case[:2] in slow else [])
        for case in EVERY
    ]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("rivals", [1, 3])
def test_the_distance_is_the_distance(norm: str, rivals: int) -> None:
    """By walking it: the steepest change of that length towards each rival reaches the boundary for the nearest."""
    case = problem(norm, rivals)
    assert len(case.x) == N
    assert len(case.y.unique()) == 1 + rivals
    assert case.x.min() > case.distance
    assert case.x.max() < 1 - case.distance
    weight = case.model[1].weight.double()  # type: ignore[index]
    flat = case.x.double().flatten(1)
    reached = torch.zeros(N, dtype=torch.bool)
    for rival in range(1 + rivals):
        slope = weight[rival] - weight[case.y]
        if norm == "Linf":
            steepest = slope.sign()
        elif norm == "L2":
            steepest = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
        else:
            steepest = torch.zeros_like(slope)
            top = slope.abs().argmax(1, keepdim=True)
            steepest.scatter_(1, top, slope.gather(1, top).sign())
        before, after = (case.logits(flat + share * case.distance * steepest) for share in (0.9999, 1.0001))
        assert (before.argmax(1) == case.y).all()
        reached |= after.argmax(1) != case.y
    assert reached.all()


@pytest.mark.one_in(15)
@pytest.mark.parametrize(("spelled", "norm", "rivals"), marked(("autoattack", "L1")))
def test_every_image_falls_just_beyond_its_distance(spelled: str, norm: str, rivals: int) -> None:
    case = problem(norm, rivals)
    factor = FURTHER.get((spelled, norm), BEYOND) if rivals == 1 else BEYOND
    assert claimed(case, build(spelled), factor * case.distance).all()


@pytest.mark.one_in(24)
@pytest.mark.parametrize(("spelled", "norm", "rivals"), marked(*product(ENDS_IN_SQUARE, NORMS)))
def test_no_image_falls_short_of_its_distance(spelled: str, norm: str, rivals: int) -> None:
    case = problem(norm, rivals)
    assert not claimed(case, build(spelled), SHORT * case.distance).any()


def test_there_are_ten_thousand_pairs_in_the_default_run() -> None:
    short = [case for case in EVERY if case[0] not in ENDS_IN_SQUARE]
    assert N * (len(EVERY) + len(short)) >= 10_000


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), FURTHER)
def test_the_exceptions_are_exceptions(name: str, norm: str) -> None:
    """An attack that reaches the optimum after all leaves the table of exceptions."""
    case = problem(norm, 1)
    assert not claimed(case, build(name), BEYOND * case.distance).all()


def test_foolbox_falls_short_at_the_steps_it_takes_by_default() -> None:
    """Why its step sizes are stated: on a hyperplane its PGD needs half as much again as the distance."""
    case = problem("Linf", 1)
    assert not claimed(case, build("foolbox:LinfPGD"), BEYOND * case.distance).any()
    assert claimed(case, build("foolbox:LinfPGD"), 1.5 * case.distance).all()


@dataclass(frozen=True)
class Overshoot:
    """Walks across the boundary whatever the radius."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        far = ThreatModel(threat.norm, 1.05 * DISTANCE[threat.norm])
        return build("pgd:init=zero")(model, x, y, far, randomness)


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_that_oversteps_claims_nothing(norm: str) -> None:
    case = problem(norm, 1)
    x_adv = Overshoot()(
        case.model, case.x, case.y, ThreatModel(norm, 1e-3), PerSample.of(0, [str(i) for i in range(N)])
    )
    assert (case.model(x_adv).argmax(1) != case.y).all()
    assert not claimed(case, Overshoot(), SHORT * case.distance).any()


def test_an_attack_of_another_norm_is_refused() -> None:
    case = problem("L2", 1)
    for spelled in ("sat-pgd", "foolbox:LinfPGD"):
        with pytest.raises(BadInput):
            claimed(case, build(spelled), case.distance)
