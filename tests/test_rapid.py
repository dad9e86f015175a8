"""The attack `rapid`: its cap on passes, its contract, optima of linear networks, and what gradients miss."""

from pathlib import Path

import pytest
import torch
from attack_contract import EPS, assert_contract, images, mixed_model, streams, wrong
from torch import Tensor, nn

from satbench import evaluate, load_model
from satbench.attacks import build_attack
from satbench.attacks.gradient import PGD
from satbench.attacks.rapid import MOST_PASSES, Rapid
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.results.store import Run, read_timing

pytestmark = pytest.mark.numeric

STANDARD_PASSES = 7860 + 1910  # of an image that stands through AutoAttack standard
DUAL = {"Linf": 1.0, "L2": 2.0, "L1": float("inf")}
on_every_norm = pytest.mark.parametrize("norm", EPS)


class Counting(nn.Module):
    """Counts the rows that go forward and backward."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.passes = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        self.passes += len(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, grad: Tensor) -> None:
        self.passes += len(grad)


def linear(classes: int, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, classes))
    model[1].weight.data = torch.randn(classes, 72, generator=generator(seed, "weight"))
    model[1].bias.data.zero_()
    return model.eval()


def inner_images(model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Away from the edges of the box, labelled by the model."""
    x = 0.4 + 0.2 * torch.rand(count, 2, 6, 6, generator=generator(1, "images"))
    with torch.no_grad():
        return x, model(x).argmax(1)


def gaps(model: nn.Sequential, x: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """By class: how far it trails the label, and how fast a perturbation of `norm` can close that; (N, K - 1) both."""
    with torch.no_grad():
        logits, weight = model(x), model[1].weight
        others = torch.stack([torch.arange(len(weight))[torch.arange(len(weight)) != label] for label in y])
        trailing = logits.gather(1, y[:, None]) - logits.gather(1, others)
        slope = torch.linalg.vector_norm(weight[others] - weight[y][:, None], ord=DUAL[norm], dim=2)
    return trailing, slope


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("norm", "classes"), [("Linf", 2), ("L2", 3), ("L1", 4)])
def test_the_contract(norm: str, classes: int) -> None:
    model = mixed_model(classes)
    assert_contract(build_attack("rapid", {}), ThreatModel(norm, EPS[norm]), model, *images(model))


@pytest.mark.one_in(3)
@on_every_norm
def test_an_image_that_stands_costs_the_cap_and_no_more(norm: str) -> None:
    model = Counting(linear(12))
    x, y = inner_images(model, 3)
    model.passes = 0
    Rapid()(model, x, y, ThreatModel(norm, 1e-4), streams(3))
    assert model.passes == 3 * MOST_PASSES == 3 * (1 + 9 * (2 * 10 + 1) + 15 * (2 * 20 + 1) + 400)
    assert MOST_PASSES <= STANDARD_PASSES / 8


@pytest.mark.one_in(3)
@pytest.mark.parametrize("classes", [2, 3, 12])
def test_no_image_alone_costs_more_than_the_cap(classes: int) -> None:
    model = Counting(mixed_model(classes))
    x, y = images(model, 2)
    for row in range(2):
        model.passes = 0
        Rapid()(model, x[row : row + 1], y[row : row + 1], ThreatModel("Linf", 0.02), streams(1, first=row))
        assert 0 < model.passes <= MOST_PASSES


def test_an_image_that_is_wrong_already_costs_one_pass() -> None:
    model = Counting(linear(4))
    x, y = inner_images(model, 5)
    model.passes = 0
    assert torch.equal(Rapid()(model, x, (y + 1) % 4, ThreatModel("Linf", 0.1), streams(5)), x)
    assert model.passes == 5


