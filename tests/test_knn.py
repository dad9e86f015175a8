"""Read-outs of a representation, and the attack on the nearest neighbours."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from attack_contract import EPS, assert_contract, mixed_model, streams
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from tiny_training import READ_OUT, tiny, write_rows
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.attacks import PGD
from satbench.attacks.knn_guided import KNNGuided
from satbench.cli.app import app
from satbench.core.errors import BadInput
from satbench.data import ImageSet, load_images, training_splits
from satbench.evaluation.counting import Counted
from satbench.methods.base import Step
from satbench.methods.ssl_at import SSLAT
from satbench.models import build_model
from satbench.models.classifier import Classifier, Readout
from satbench.models.knn import KNN
from satbench.models.weights import load_model_file, model_digest
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.recipes import RECIPES
from satbench.training.readout import knn, write_readout
from satbench.trust.battery import examine
from satbench.zoo import load

pytestmark = pytest.mark.numeric


def stored(k: int = 3, images: int = 40, width: int = 8, classes: int = 4) -> KNN:
    layer = KNN(k, images, width, classes)
    layer.bank.copy_(torch.randn(images, width, generator=generator(5)))
    layer.labels.copy_(torch.arange(images) % classes)
    return layer


def knn_model(k: int = 3) -> nn.Module:
    """The contract's network, with a kNN over random representations in the place of its last layer."""
    model = mixed_model()
    layer = stored(k, width=model[5].in_features)
    with torch.no_grad():  # around those of some images
        z = model[:5].eval()(torch.rand(40, 2, 6, 6, generator=generator(6)))
    layer.bank.copy_(z)
    model.train()
    model[3].eval()
    return nn.Sequential(*model[:5], layer)


def own_images(model: nn.Module, count: int = 6) -> tuple[Tensor, Tensor]:
    """Images and what the network says of them."""
    x = torch.rand(count, 2, 6, 6, generator=generator(7))
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    for module, mode in modes:
        module.training = mode
    return x, y


# votes


@pytest.mark.parametrize("k", [1, 5, 40])
def test_votes_are_those_of_scikit_learn(k: int) -> None:
    layer, z = stored(k), torch.randn(200, 8, generator=generator(8))
    other = KNeighborsClassifier(k, algorithm="brute").fit(layer.bank.numpy(), layer.labels.numpy())
    votes = layer(z)
    np.testing.assert_allclose(votes.numpy() / k, other.predict_proba(z.numpy()), atol=1e-6)
    assert np.array_equal(votes.argmax(1).numpy(), other.predict(z.numpy()))
    assert torch.equal(torch.cat([layer(one[None]) for one in z]), votes)
    assert not layer(z.requires_grad_()).requires_grad


def test_a_single_neighbour_of_a_stored_point_is_itself() -> None:
    layer = stored(1)
    assert torch.equal(layer(layer.bank).argmax(1), layer.labels)


