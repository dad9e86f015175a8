"""Attacks: one contract for the whole table, and known answers on linear models."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_contract import EPS, Failing, assert_contract, assert_unchanged, images, mixed_model, state, streams
from torch import Tensor, nn

from satbench import evaluate, load_model
from satbench.attacks import PGD, build_attack, fgsm
from satbench.attacks.losses import LOSSES
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.numerics.threat import ThreatModel

pytestmark = pytest.mark.numeric

NORMS = ("Linf", "L2", "L1")
DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}
THREATS = [ThreatModel(norm, eps) for norm, eps in EPS.items()]
CASES: dict[str, list[dict[str, Any]]] = {
    "fgsm": [{}, {"loss": "margin", "init": "gaussian"}, {"loss": "dlr", "init": "uniform", "step_size": 0.05}],
    "pgd": [
        {"steps": 4},
        {"steps": 3, "keep": "last", "init": "gaussian"},
        {"steps": 3, "restarts": 2, "loss": "dlr", "step_size": 0.3},
    ],
}
EVERY = [pytest.param(name, params, id=f"{name}-{i}") for name in CASES for i, params in enumerate(CASES[name])]
on_every_threat = pytest.mark.parametrize("threat", THREATS, ids=str)
SMALL_THREATS = [ThreatModel("Linf", 0.05), ThreatModel("L2", 0.2), ThreatModel("L1", 0.6)]
on_every_small_threat = pytest.mark.parametrize("threat", SMALL_THREATS, ids=str)


@pytest.fixture
def traced():
    """A trace function of our own, which must survive."""
    before = sys.gettrace()

    def trace(frame: Any, event: str, arg: Any) -> None:
        return None

    sys.settrace(trace)
    yield trace
    sys.settrace(before)


@on_every_threat
@pytest.mark.parametrize(("name", "params"), EVERY)
def test_the_contract(name: str, params: dict[str, Any], threat: ThreatModel, traced) -> None:
    model = mixed_model()
    assert_contract(build_attack(name, params), threat, model, *images(model))


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("fgsm", 0),
        ("fgsm", 1),
        ("pgd", 0),
        ("pgd", 5),
    ],
)
def test_everything_is_restored_after_the_model_raises(name: str, allowed: int, traced) -> None:
    params = {"steps": 20, "step_size": 1e-6} if name == "pgd" else CASES[name][0]
    model = Failing(mixed_model(), allowed)
    x, y = images(model.inner)
    before = state(model)
    with pytest.raises(RuntimeError, match="out of passes"):
        build_attack(name, params)(model, x, y, ThreatModel("Linf", 1e-4), streams(len(x)))
    assert_unchanged(before, state(model))


@pytest.mark.parametrize(("name", "params"), EVERY)
def test_a_samples_example_does_not_depend_on_its_batch(name: str, params: dict[str, Any]) -> None:
    model, attack = mixed_model(), build_attack(name, params)
    x, y = images(model, 5)
    for threat in THREATS:
        whole = attack(model, x, y, threat, streams(5))
        for i in range(5):
            alone = attack(model, x[i : i + 1], y[i : i + 1], threat, streams(1, first=i))
            torch.testing.assert_close(alone[0], whole[i], rtol=0, atol=1e-4)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits of flattened images, float32."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.zeros(weight.shape[0]) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer)


def linear_problem(classes: int, count: int = 40, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """A random linear model and images in [0.4, 0.6], with their labels, margins and gaps of weights, all float64.

    margins (N, K) is true minus other logit; gaps (N, K, D) the weight of the true class minus that of the other.
    """
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 48, generator=source)
    weight /= weight.norm(dim=1, keepdim=True)
    x = 0.4 + 0.2 * torch.rand(count, 3, 4, 4, generator=source)
    bias = -(weight @ x.flatten(1).mean(0))
    logits = x.flatten(1).double() @ weight.double().T + bias.double()
    y = logits.argmax(1)
    margins = logits.gather(1, y[:, None]) - logits
    gaps = (weight[y][:, None] - weight[None]).double()
    return linear(weight, bias), x, y, margins, gaps


def boundary(norm: str, margins: Tensor, gaps: Tensor) -> Tensor:
    """The exact distance to the nearest other class, (N,): margin over the dual norm of the gap of weights."""
    distances = margins / torch.linalg.vector_norm(gaps, ord=float(DUAL[norm]), dim=2)
    return torch.where(distances.isnan(), torch.inf, distances).amin(1)


def broken(attack: Any, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, first: int) -> Tensor:
    x_adv = attack(model, x, y, threat, streams(len(x), first=first))
    assert threat.contains(x, x_adv).all()
    with torch.no_grad():
        return model(x_adv).argmax(1) != y


def falls(norm: str, classes: int, factor: float, count: int = 12) -> int:
    """How many of `count` images PGD breaks at `factor` times the distance of each to its boundary."""
    model, x, y, margins, gaps = linear_problem(classes, count)
    distances = boundary(norm, margins, gaps)
    assert distances.max() < 0.39  # the box never binds
    fallen = 0
    for i in range(count):
        eps = float(factor * distances[i])
        attack = PGD(steps=40, step_size=eps / 8, restarts=2, loss="margin")
        one = slice(i, i + 1)
        fallen += int(broken(attack, model, x[one], y[one], ThreatModel(norm, eps), i).item())
    return fallen


@pytest.mark.one_in(6)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_pgd_never_breaks_a_linear_model_within_its_distance(norm: str, classes: int) -> None:
    assert falls(norm, classes, 0.95) == 0


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_breaks_a_linear_model_just_beyond_its_distance(norm: str) -> None:
    assert falls(norm, 2, 1.05) == 12


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_breaks_most_of_a_linear_model_with_more_classes(norm: str) -> None:
    """The margin has a peak for each wrong class there, and an untargeted ascent may climb a lower one."""
    assert falls(norm, 4, 1.05) >= 10


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd_reaches_the_optimal_margin_of_a_linear_model(norm: str, loss: str) -> None:
    model, x, y, margins, gaps = linear_problem(2)
    other = 1 - y
    slope = torch.linalg.vector_norm(gaps, ord=float(DUAL[norm]), dim=2).gather(1, other[:, None])[:, 0]
    eps = 0.9 * boundary(norm, margins, gaps).min().item()
    x_adv = PGD(steps=40, step_size=eps / 8, loss=loss)(model, x, y, ThreatModel(norm, eps), streams(len(x)))
    reached = margins - torch.einsum("nkd,nd->nk", gaps, (x - x_adv).flatten(1).double())
    drop = (margins - reached).gather(1, other[:, None])[:, 0]
    np.testing.assert_allclose(drop.numpy(), (eps * slope).numpy(), rtol=0.01)


def trained_net(classes: int = 3) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network after a few steps of SGD on blobs, and 100 of its images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.arange(100) % classes
        centres = torch.rand(classes, 1, 4, 4)
        x = (0.3 + 0.4 * centres[y] + 0.1 * torch.randn(100, 1, 4, 4)).clamp(0, 1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.SiLU(), nn.Linear(24, classes))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval(), x, y


@pytest.mark.filterwarnings("ignore::DeprecationWarning:foolbox", "ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("eps", [0.03, 0.05, 0.08])
def test_pgd_is_as_strong_as_foolbox(eps: float) -> None:
    import foolbox

    model, x, y = trained_net()
    ours = PGD(steps=15, step_size=eps / 6, keep="last")(model, x, y, ThreatModel("Linf", eps), streams(100))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = foolbox.attacks.LinfPGD(abs_stepsize=eps / 6, steps=15, random_start=True)
        _, _, fallen = theirs(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)
    with torch.no_grad():
        standing = (model(ours).argmax(1) == y).sum().item()
    assert 5 < standing < 95
    assert abs(standing - (~fallen).sum().item()) <= 2


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_fgsm_is_one_step_along_the_sign(loss: str) -> None:
    model, x, y = trained_net()
    eps = 0.05
    x, y = x[:20], y[:20]
    point = x.clone().requires_grad_()
    logits = model(point)
    if loss == "ce":
        value = logits.logsumexp(1) - logits[range(20), y]
    else:
        value = torch.stack(
            [max(row[j] for j in range(3) if j != k) - row[k] for row, k in zip(logits, y, strict=True)]
        )
    (grad,) = torch.autograd.grad(value.sum(), point)
    correct = logits.argmax(1) == y
    assert correct.sum() > 10
    x_adv = fgsm(loss=loss)(model, x, y, ThreatModel("Linf", eps), streams(20))
    torch.testing.assert_close(x_adv[correct], (x + eps * grad.sign()).clamp(0, 1)[correct], rtol=0, atol=1e-6)
    assert torch.equal(x_adv[~correct], x[~correct])  # already misclassified, so already found


def loss_values(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits = model(x)
    return nn.functional.cross_entropy(logits, y, reduction="none"), logits.argmax(1) != y


@on_every_small_threat
def test_keeping_the_best_is_never_worse_than_keeping_the_last(threat: ThreatModel) -> None:
    model, x, y = trained_net()
    loss, fallen = {}, {}
    for keep in ("best", "last"):
        attack = PGD(steps=5, step_size=threat.eps, keep=keep)
        loss[keep], fallen[keep] = loss_values(model, attack(model, x, y, threat, streams(100)), y)
    assert (fallen["best"] | ~fallen["last"]).all()
    standing = ~fallen["best"]
    assert 5 < standing.sum() < 95
    assert (loss["best"][standing] >= loss["last"][standing] - 1e-6).all()


class Bump(nn.Module):
    """Two classes on one pixel: class 1 has a bump of height 1 and half-width 0.05 at `centre`, class 0 has `floor`."""

    def __init__(self, centre: float, floor: float) -> None:
        super().__init__()
        self.centre, self.floor = centre, floor

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, :1]
        return torch.cat([torch.full_like(pixel, self.floor), torch.relu(1 - 20 * (pixel - self.centre).abs())], 1)


def test_a_step_over_the_top_is_taken_back_by_keep_best_alone() -> None:
    """From 0.5 one step of 0.03 goes over the bump at 0.51 and lands lower, at 0.53."""
    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    for keep, pixel in (("best", 0.5), ("last", 0.53)):
        attack = PGD(steps=1, step_size=0.03, init="zero", loss="margin", keep=keep)
        x_adv = attack(Bump(0.51, 2.0), x, y, ThreatModel("Linf", 0.2), streams(1))
        assert x_adv.item() == pytest.approx(pixel, abs=1e-6)


@on_every_small_threat
@pytest.mark.parametrize("stronger", [{"steps": 8}, {"restarts": 3}, {"steps": 8, "restarts": 3}])
def test_more_effort_never_breaks_fewer(threat: ThreatModel, stronger: dict[str, int]) -> None:
    model, x, y = trained_net()
    weak = PGD(steps=2, step_size=threat.eps / 4)
    _, before = loss_values(model, weak(model, x, y, threat, streams(100)), y)
    _, after = loss_values(model, replace(weak, **stronger)(model, x, y, threat, streams(100)), y)
    assert (after | ~before).all()
    assert before.any()
    if "steps" in stronger:
        assert after.sum() > before.sum()


@pytest.mark.one_in(4)
@on_every_small_threat
@pytest.mark.parametrize("loss", LOSSES)
def test_a_broken_sample_keeps_a_misclassified_example(threat: ThreatModel, loss: str) -> None:
    """What was misclassified at any pass stays so, however many steps and restarts follow."""
    model, x, y = trained_net(4)
    seen = torch.zeros(100, dtype=torch.bool)

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        if len(logits) == 1:
            seen[current] |= (logits.argmax(1) != y[current : current + 1]).item()

    attack, result = PGD(steps=4, restarts=3, loss=loss), []
    handle = model.register_forward_hook(watch)
    for current in range(0, 100, 5):
        one = slice(current, current + 1)
        result.append(attack(model, x[one], y[one], threat, streams(1, first=current)))
    handle.remove()
    _, fallen = loss_values(model, torch.cat(result), y[::5])
    assert fallen.any()
    assert torch.equal(fallen, seen[::5])


def test_a_misclassified_iterate_wins_over_a_higher_loss() -> None:
    """At 0.5 three classes nearly tie: right, cross-entropy 1.09. At 0.6 two do: wrong, cross-entropy 0.79."""

    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pixel = x.flatten(1)[:, :1]
            beyond = torch.relu(pixel - 0.55)
            return torch.cat([0.01 - 0.05 * (pixel - 0.5), 4 * beyond, -1000 * beyond], 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.int64)
    (before, after), (first, last) = loss_values(Slope(), torch.tensor([[[[0.5]]], [[[0.6]]]]), torch.zeros(2).long())
    assert before > after
    assert (first.item(), last.item()) == (False, True)
    x_adv = PGD(steps=1, step_size=0.1, init="zero")(Slope(), x, y, ThreatModel("Linf", 0.2), streams(1))
    assert x_adv.item() == pytest.approx(0.6, abs=1e-6)


def test_restarts_save_what_one_start_cannot_break() -> None:
    """Flat but for a bump over a tenth of the interval: a start hits it with probability 0.1, ten with 0.65."""
    x, y = torch.full((100, 1, 1, 1), 0.5), torch.zeros(100, dtype=torch.int64)
    model, threat, count = Bump(0.7, 0.5), ThreatModel("Linf", 0.5), {}
    for restarts in (1, 10):
        attack = PGD(steps=3, step_size=0.02, loss="margin", restarts=restarts)
        count[restarts] = int((model(attack(model, x, y, threat, streams(100))).argmax(1) == 1).sum())
    assert 1 <= count[1] <= 22
    assert 48 <= count[10] <= 80


def passes(attack: Any, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> list[int]:
    """The batch size of every forward pass."""
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    attack(model, x, y, threat, streams(len(x)))
    handle.remove()
    return seen


@on_every_small_threat
@pytest.mark.parametrize("steps", [1, 4])
def test_pass_counts(threat: ThreatModel, steps: int) -> None:
    model, x, y = trained_net()
    assert passes(PGD(steps=steps, keep="last"), model, x, y, threat) == [100] * steps
    out_of_reach = ThreatModel(threat.norm, 1e-5)
    right = loss_values(model, x, y)[1].logical_not()
    for restarts in (1, 3):
        attack = PGD(steps=steps, restarts=restarts)
        assert len(passes(attack, model, x, y, threat)) <= restarts * (steps + 1)
        assert passes(attack, model, x[right], y[right], out_of_reach) == [int(right.sum())] * restarts * (steps + 1)


def test_fallen_samples_are_not_passed_again() -> None:
    model, x, y = trained_net()
    wrong = (y + 1) % 3
    assert passes(PGD(steps=5, restarts=3, init="zero"), model, x[:9], wrong[:9], ThreatModel("Linf", 0.01)) == [9]


def numpy_margin(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([np.delete(row, k).max() - row[k] for row, k in zip(logits, y, strict=True)])


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_losses_follow_their_formulas(classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    logits, clean = 5 * torch.randn(2, 50, classes, dtype=torch.float64, generator=draw)
    y = torch.arange(50) % classes
    target = (y + 1 + torch.arange(50) % (classes - 1)) % classes
    z, k, t = logits.numpy(), y.numpy(), target.numpy()
    toward = z[range(50), t] - z[range(50), k]
    p, q = (np.exp(one) / np.exp(one).sum(1, keepdims=True) for one in (clean.numpy(), z))
    ordered = np.sort(z, axis=1)
    untargeted = {"ce": np.log(np.exp(z).sum(1)) - z[range(50), k], "margin": numpy_margin(z, k)}
    targeted = {"margin-targeted": toward}
    if classes >= 3:
        # Croce & Hein: -(z_y - max other) / (z_1st - z_3rd), with a guard of 1e-12 below
        untargeted["dlr"] = numpy_margin(z, k) / (ordered[:, -1] - ordered[:, -3] + 1e-12)
    if classes >= 4:
        targeted["dlr-targeted"] = toward / (ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2 + 1e-12)
    undefined = {2: {"dlr", "dlr-targeted"}, 3: {"dlr-targeted"}}.get(classes, set())
    assert {"kl", *untargeted, *targeted} == set(LOSSES) - undefined
    found = {name: LOSSES[name](logits, y).numpy() for name in untargeted}
    found |= {name: LOSSES[name](logits, y, target).numpy() for name in targeted}
    found["kl"] = LOSSES["kl"](logits, clean).numpy()
    for name, value in {**untargeted, **targeted, "kl": (p * np.log(p / q)).sum(1)}.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12)
    for name in untargeted.keys() - {"ce"}:
        assert ((found[name] > 0) == (z.argmax(1) != k)).all()


def test_losses_have_finite_gradients_where_logits_tie() -> None:
    logits, y, target = torch.zeros(2, 4, requires_grad=True), torch.tensor([0, 3]), torch.tensor([1, 2])
    about = {"kl": (torch.zeros(2, 4),), "margin-targeted": (y, target), "dlr-targeted": (y, target)}
    for name, loss in LOSSES.items():
        (grad,) = torch.autograd.grad(loss(logits, *about.get(name, (y,))).sum(), logits)
        assert grad.isfinite().all()


def test_dlr_with_two_classes_is_refused_and_leaves_the_model_alone() -> None:
    model = mixed_model(classes=2)
    x, y = images(model)
    before = state(model)
    with pytest.raises(BadInput, match=r"at least 3 classes.*loss=margin"):
        PGD(loss="dlr")(model, x, y, THREATS[0], streams(len(x)))
    assert_unchanged(before, state(model))


@pytest.mark.parametrize(
    "params", [{"step_size": "2/255"}, {"step_size": "fast"}, {"steps": True}, {"steps": 2.0}, {"loss": None}]
)
def test_bad_values_from_a_file_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        build_attack("pgd", params)


def test_an_attack_is_known_by_its_repr() -> None:
    for name, cases in CASES.items():
        for params in cases:
            assert repr(build_attack(name, params)) == repr(build_attack(name, params))
    assert repr(PGD(steps=3)) != repr(PGD(steps=4))


class Poisoned(nn.Module):
    """The digits network, whose gradient is NaN on dark images and infinite in one pixel on bright ones."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = load_model("digits-silu")

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.view_as(x)
            level = x.detach().flatten(1).mean(1).view(-1, 1, 1, 1)
            first = torch.zeros_like(x[0], dtype=torch.bool)
            first[0, 0, 0] = True

            def spoil(grad: Tensor) -> Tensor:
                return grad.where(level > DARK, torch.nan).where((level < BRIGHT) | ~first, torch.inf)

            x.register_hook(spoil)
        logits: Tensor = self.inner(x)
        return logits


