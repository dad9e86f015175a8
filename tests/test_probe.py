"""Information measurements against closed forms, other implementations and their own stated errors."""

import json
import math
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from attack_contract import assert_unchanged, mixed_model, state
from refusals import refusal
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.autograd.functional import jacobian as exact_jacobian
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.data import Images, load_images
from satbench.data.images import image_set
from satbench.models import Classifier, ModelSpec, build_model
from satbench.models.weights import Provenance, save_model
from satbench.numerics.seeding import PerSample
from satbench.probe import check_network, check_represents, probe
from satbench.probe.fisher import EXACT, input_fisher, weight_fisher
from satbench.probe.inversion import SMOOTHNESS, invert, variation
from satbench.probe.jacobian import jacobian
from satbench.probe.transfer import linear_transfer, logistic_regression, pixel_transfer
from satbench.reporting.rounding import with_interval
from satbench.results.probed import (
    Estimate,
    difference_of_seeds,
    mean_interval,
    mean_of_seeds,
    mean_of_skewed,
    paired_ratio,
    ratio_of_seeds,
)
from satbench.results.schema import ModelInfo

pytestmark = pytest.mark.numeric

SIDE, STD = 3, 0.25
ROUNDING = {"rtol": 1e-4, "atol": 1e-6}  # some hundred roundings of float32
SURE = 4.5  # standard errors: one run in 150,000 is further off


def pixels(count: int, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed))


def streams(count: int, purpose: str = "test") -> PerSample:
    return PerSample.of(0, [f"image-{i}" for i in range(count)], purpose)


def classifier(*layers: nn.Module, classes: int = 3, side: int = SIDE) -> Classifier:
    spec = ModelSpec("mlp", "relu", classes, 1, side, (0.5,), (STD,))
    return Classifier(nn.Sequential(nn.Flatten(), *layers), spec).eval()


def linear(classes: int, seed: int = 0, scale: float = 1.0) -> Classifier:
    layer = nn.Linear(SIDE**2, classes)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.normal_(0, scale, generator=random)
        layer.bias.normal_(0, scale, generator=random)
    return classifier(layer, classes=classes)