class InDouble(nn.Module):
    """Computes in float64, so that the order in which a batch is summed does not reach the float32 logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.double())
        return logits.float()


@pytest.mark.one_in(3)
@on_every_norm
def test_an_example_does_not_depend_on_its_batch(norm: str) -> None:
    model = linear(4)
    x, y = inner_images(model, 4)
    trailing, slope = gaps(model, x, y, norm)
    threat = ThreatModel(norm, float((trailing / slope).amin(1).median()) * 1.02)
    model = InDouble(model)
    whole = Rapid()(model, x, y, threat, streams(4))
    assert 0 < wrong(model, whole, y).sum() < 4
    for row in range(4):
        alone = Rapid()(model, x[row : row + 1], y[row : row + 1], threat, streams(1, first=row))
        torch.testing.assert_close(alone[0], whole[row], rtol=0, atol=0)


@pytest.mark.one_in(3)
@on_every_norm
def test_the_margin_of_a_linear_network_is_its_optimum_within_one_percent(norm: str) -> None:
    model = linear(10)
    x, y = inner_images(model, 8)
    trailing, slope = gaps(model, x, y, norm)
    eps = 0.9 * float((trailing / slope).min())
    x_adv = Rapid()(model, x, y, ThreatModel(norm, eps), streams(8))
    best = (eps * slope - trailing).amax(1)
    with torch.no_grad():
        logits = model(x_adv)
    found = (logits.scatter(1, y[:, None], -torch.inf)).amax(1) - logits.gather(1, y[:, None])[:, 0]
    assert (found <= best + 1e-4).all()
    assert (found - best >= -0.01 * eps * slope.amax(1)).all()


@pytest.mark.one_in(3)
@on_every_norm
def test_a_linear_network_falls_one_percent_beyond_its_boundary_and_not_before(norm: str) -> None:
    model = linear(10)
    x, y = inner_images(model, 2)
    trailing, slope = gaps(model, x, y, norm)
    nearest = (trailing / slope).amin(1)
    for row in range(2):
        one = slice(row, row + 1)
        for share, falls in ((1.01, True), (0.99, False)):
            threat = ThreatModel(norm, share * float(nearest[row]))
            x_adv = Rapid()(model, x[one], y[one], threat, streams(1, first=row))
            assert threat.contains(x[one], x_adv).all()
            assert wrong(model, x_adv, y[one]).item() is falls


@pytest.mark.left_out
def test_digits_that_pgd_20_breaks_are_broken() -> None:
    model, data = load_model("digits-silu"), load_images("digits", "test")
    x, y, threat = data.x[:80], data.y[:80], ThreatModel("Linf", 0.2)
    plain = wrong(model, PGD(steps=20)(model, x, y, threat, streams(80)), y)
    rapid = wrong(model, Rapid()(model, x, y, threat, streams(80)), y)
    assert 20 < plain.sum() < 60
    assert not (plain & ~rapid).any()
    assert rapid.sum() > plain.sum()


class Hidden(nn.Module):
    """Class 1 wins only close to a point; "close" is a length in L2."""

    def __init__(self, point: Tensor, close: float) -> None:
        super().__init__()
        self.point, self.close = point, close

    def forward(self, x: Tensor) -> Tensor:
        away = (x - self.point).square().flatten(1).sum(1)
        return torch.stack([away, torch.full_like(away, self.close**2)], dim=1)


def test_an_optimum_inside_the_ball_is_reached() -> None:
    x, y, threat = torch.full((4, 1, 6, 6), 0.5), torch.zeros(4, dtype=torch.int64), ThreatModel("Linf", 0.1)
    points = x + 0.5 * (threat.random_start(x, streams(4)) - x)
    for row in range(4):
        model, one = Hidden(points[row], 0.02), slice(row, row + 1)
        assert torch.linalg.vector_norm(points[row] - x[row]) > 5 * model.close
        assert wrong(model, Rapid()(model, x[one], y[one], threat, streams(1, first=row)), y[one]).all()


class Backwards(nn.Module):
    """A linear network in steps of 0.05 whose gradient points the wrong way."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x)
        return (logits.detach() * 20).round() / 20 + 1e-4 * (logits.detach() - logits)


@pytest.mark.one_in(3)
@on_every_norm
def test_random_search_finds_what_a_misleading_gradient_hides(norm: str) -> None:
    model = Backwards(linear(4))
    x, y = inner_images(model.inner, 12)
    trailing, slope = gaps(model.inner, x, y, norm)
    threat = ThreatModel(norm, 2 * float((trailing / slope).amin(1).max()))
    assert not wrong(model, PGD(steps=50, loss="margin")(model, x, y, threat, streams(12)), y).all()
    assert wrong(model, Rapid()(model, x, y, threat, streams(12)), y).all()


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)