@pytest.mark.parametrize(("k", "said"), [(0, "k of a kNN read-out is 0"), (41, "k=41 .* more than the 40 repres")])
def test_a_number_of_neighbours_that_cannot_be_is_refused(k: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        KNN(k, 40, 8, 4)


# the attack


@pytest.mark.parametrize("norm", EPS)
def test_the_guided_attack_keeps_the_contract(norm: str) -> None:
    model = knn_model()
    x, y = own_images(model)
    assert_contract(KNNGuided(steps=5, restarts=2), ThreatModel(norm, EPS[norm]), model, x, y)


def test_the_guided_attack_descends_its_formula() -> None:
    """Guide by guide, in plain Python: 2 of the true class, 2 of the class whose 2 nearest are nearest in the mean."""
    layer, z, y = stored(3), torch.randn(5, 8, generator=generator(9)), torch.tensor([0, 1, 2, 3, 0])
    found = KNNGuided(guides=4)._losses(z, y, layer)
    for point, label, loss in zip(z.tolist(), y.tolist(), found.tolist(), strict=True):
        gaps = [sum((a - b) ** 2 for a, b in zip(point, one, strict=True)) for one in layer.bank.tolist()]
        radius = sorted(gaps)[2]
        near = {c: sorted(gap for gap, one in zip(gaps, layer.labels, strict=True) if one == c)[:2] for c in range(4)}
        wrong = min((c for c in near if c != label), key=lambda c: sum(near[c]))
        wanted = sum(max(0.0, radius - gap) for gap in near[label]) + sum(max(0.0, gap - radius) for gap in near[wrong])
        assert loss == pytest.approx(wanted, rel=1e-4)


def test_the_loss_falls_along_the_guided_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, plain = knn_model(k=15), [], KNNGuided._losses

    def noted(attack: KNNGuided, z: Tensor, y: Tensor, layer: nn.Module) -> Tensor:
        seen.append(plain(attack, z, y, layer))
        return seen[-1]

    monkeypatch.setattr(KNNGuided, "_losses", noted)
    x, y = own_images(model)
    KNNGuided(steps=10, guides=8)(model, x, y, ThreatModel("Linf", 0.05), streams(len(x)))
    assert seen[-1].mean() < seen[0].mean()


def test_more_restarts_break_no_less_and_the_guided_attack_breaks_more_than_noise() -> None:
    model = knn_model()
    x, y = own_images(model, 60)
    threat = ThreatModel("Linf", 0.05)

    def fallen(x_adv: Tensor) -> float:
        with torch.no_grad():
            return float((model.eval()(x_adv).argmax(1) != y).float().mean())

    noise = fallen(threat.random_start(x, generator(3)))
    once = fallen(KNNGuided()(model, x, y, threat, streams(60)))
    thrice = fallen(KNNGuided(restarts=3)(model, x, y, threat, streams(60)))
    assert noise + 0.2 < once <= thrice


@pytest.mark.parametrize("at_once", [64, 4])
def test_passes_of_the_guided_attack_are_counted(at_once: int) -> None:
    """Also where the memory takes few images at a time: the same images then."""
    model = knn_model().eval()
    x, y = own_images(model, 10)
    threat = ThreatModel("Linf", 1e-4)  # breaks hardly an image
    counted = Counted(model, at_once)
    counted.watch(x, y, threat)
    x_adv = KNNGuided(steps=4)(counted.watched, x, y, threat, streams(10))
    assert torch.equal(x_adv, KNNGuided(steps=4)(model, x, y, threat, streams(10)))
    forward, backward, fell_at = counted.counts()
    standing = fell_at < 0
    assert standing.sum() >= 8
    assert (forward[standing] == 5).all()
    assert (backward[standing] == 4).all()


def test_other_networks_are_refused_by_the_guided_attack_and_votes_by_gradient_attacks() -> None:
    model = mixed_model()
    x, y = own_images(model)
    threat = ThreatModel("Linf", 0.1)
    with pytest.raises(BadInput, match="this one has no such layer; make one by `satbench readout RUN knn`"):
        KNNGuided()(model, x[:0], y[:0], threat, streams(0))
    with pytest.raises(BadInput, match="logits have no gradient to its input"):
        PGD(steps=2)(knn_model(), *own_images(knn_model()), threat, streams(6))


# files


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    dataset = write_rows(folder / "rows.npz")
    train(tiny(dataset, **READ_OUT, **{"measure.best": "clean"}), folder / "run", "cpu")
    return folder / "run"


def images_of(run: Path) -> ImageSet:
    dataset = load(str(run)).dataset
    assert dataset is not None
    images, _ = training_splits(dataset)
    assert isinstance(images, ImageSet)
    return images


def test_a_file_of_neighbours_votes_as_the_run_it_is_made_of(run: Path, tmp_path: Path) -> None:
    images = images_of(run)
    file = tmp_path / "knn.safetensors"
    done = CliRunner().invoke(app, ["readout", str(run), "knn:k=1", "--out", str(file), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{file}: cnn-small silu knn:k=1, 72 representations\n"
    loaded = load(str(file))
    assert torch.equal(loaded.model(images.x).argmax(1), images.y)
    net = load(str(run)).model
    assert isinstance(net, Classifier)
    other = KNeighborsClassifier(5, algorithm="brute").fit(net.features(images.x).detach(), images.y)
    made, _ = write_readout(str(run), "knn:k=5", tmp_path / "five.safetensors", "cpu")
    x = torch.rand(50, 1, 8, 8, generator=generator(0))
    assert np.array_equal(made(x).argmax(1), other.predict(net.features(x).detach()))
    again = load_model_file(tmp_path / "five.safetensors")[0]
    assert again.spec == made.spec
    assert torch.equal(again(x), made(x))


def test_a_read_out_is_another_network(run: Path, tmp_path: Path) -> None:
    """Neither a seed of the run nor of another read-out of it; what is stored is part of its digest."""
    infos = [load(str(run)).info]
    for number, readout in enumerate(("knn:k=3", "knn:k=4", "linear")):
        write_readout(str(run), readout, tmp_path / f"{number}.safetensors", "cpu")
        infos.append(load(str(tmp_path / f"{number}.safetensors")).info)
    for field in ("digest", "config", "family", "recipe", "label"):
        assert len({getattr(info, field) for info in infos}) == 4
    assert infos[1].recipe == "tiny [readout=knn:k=3]"
    net = load(str(run)).model
    assert isinstance(net, Classifier)
    images = images_of(run)
    cpu = torch.device("cpu")
    one, other = (knn(net, replace(images, y=y), cpu, 3) for y in (images.y, images.y.roll(1)))
    assert model_digest(one) != model_digest(other)


def test_a_linear_read_out_is_the_logistic_regression_of_scikit_learn(run: Path, tmp_path: Path) -> None:
    images, net = images_of(run), load(str(run)).model
    assert isinstance(net, Classifier)
    z = net.features(images.x).detach().double().numpy()
    scaled = StandardScaler().fit(z)
    fitted = LogisticRegression(max_iter=10_000, tol=1e-10).fit(scaled.transform(z), images.y)
    made, _ = write_readout(str(run), "linear", tmp_path / "linear.safetensors", "cpu")
    x = torch.rand(50, 1, 8, 8, generator=generator(0))
    wanted = fitted.predict_log_proba(scaled.transform(net.features(x).detach().double().numpy()))
    np.testing.assert_allclose(made(x).log_softmax(1).detach(), wanted, atol=1e-3)
    own, kept = dict(net.state_dict()), dict(made.state_dict())
    assert [name for name in own if not torch.equal(own[name], kept[name])] == ["net.11.weight", "net.11.bias"]


@pytest.mark.parametrize(
    ("readout", "out", "said"),
    [
        ("knn:k=73", "a.safetensors", "k=73 of a kNN read-out is more than the 72 representations"),
        ("knn:k=0", "a.safetensors", "k of a kNN read-out is 0; give a whole number from 1"),
        ("knn:k=2.5", "a.safetensors", "k of a kNN read-out is 2.5; give a whole number from 1"),
        ("nearest", "a.safetensors", "unknown read-out 'nearest'; did you mean linear"),
        ("knn:n=3", "a.safetensors", "unknown parameter 'n' of read-out 'knn'"),
        ("knn:k=3", "a.pt", "give the name of a new .safetensors file"),
    ],
)
def test_what_is_no_read_out_is_refused(readout: str, out: str, said: str, run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        write_readout(str(run), readout, tmp_path / out, "cpu")
    assert not list(tmp_path.iterdir())


def test_a_read_out_needs_a_network_of_satbench_and_a_spec_a_linear_layer(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no network that satbench trained"):
        write_readout("torch.nn:Flatten", "knn", tmp_path / "a.safetensors", "cpu")
    spec = load(str(run)).model.spec
    with pytest.raises(BadInput, match=r"takes the place of the layer 'net\.0', which is no linear"):
        build_model(replace(spec, readout=Readout(layer="net.0", k=1, images=2)))


def test_an_evaluation_attacks_the_read_out_that_is_used(run: Path, tmp_path: Path) -> None:
    """The figures at the end of an epoch are those of the file, searched as in training.

    On a copy with folded batch norms, gradients near 0 may change their sign by rounding, and with it an image.
    """
    file = tmp_path / "knn.safetensors"
    write_readout(str(run), "knn:k=3", file, "cpu")
    attacks = ["knn-guided:steps=2"]
    found = evaluate(str(file), tmp_path / "eval", attacks, split="val", device="cpu", trust=False, search="plain")
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    records = found.records
    assert len(records) == row["val_n"]
    assert (records["clean_prediction"] == records["label"]).mean() == pytest.approx(row["val_knn"])
    assert (~records["broken"]).mean() == pytest.approx(row["val_knn_robust"])
    assert (records["backward"] > 0).any()
    with pytest.raises(BadInput, match=r"no gradient to its input; .* for a kNN read-out --attack knn-guided"):
        evaluate(str(file), tmp_path / "pgd", ["pgd"], split="val", device="cpu")


def test_trust_says_that_votes_have_no_gradient(run: Path, tmp_path: Path) -> None:
    """And that an attack which needs none has attacked them, if it has."""
    file, threat = tmp_path / "knn.safetensors", ThreatModel("Linf", 0.1)
    write_readout(str(run), "knn:k=3", file, "cpu")
    loaded = load(str(file))
    assert loaded.dataset is not None
    model, (_, images) = loaded.model, training_splits(loaded.dataset)
    found = examine(model, images, threat)
    (seen,) = (one for one in found.findings if one.check == "gradients")
    assert (found.verdict, seen.outcome, seen.next_attack) == ("fail", "fail", "knn-guided")
    assert "no gradient to its input" in seen.sentence
    said = {}
    for attack in ("knn-guided:steps=2", "square"):
        measured = evaluate(str(file), tmp_path / attack, attack, threat=threat, split="val", device="cpu", trust=False)
        found = examine(model, images, threat, records=measured.records, attacks=measured.manifest.attacks)
        said[attack.split(":")[0]] = next(one for one in found.findings if one.check == "gradients")
    assert (said["knn-guided"].outcome, said["knn-guided"].next_attack) == ("not checked", None)
    assert "knn-guided follows the representations, and has attacked it" in said["knn-guided"].sentence
    assert (said["square"].outcome, said["square"].next_attack) == ("fail", "knn-guided")


def test_training_without_labels_says_what_is_clean_and_how_to_measure_it(tmp_path: Path) -> None:
    dataset, out = write_rows(tmp_path / "rows.npz"), tmp_path / "run"
    settings = ("epochs=1", "augment=crop-flip", "batch_size=16", "model.width=4", "measure.evaluators=knn:k=3,steps=1")
    words = [f"--set={one}" for one in settings]
    done = CliRunner().invoke(
        app, ["train", "digits-simclr", "--dataset", dataset, *words, "--out", str(out), "--device", "cpu"]
    )
    assert done.exit_code == 0, done.output
    (verdict,) = [line for line in done.stdout.splitlines() if line.startswith("best epoch 1: knn ")]
    assert " % without an attack on 18 validation images, best - last 0.0 points" in verdict
    following = done.stdout.splitlines()[-1].removeprefix("next: ")
    first, then = following.split(", as its last layer was not trained; then ")
    assert first == f"satbench readout {out} knn:k=3 --out {out / 'knn.safetensors'}"
    assert CliRunner().invoke(app, first.split()[1:]).exit_code == 0
    assert then == f"satbench eval --model {out / 'knn.safetensors'} --attack knn-guided --eps 0.2 --steps 50"
    again = CliRunner().invoke(app, [*then.split()[1:], "--n", "4", "--out", str(tmp_path / "eval"), "--device", "cpu"])
    assert again.exit_code == 0, again.output


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_fine_tuning_brings_representations_together_and_makes_neighbours_robust(seed: int, tmp_path: Path) -> None:
    """On 450 test images the cosine is at 0.2 before and 0.9 after it, kNN accuracy under attack at 0% and 25%."""
    test, cosines, robust = load_images("digits", "test"), [], []
    for name in ("digits-simclr", "digits-ssl-at"):  # of which the second begins with the first
        config = RECIPES[name]().with_values({"seed": seed, "measure.every": 40})
        train(config, tmp_path / name, "cpu")
        net = load(str(tmp_path / name / "last.safetensors")).model
        assert isinstance(net, Classifier)
        assert isinstance(test, ImageSet)
        step = Step.of(test.x, test.y, ThreatModel("Linf", config.threat.eps), generator(0))
        x_adv = SSLAT(steps=20).perturb(net, step)
        with torch.no_grad():
            cosines.append(float(functional.cosine_similarity(net.features(test.x), net.features(x_adv)).mean()))
        made, _ = write_readout(str(tmp_path / name), "knn:k=10", tmp_path / f"{name}.safetensors", "cpu")
        x_adv = KNNGuided(steps=50)(made, test.x, test.y, step.threat, streams(len(test.y)))
        robust.append(float((made(x_adv).argmax(1) == test.y).float().mean()))
        assert float((made(test.x).argmax(1) == test.y).float().mean()) > 0.9
    assert cosines[1] > cosines[0] + 0.4
    assert robust[1] > robust[0] + 0.15