def softmax_fisher(model: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of a linear softmax model: tr W^T (diag p - p p^T) W / std^2, and (1 - |p|^2)(|z|^2 + 1); float64."""
    head = model.net[1]
    weight, z = head.weight.detach().double() / STD, ((x.double() - 0.5) / STD).flatten(1)
    p = model(x).detach().double().softmax(1)
    about_x = (p * weight.square().sum(1)).sum(1) - (p @ weight).square().sum(1)
    about_w = (1 - p.square().sum(1)) * (z.square().sum(1) + 1)
    return about_x, about_w


def test_the_input_fisher_of_a_linear_softmax_model_is_its_closed_form() -> None:
    model, x = linear(5), pixels(20)
    torch.testing.assert_close(input_fisher(model, x, streams(20)), softmax_fisher(model, x)[0], **ROUNDING)


def test_with_many_classes_the_input_fisher_is_estimated_without_bias() -> None:
    model, x = linear(EXACT + 5, scale=0.2), pixels(1).expand(500, -1, -1, -1)
    found = input_fisher(model, x, streams(500))
    error = float(found.std()) / math.sqrt(500)
    assert error > 0
    assert abs(float(found.mean() - softmax_fisher(model, x)[0][0])) < SURE * error


def test_the_weight_fisher_of_a_linear_softmax_model_has_its_closed_form_as_mean() -> None:
    model, x = linear(3, scale=0.3), pixels(1).expand(600, -1, -1, -1)
    before = state(model)
    layers = weight_fisher(model, x, streams(600))
    assert_unchanged(before, state(model))
    assert set(layers) == {"net.1"}
    found = layers["net.1"]
    p, z = model(x[:1]).softmax(1).double()[0].detach(), ((x[:1].double() - 0.5) / STD).flatten()
    possible = (torch.eye(3, dtype=torch.float64) - p).square().sum(1) * (z.square().sum() + 1)
    assert float((found[:, None] - possible).abs().amin(1).max()) < 1e-4 * float(possible.max())
    error = float(found.std()) / math.sqrt(600)
    assert abs(float(found.mean() - softmax_fisher(model, x[:1])[1][0])) < SURE * error


def test_drawn_labels_are_those_of_the_model_and_not_the_true_ones() -> None:
    """Of a confident model the expected squared gradient is that of its own label, near 0, whatever is true."""
    model, x = linear(3, scale=50.0), pixels(40)
    gap = model(x).topk(2).values
    sure = x[(gap[:, 0] - gap[:, 1]) > 20]
    assert len(sure) > 20
    assert float(weight_fisher(model, sure, streams(len(sure)))["net.1"].max()) < 1e-9


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal() -> None:
    """The representation of a linear model is its normalised pixels: |J|^2 is a ninth of 1 / std^2 for each pixel."""
    x = pixels(6)
    found = jacobian(linear(3), x, streams(6))
    torch.testing.assert_close(found.squared, torch.full((6,), SIDE**2 / STD**2, dtype=torch.float64), **ROUNDING)
    assert float(found.error.max()) < 1e-4
    z = ((x - 0.5) / STD).flatten(1).double().square().sum(1)
    torch.testing.assert_close(found.relative, found.squared / z, **ROUNDING)


def test_hutchinson_agrees_with_the_exact_norm_within_its_stated_error() -> None:
    torch.manual_seed(0)
    model = classifier(nn.Linear(SIDE**2, 12), nn.SiLU(), nn.Linear(12, 6), nn.SiLU(), nn.Linear(6, 3))
    x, count = pixels(300), 300
    exact = torch.stack([exact_jacobian(model.features, one[None]).double().square().sum() for one in x])
    found = jacobian(model, x, streams(count))
    assert float(found.error.min()) > 0
    off = (found.squared - exact) / found.error
    # 16 vectors: Student's t with 15 degrees of freedom, whose deviation is 1.07, for nearly normal estimates
    assert 0.85 < float(off.std()) < 1.3
    mean_error = float(found.error.square().sum().sqrt()) / count
    assert abs(float(found.squared.mean() - exact.mean())) < SURE * mean_error
    assert mean_error < 0.05 * float(exact.mean())


def test_a_representation_without_a_gradient_is_refused() -> None:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.round()

    cut = nn.Sequential(nn.Flatten(), nn.Linear(9, 4), nn.Linear(4, 2))
    cut[1].register_forward_hook(lambda layer, given, output: output.detach())
    with pytest.raises(BadInput, match="no gradient"):
        jacobian(cut.requires_grad_(False), pixels(2), streams(2))
    assert float(jacobian(classifier(Rounded(), nn.Linear(9, 3)), pixels(2), streams(2)).squared.max()) == 0


def test_logistic_regression_has_the_minimum_that_scikit_learn_finds() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 4, 200)
    z = random.normal(size=(200, 6)) + np.eye(4)[y] @ random.normal(size=(4, 6))
    known = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(z, y)
    weight, bias = logistic_regression(torch.tensor(z), torch.tensor(y), 4)
    torch.testing.assert_close(weight, torch.tensor(known.coef_), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(bias - bias.mean(), torch.tensor(known.intercept_), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def halves() -> tuple[Images, Images]:
    return load_images("digits", "train").head(300), load_images("digits", "test").head(200)


def test_transfer_is_that_of_scikit_learn_on_standardised_features(halves: tuple[Images, Images]) -> None:
    train, test = (one.in_memory() for one in halves)
    mean, spread = train.x.flatten(1).mean(0), train.x.flatten(1).std(0, correction=0)
    scaled = [((one.x.flatten(1) - mean) / spread.where(spread > 0, torch.ones(()))).numpy() for one in (train, test)]
    known = LogisticRegression(tol=1e-8, max_iter=10_000).fit(scaled[0], train.y).predict(scaled[1])
    ours = pixel_transfer(train, test)
    assert ours.sum() / len(ours) > 0.85
    assert (ours != (known == test.y.numpy())).sum() <= 1  # an image on the boundary


def test_the_scale_of_features_does_not_decide_transfer(halves: tuple[Images, Images]) -> None:
    scales = torch.logspace(-3, 3, 64)
    plain = linear_transfer(lambda x: x.flatten(1), *halves, batch_size=64)
    scaled = linear_transfer(lambda x: x.flatten(1) * scales, *halves, batch_size=50)
    assert int((plain != scaled).sum()) <= 1


def test_a_target_whose_test_labels_are_not_in_training_is_refused(halves: tuple[Images, Images]) -> None:
    train, test = halves
    few = train.take([i for i, label in enumerate(train.y.tolist()) if label < 9])
    with pytest.raises(BadInput, match="have no label 9"):
        pixel_transfer(few, test)


def test_inversion_finds_the_image_where_the_representation_determines_it() -> None:
    model, x = linear(3), pixels(4)
    found = invert(model, x, streams(4))
    z, again = model.features(x), model.features(found.x)
    residual = ((again - z).square().sum(1) / z.square().sum(1)).double().detach()
    torch.testing.assert_close(found.residual, residual, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.error, (found.x - x).double().square().mean((1, 2, 3)))
    # at x itself the objective is SMOOTHNESS * TV(x)
    best = SMOOTHNESS * variation(x).double()
    assert bool((found.residual + SMOOTHNESS * variation(found.x).double() <= best + 1e-3).all())
    assert float(found.error.max()) < 0.01
    assert float(found.x.min()) >= 0
    assert float(found.x.max()) <= 1


def test_total_variation_of_known_images() -> None:
    steps = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None, None]  # two of its four differences are 1
    assert variation(torch.cat([steps, torch.ones(1, 1, 2, 2)])).tolist() == [0.5, 0.0]


def data(count: int = 12, classes: int = 4, channels: int = 2) -> Images:
    random = np.random.default_rng(0)
    x = random.random((count, channels, 6, 6)).astype(np.float32)
    return image_set("noise", "test", x, np.arange(count) % classes, [f"n/{i}" for i in range(count)])


INFO = ModelInfo(ref="r", digest="sha256:0", label="l")


def test_measurements_depend_neither_on_the_batch_nor_on_other_images() -> None:
    model = mixed_model().eval()
    before, random = state(model), torch.get_rng_state()
    whole = probe(model, INFO, data(), {}, inverted=3, batch_size=12)
    assert_unchanged(before, state(model))
    assert torch.equal(torch.get_rng_state(), random)
    parts = probe(model, INFO, data().head(5), {}, inverted=3, batch_size=2)
    pd.testing.assert_frame_equal(whole.images.head(5), parts.images, rtol=1e-4)
    pd.testing.assert_frame_equal(whole.layers.head(5), parts.layers, rtol=1e-4)
    other = probe(model, INFO, data().head(5), {}, seed=1, inverted=3)
    assert not np.allclose(other.images["jacobian"], parts.images["jacobian"], rtol=1e-3)
    assert whole.images["residual"].notna().tolist() == [True] * 3 + [False] * 9
    assert whole.reconstructions.shape == (3, 6, 6, 2)
    assert np.allclose(whole.layers.sum(axis=1), whole.images["weight_fisher"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda net: net.append(nn.Softmax(1)), "not the output of its last"),
        (lambda net: net[0].weight.data.fill_(torch.nan), "NaN or infinite"),
        (lambda net: net.insert(4, Noise()), "random numbers"),
        (lambda net: net.insert(0, nn.Linear(7, 7)), "fails on images of shape"),
    ],
)
def test_a_network_that_cannot_be_probed_is_refused(spoil: Callable[[nn.Module], object], said: str) -> None:
    model = mixed_model()
    spoil(model)
    with pytest.raises(BadInput, match=said) as error:
        check_network(model, data())
    assert "\n" not in str(error.value)


def test_labels_that_the_network_does_not_have_are_refused() -> None:
    check_represents(mixed_model(), data(classes=5))
    with pytest.raises(BadInput, match="has 4 outputs, but labels of the images go up to 4"):
        check_network(mixed_model(), data(classes=5))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def test_intervals_are_those_of_scipy() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(3, 1, 5), random.normal(2, 0.3, 4)
    found, known = mean_interval(a.tolist()), stats.ttest_1samp(a, 0).confidence_interval()
    assert (found.value, found.low, found.high, found.n) == pytest.approx((a.mean(), known.low, known.high, 5))
    apart, known = difference_of_seeds(a.tolist(), b.tolist()), stats.ttest_ind(a, b, equal_var=False)
    assert (apart.low, apart.high) == pytest.approx(tuple(known.confidence_interval()))
    assert mean_interval([2.0]).high == math.inf


def test_bounds_are_rounded_outward() -> None:
    assert with_interval(1.2345, 1.1091, 1.3701) == "1.23 [1.1, 1.38]"
    assert with_interval(0.00012345, -0.00012345, 0.0) == "0.000123 [-0.000124, 0]"
    assert with_interval(12345, -math.inf, 12399) == "12300 [-inf, 12400]"


def test_no_interval_of_a_non_negative_figure_is_below_zero() -> None:
    """Of seeds: t times the standard error over the mean. Of images: where Hall's polynomial has t's quantiles."""
    few = np.array([0.1, 4.0, 0.3])
    assert mean_interval(few.tolist()).low < 0
    found, wide = mean_of_seeds(few.tolist()), stats.t.ppf(0.975, 2) * stats.sem(few) / few.mean()
    assert (found.value, found.n) == (pytest.approx(few.mean()), 3)
    assert (found.low, found.high) == pytest.approx((few.mean() * math.exp(-wide), few.mean() * math.exp(wide)))
    for values in (few, np.random.default_rng(0).gamma(0.2, 1, 150), np.random.default_rng(1).uniform(1, 2, 40)):
        found, n = mean_of_skewed(values.tolist()), len(values)
        skewness = stats.skew(values)
        for limit, sign in ((found.low, 1), (found.high, -1)):
            t = (values.mean() - limit) / stats.sem(values)
            polynomial = t + skewness / 3 * t**2 / n**0.5 + skewness**2 / 27 * t**3 / n + skewness / 6 / n**0.5
            if limit == 0:
                assert values is few
                assert polynomial < stats.t.ppf(0.975, n - 1)  # the uncut bound is below
            else:
                assert polynomial == pytest.approx(sign * stats.t.ppf(0.975, n - 1))
        assert 0 <= found.low < values.mean() < found.high


@pytest.mark.parametrize("mean_of", [mean_of_seeds, mean_of_skewed])
def test_means_without_spread_have_intervals_too(mean_of: Callable[[list[float]], Estimate]) -> None:
    assert astuple(mean_of([2.0] * 9)) == (2, 2, 2, 9)
    assert astuple(mean_of([0.0] * 9)) == (0, 0, 0, 9)
    assert astuple(mean_of([2.0])) == (2, 0, math.inf, 1)
    assert math.isnan(mean_of([]).value)


def test_the_interval_of_a_skewed_mean_covers_it_where_students_does_not() -> None:
    random, tries, mean = np.random.default_rng(0), 1000, 0.2
    hits = missed = 0
    for _ in range(tries):
        values = random.gamma(mean, 1, 150).tolist()  # skewness 4.5
        hits += (one := mean_of_skewed(values)).low <= mean <= one.high
        missed += not (one := mean_interval(values)).low <= mean <= one.high
    assert hits / tries > 0.935  # 95% less two standard errors of 1000 tries
    assert missed / tries > 0.065


def test_intervals_of_ratios_cover_the_true_ratio() -> None:
    random, tries = np.random.default_rng(0), 400
    of_seeds = of_images = 0
    for _ in range(tries):
        a, b = random.normal(2, 0.2, 3), random.normal(8, 1, 3)
        found = ratio_of_seeds(a.tolist(), b.tolist())
        of_seeds += found.low <= 0.25 <= found.high
        common = random.gamma(2, 1, 200)  # what makes an image easy for both networks
        pair = paired_ratio((common * random.gamma(9, 1 / 9, 200)).tolist(), (4 * common).tolist())
        of_images += pair.low <= 0.25 <= pair.high
    assert of_seeds / tries > 0.92  # 95%, less two standard errors of 400 tries and the approximation
    assert 0.92 < of_images / tries < 0.98


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeds each of two untrained models, as run folders have them."""
    folder, found = tmp_path_factory.mktemp("networks"), []
    for width in (4, 6):
        for seed in (0, 1):
            torch.manual_seed(seed)
            model = build_model(ModelSpec("mlp", "relu", 10, 1, 8, (0.3,), (0.4,), {"width": width}))
            origin = Provenance(
                label=f"mlp{width} seed {seed}", recipe=f"mlp{width}", method="standard", dataset="digits", seed=seed,
                threat=Threat(norm="Linf", eps=0), epoch=0, train_digest="sha256:0", config=f"sha256:{width}",
                family="0",
            )  # fmt: skip
            found.append(str(folder / f"{width}-{seed}.safetensors"))
            save_model(Path(found[-1]), model, origin)
    return found


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["probe", *map(str, arguments)], terminal_width=400)
    return done.exit_code, done.output


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.left_out
def test_the_command_puts_models_side_by_side(networks: list[str], tmp_path: Path) -> None:
    letters = tmp_path / "rows.npz"
    x, y = np.zeros((80, 8, 8, 1), dtype=np.uint8), np.arange(80) % 4
    x[np.arange(80), 2 * y] = 255
    np.savez(letters, x=x, y=y)
    small = ("--n", 20, "--invert", 2, "--to", f"npz:{letters}")
    code, said = run(*networks, *small, "--out", tmp_path / "page")
    assert code == 0, said
    assert "mlp6 relu against mlp4 relu" in said
    assert "mlp6 relu, seed 1" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    stored = json.loads((tmp_path / "page" / "probe.json").read_text(encoding="utf-8"))
    figures = {(one["quantity"], one["model"]): one for one in stored["figures"]}
    first, second = figures["jacobian", "mlp4 relu"], figures["jacobian", "mlp6 relu"]
    assert first["against"] is None
    assert second["networks"] == 2
    assert second["against"]["value"] == pytest.approx(second["mean"]["value"] / first["mean"]["value"])
    assert second["against"]["low"] < second["against"]["value"] < second["against"]["high"]
    transferred = figures[f"accuracy on npz:{letters}", "mlp4 relu"]["mean"]
    assert transferred["n"] == 20
    assert transferred["value"] == 1.0  # four different rows
    assert transferred["low"] == pytest.approx(20 / (20 + stats.norm.ppf(0.975) ** 2))  # Wilson's at 20 of 20
    records = pd.read_parquet(tmp_path / "page" / "images.parquet")
    assert len(records) == 4 * 20
    by_hand = records.groupby("digest")["jacobian"].mean().to_numpy()
    assert first["mean"]["value"] in [pytest.approx((one + two) / 2) for one in by_hand for two in by_hand]
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 * (1 + 4)
    assert "http" not in page.replace("http-equiv", "")
    assert run(*networks, *small, "--out", tmp_path / "again")[0] == 0
    assert contents(tmp_path / "page") == contents(tmp_path / "again")