class Undefined(nn.Module):
    """The right class wins, and the gradient is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        nothing = (x - x.detach()).flatten(1).sum(1).square().sqrt()
        return torch.stack([1 - nothing, nothing, nothing], dim=1)


def test_a_gradient_that_is_not_there_is_refused() -> None:
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(BadInput, match="have no gradient"):
        Rapid()(Constant(), x, y, ThreatModel("Linf", 0.1), streams(2))


def test_a_gradient_that_is_nan_leads_nowhere() -> None:
    x, y, threat = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64), ThreatModel("Linf", 0.1)
    x_adv = Rapid()(Undefined(), x, y, threat, streams(2))
    assert threat.contains(x, x_adv).all()
    assert not wrong(Undefined(), x_adv, y).any()


def test_without_early_stop_every_image_takes_all_passes() -> None:
    model = Counting(linear(12))
    x, y = inner_images(model, 3)
    threat, model.passes = ThreatModel("Linf", 0.2), 0
    x_adv = Rapid(early_stop=False)(model, x, y, threat, streams(3))
    assert model.passes == 3 * MOST_PASSES
    assert wrong(model, x_adv, y).all()
    assert not torch.equal(x_adv, Rapid()(model, x, y, threat, streams(3)))
    assert (repr(Rapid()), repr(Rapid(early_stop=False))) == ("Rapid()", "Rapid(early_stop=False)")


def test_images_need_not_be_square() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 9, 3)).eval()
    x = torch.rand(4, 3, 5, 9, generator=generator(0, "images"))
    y = model(x).argmax(1)
    threat = ThreatModel("Linf", 0.01)
    x_adv = Rapid()(model, x, y, threat, streams(4))
    assert threat.contains(x, x_adv).all()
    assert (x_adv != x).any()


# where the trust battery doubts the network


class Winners(nn.Module):
    """Keeps the 5% largest units and sets the others to 0 (k-winners-take-all, Xiao et al. 2020, arXiv 1905.10510)."""

    def forward(self, x: Tensor) -> Tensor:
        least = x.topk(x.shape[1] // 20, dim=1).values[:, -1:]
        return torch.where(x >= least, x, 0.0)


@pytest.fixture(scope="module")
def winners() -> nn.Module:
    data = load_images("digits", "train").in_memory()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 256), Winners(), nn.Linear(256, 256), Winners(), nn.Linear(256, 10)
        )
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(15):
            for part in torch.randperm(len(data)).split(128):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(data.x[part]), data.y[part]).backward()
                optimizer.step()
    return model.eval()


def measured(model: object, out: Path, attack: str = "rapid", eps: str = "0.1", n: int = 50, **options: object) -> Run:
    return evaluate(model, out, attack, eps=eps, dataset="digits", n=n, device="cpu", **options)  # type: ignore[arg-type]


class Probabilities(nn.Module):
    """Returns probabilities, which the trust battery finds without any attack."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = load_model("digits-silu")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).softmax(1)


@pytest.mark.slow
def test_rapid_continues_with_autoattack_where_trust_doubts(tmp_path: Path) -> None:
    alone = measured(Probabilities(), tmp_path / "alone", eps="0.15", n=10, trust=False)
    assert "trust battery did not run" in " ".join(alone.manifest.notes)
    assert set(read_timing(alone)["stage"]) == set(alone.records["stage"]) == {""}
    whole = measured(Probabilities(), tmp_path / "whole", eps="0.15", n=10)
    assert "rapid continued with AutoAttack standard, because" in " ".join(whole.manifest.notes)
    assert read_timing(whole)["stage"].str.startswith("AutoAttackComponent(").any()
    assert set(whole.records["attack"]) == {"Rapid()"}
    assert (whole.records["broken"] >= alone.records["broken"]).all()


@pytest.mark.slow
def test_autoattack_breaks_what_rapid_leaves_of_discontinuous_gradients(winners: nn.Module, tmp_path: Path) -> None:
    """A run that ended between both is continued to the same bytes."""
    alone = measured(winners, tmp_path / "alone", n=100, trust=False)
    whole = measured(winners, tmp_path / "whole", n=100)
    assert "rapid continued with AutoAttack standard, because" in " ".join(whole.manifest.notes)
    added = whole.records[whole.records["broken"] & ~alone.records["broken"]]
    assert len(added)
    assert added["stage"].str.startswith("AutoAttackComponent(").all()
    resumed = measured(winners, tmp_path / "alone", n=100)
    assert (resumed.path / "records.parquet").read_bytes() == (whole.path / "records.parquet").read_bytes()


@pytest.mark.slow
def test_rapid_is_not_continued_on_a_sound_network(tmp_path: Path) -> None:
    checked = measured("digits-silu", tmp_path / "checked")
    assert checked.manifest.trust is not None
    assert (checked.manifest.trust.verdict, checked.manifest.notes) == ("pass", [])
    measured("digits-silu", tmp_path / "alone", trust=False)
    one, two = ((tmp_path / name / "records.parquet").read_bytes() for name in ("checked", "alone"))
    assert one == two


@pytest.mark.slow
def test_on_a_network_that_keeps_winners_rapid_ends_at_autoattack(winners: nn.Module, tmp_path: Path) -> None:
    runs = [measured(winners, tmp_path / "alone", eps="0.1", n=100, trust=False)]
    runs.append(measured(winners, tmp_path / "whole", eps="0.1", n=100))
    runs.append(measured(winners, tmp_path / "reference", "autoattack", eps="0.1", n=100, trust=False))
    alone, whole, reference = (int(run.records["broken"].sum()) for run in runs)
    assert alone + 5 < reference <= whole + 2