DARK, BRIGHT = 0.27, 0.34


@pytest.mark.one_in(8)
@pytest.mark.parametrize(
    "attack", ["fgsm", "rapid", "pgd", "pgd:keep=last", "pgd:eot=2", "apgd-ce", "foolbox:LinfPGD,steps=3"]
)
def test_images_whose_gradient_is_not_finite_are_marked_and_the_others_attacked(attack: str, tmp_path: Path) -> None:
    model, n, threat = Poisoned(), 40, ThreatModel("Linf", 0.002)  # so that an image stays as dark as it is
    settings = {"eps": threat.eps, "dataset": "digits", "n": n, "search": "plain", "trust": False, "device": "cpu"}
    run = evaluate(model, tmp_path / "run", attack, **settings)  # type: ignore[arg-type]
    records = run.records
    level = load_images("digits").in_memory().head(n).x.flatten(1).mean(1)
    clear = ((level - DARK).abs() > 0.002) & ((level - BRIGHT).abs() > 0.002)
    spoiled = (level < DARK) | (level > BRIGHT)
    attacked = torch.tensor((records["clean_prediction"] == records["label"]).to_numpy()) & clear
    assert attacked.sum() > 20
    assert (torch.tensor(records["bad_gradient"].to_numpy())[attacked] == spoiled[attacked]).all()
    assert 0 < spoiled[attacked].sum() < attacked.sum()
    marked = int(records["bad_gradient"].sum())
    assert [note for note in run.manifest.notes if f"the gradient of {marked} of {n} images had" in note]
    sound = evaluate(model.inner, tmp_path / "sound", attack, **settings).records  # type: ignore[arg-type]
    assert not sound["bad_gradient"].any()
    healthy = (attacked & ~spoiled).nonzero()[:, 0].tolist()
    assert (records["broken"][healthy] == sound["broken"][healthy]).all()