def test_two_single_networks_are_compared_over_images(networks: list[str], tmp_path: Path) -> None:
    assert run(networks[0], networks[2], "--n", 30, "--invert", 0, "--out", tmp_path)[0] == 0
    stored = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    figures = {(one["quantity"], one["model"]): one for one in stored["figures"]}
    assert figures["input_fisher", "mlp6 relu"]["against"]["n"] == 30
    assert figures["residual", "mlp6 relu"]["mean"]["value"] is None
    assert not (tmp_path / "transfer.parquet").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("{0}",), "same weights"),
        (("--n", "0"), "--n 0"),
        (("--invert", "-1"), "--invert is -1; give a whole number from 0"),
        (("--batch-size", "0"), "--batch-size is 0"),
        (("--to", "imagenet-sample"), "--to imagenet-sample: imagenet-sample is too small for a 'train' split"),
        (("--to", "no-such"), "--to no-such: unknown data set"),
        (("digits-silu", "--split", "tset"), "unknown split"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(
    networks: list[str], changed: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    code, output = run(networks[0], *(one.format(*networks) for one in changed), "--out", tmp_path / "page")
    assert code == 2
    assert said in refusal(output)
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_adversarial_training_lowers_input_fisher_and_jacobian_on_digits(tmp_path: Path) -> None:
    """Terzi et al. 2021 (arXiv 2007.11259), claims about the input; nothing is claimed of the weight Fisher."""
    runs = []
    for recipe in ("digits-standard", "digits-sat"):
        runs.append(tmp_path / recipe)
        done = CliRunner().invoke(app, ["train", recipe, "--epochs", "10", "--out", str(runs[-1])])
        assert done.exit_code == 0, done.output
    code, output = run(*runs, "--n", 200, "--invert", 0, "--out", tmp_path / "page")
    assert code == 0, output
    stored = json.loads((tmp_path / "page" / "probe.json").read_text(encoding="utf-8"))
    against = {one["quantity"]: one["against"] for one in stored["figures"] if one["against"]}
    for quantity in ("input_fisher", "jacobian"):
        assert against[quantity]["high"] < 1, quantity
