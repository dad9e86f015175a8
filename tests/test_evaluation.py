"""Measuring: what lands in the records, what the judge sees, and what is refused before anything is written."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from small_networks import nearest_mean
from torch import Tensor, nn

from satbench import ThreatModel, evaluate
from satbench.attacks import PGD, fgsm
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.models.weights import model_digest
from satbench.numerics.seeding import Randomness
from satbench.results.schema import RECORDS, SCHEMA_VERSION
from satbench.results.store import Run, read_run

pytestmark = pytest.mark.numeric

EPS = 0.1
N = 30


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return nearest_mean().eval()


def measure(model: nn.Module, out: Path, attack: object = "pgd", **options: object) -> Run:
    settings = {"dataset": "digits", "split": "test", "eps": str(EPS), "n": N, "device": "cpu", **options}
    return evaluate(model, out, [attack], **settings)  # type: ignore[list-item, arg-type]


def margins(model: nn.Module, n: int) -> tuple[list[bool], list[float]]:
    """Of the first test images: is it right, and how far in Linf is the boundary of a linear model, by formula."""
    images = load_images("digits", "test").head(n)
    weight, bias = model[1].weight.detach().double(), model[1].bias.detach().double()  # type: ignore[index, union-attr]
    logits = images.x.flatten(1).double() @ weight.T + bias
    gap = logits.gather(1, images.y[:, None]) - logits
    steep = (weight[images.y][:, None] - weight).abs().sum(2)
    distance = (gap / steep).scatter(1, images.y[:, None], torch.inf).amin(1)
    return (distance > 0).tolist(), distance.tolist()


# records


def test_equal_calls_give_equal_bytes_and_another_seed_does_not(model: nn.Module, tmp_path: Path) -> None:
    for global_seed, (name, seed) in enumerate((("one", 0), ("two", 0), ("other", 1))):
        torch.manual_seed(global_seed)
        measure(model, tmp_path / name, PGD(steps=2), seed=seed)
    one, two, other = ((tmp_path / name / "records.parquet").read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_records_do_not_depend_on_the_batch_size(norm: str, model: nn.Module, tmp_path: Path) -> None:
    attack = PGD(steps=2, restarts=2)
    eps = {"Linf": "0.1", "L2": "0.5", "L1": "2"}[norm]
    whole, parts = (
        measure(model, tmp_path / str(size), attack, norm=norm, eps=eps, batch_size=size).records for size in (N, 7)
    )
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-4, atol=1e-6)
    assert 0 < whole["broken"].sum() < N


def test_a_longer_list_of_images_extends_the_records(model: nn.Module, tmp_path: Path) -> None:
    long, short = (measure(model, tmp_path / str(n), PGD(steps=2), n=n) for n in (N, 10))
    pd.testing.assert_frame_equal(long.records.head(10), short.records, rtol=1e-4, atol=1e-6)
    assert long.manifest.data.digest != short.manifest.data.digest
    assert (long.manifest.data.n, short.manifest.data.n) == (N, 10)


def test_two_shards_give_the_records_of_the_whole(model: nn.Module, tmp_path: Path) -> None:
    images = load_images("digits", "test").in_memory()
    attack = PGD(steps=5, restarts=2, schedule="cosine")
    halves = [
        evaluate(model, tmp_path / str(rows), attack=[attack], eps=EPS, dataset=images.take(rows), trust=False).records  # type: ignore[list-item]
        for rows in (range(N // 2), range(N // 2, N))
    ]
    whole = measure(model, tmp_path / "whole", attack).records
    pd.testing.assert_frame_equal(pd.concat(halves, ignore_index=True), whole, rtol=1e-4, atol=1e-6)


def test_records_come_by_attack_then_threat_then_sample(model: nn.Module, tmp_path: Path) -> None:
    run = evaluate(model, tmp_path, ["fgsm", "pgd"], "Linf,L2", "0.05,0.1", "1,2", dataset="digits", split="test", n=5)
    images = load_images("digits", "test").head(5)
    assert list(run.records.columns) == RECORDS.names
    attacks = [repr(attack) for attack in (fgsm(), PGD(steps=1), PGD(steps=2))]
    expected = [
        (attack, norm, eps, sample, pixels, label)
        for attack in attacks
        for norm in ("Linf", "L2")
        for eps in (0.05, 0.1)
        for sample, pixels, label in zip(images.ids, images.hashes, images.y.tolist(), strict=True)
    ]
    columns = ["attack", "norm", "eps", "sample_id", "sample_hash", "label"]
    assert list(run.records[columns].itertuples(index=False, name=None)) == expected
    assert [info.id for info in run.manifest.attacks] == attacks
    assert [(threat.norm, threat.eps) for threat in run.manifest.threats] == [
        ("Linf", 0.05),
        ("Linf", 0.1),
        ("L2", 0.05),
        ("L2", 0.1),
    ]


def test_clean_predictions_and_broken_samples_agree_with_the_formula(model: nn.Module, tmp_path: Path) -> None:
    records = measure(model, tmp_path, PGD(steps=20, loss="margin"), n=200).records
    right, distance = margins(model, 200)
    assert (records["clean_prediction"] == records["label"]).tolist() == right
    assert 0.5 < sum(right) / 200 < 1
    for broken, radius in zip(records["broken"], distance, strict=True):
        assert not broken or radius <= EPS * 1.001
    assert records["broken"].sum() > 200 - sum(right)


def test_clean_mistakes_are_broken_at_no_distance(model: nn.Module, tmp_path: Path) -> None:
    records = measure(model, tmp_path, PGD(steps=2), n=200).records
    wrong = records[records["clean_prediction"] != records["label"]]
    assert len(wrong) > 0
    assert wrong["broken"].all()
    assert (wrong["prediction"] == wrong["clean_prediction"]).all()
    assert not wrong[["distance_linf", "distance_l2", "distance_l1"]].to_numpy().any()


def test_eps_zero_is_clean_accuracy(model: nn.Module, tmp_path: Path) -> None:
    records = measure(model, tmp_path, PGD(steps=2), n=200, eps="0").records
    assert (records["broken"] == (records["clean_prediction"] != records["label"])).all()
    assert not records["distance_linf"].any()


# the judge


@dataclass(frozen=True)
class Shift:
    """Moves every pixel by `by`, whatever the threat says."""

    by: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return x + self.by


@dataclass(frozen=True)
class Invert:
    """Turns black and white round: inside the box and far outside any ball."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return 1 - x


@dataclass(frozen=True)
class OnePixel:
    """Puts `value` into the first pixel of the first image it is given."""

    value: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        x = x.clone()
        x[0, 0, 0, 0] = self.value
        return x


@dataclass(frozen=True)
class NoTensor:
    as_array: bool

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> object:
        return x.numpy() if self.as_array else None


@dataclass(frozen=True)
class Reshape:
    shape: tuple[int, ...]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return torch.zeros(len(x) if self.shape[0] < 0 else self.shape[0], *self.shape[1:])


def attacked(records: pd.DataFrame) -> pd.DataFrame:
    return records[records["clean_prediction"] == records["label"]]


@pytest.mark.parametrize(
    ("attack", "eps", "violation", "distance"),
    [
        (Invert(), "0.1", "outside the ball", 1.0),
        (Shift(0.2), "0.3", "outside the box", 0.2),
        (Shift(float("nan")), "0.3", "not finite", None),
        (Shift(float("inf")), "0.3", "not finite", float("inf")),
    ],
    ids=["ball", "box", "nan", "inf"],
)
def test_a_violation_is_recorded_and_breaks_nothing(
    attack: object, eps: str, violation: str, distance: float | None, model: nn.Module, tmp_path: Path
) -> None:
    rows = attacked(measure(model, tmp_path, attack, eps=eps).records)
    assert len(rows) > 10
    assert (rows["violation"] == violation).all()
    assert not rows["broken"].any()
    assert (rows["prediction"] == -1).all()
    if distance is None:
        assert rows["distance_linf"].isna().all()
    else:
        assert rows["distance_linf"].tolist() == pytest.approx([distance] * len(rows))


def test_a_violation_of_one_sample_leaves_the_others_judged(model: nn.Module, tmp_path: Path) -> None:
    rows = attacked(measure(model, tmp_path, OnePixel(7.0)).records)
    assert rows["violation"].tolist() == ["outside the box"] + [""] * (len(rows) - 1)
    assert (rows["prediction"].iloc[1:] == rows["label"].iloc[1:]).all()


def test_float_noise_at_the_border_is_no_violation(model: nn.Module, tmp_path: Path) -> None:
    rows = attacked(measure(model, tmp_path, OnePixel(-1e-7), eps="0.5").records)
    assert (rows["violation"] == "").all()


def test_distances_are_measured_again(model: nn.Module, tmp_path: Path) -> None:
    row = attacked(measure(model, tmp_path, OnePixel(0.5), eps="1").records).iloc[0]
    images = load_images("digits", "test")
    moved = abs(0.5 - images.x[images.ids.index(row["sample_id"]), 0, 0, 0].item())
    assert moved > 0
    assert (row["distance_linf"], row["distance_l2"], row["distance_l1"]) == pytest.approx((moved,) * 3)


@pytest.mark.parametrize("shape", [(-1, 1, 8, 7), (3, 1, 8, 8), (-1, 64)])
def test_an_attack_that_returns_another_shape_is_refused(
    shape: tuple[int, ...], model: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"Reshape\(.* returned shape"):
        measure(model, tmp_path / "run", Reshape(shape))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("as_array", [False, True])
def test_an_attack_that_returns_no_tensor_is_refused(as_array: bool, model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="an attack returns a tensor like the images"):
        measure(model, tmp_path / "run", NoTensor(as_array))
    assert not (tmp_path / "run").exists()


# models that cannot be judged


class Head(nn.Module):
    """Passes the logits of the linear model through `change`."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner = nearest_mean()
        self.change = change

    def forward(self, x: Tensor) -> object:
        return self.change(self.inner(x))


def fail(logits: Tensor) -> Tensor:
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nsecond line")


UNUSABLE: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "NaN": (lambda logits: logits * float("nan"), "NaN or infinite logits for 16"),
    "one NaN": (
        lambda logits: logits.clone().index_put_((torch.tensor(3), torch.tensor(2)), torch.tensor(torch.nan)),
        "1 of",
    ),
    "infinite": (lambda logits: logits / 0, "NaN or infinite"),
    "one-dimensional": (lambda logits: logits.argmax(1), r"returned \(16,\)"),
    "too few rows": (lambda logits: logits[:-1], r"returned \(15, 10\)"),
    "too few classes": (lambda logits: logits[:, :5], "labels go up to 9 but the model has 5"),
    "tuple": (lambda logits: (logits, logits), "returned tuple"),
    "numpy": (lambda logits: logits.detach().numpy(), "returned ndarray"),
    "crash": (fail, r"shape \(16, 1, 8, 8\): RuntimeError: mat1 and mat2 shapes cannot be multiplied$"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_models_are_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    change, hint = UNUSABLE[case]
    with pytest.raises(BadInput, match=hint):
        measure(Head(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nan_under_attack_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    """A model that is fine on the clean images and fails on what the attack returns."""
    images = load_images("digits", "test").head(N)
    greys = (images.x * 16).round() / 16

    class Brittle(Head):
        def forward(self, x: Tensor) -> object:
            clean = bool(((x * 16).round() / 16 == x).all())
            return self.inner(x) if clean else self.inner(x) * float("nan")

    assert torch.equal(greys, images.x)
    with pytest.raises(BadInput, match="NaN"):
        measure(Brittle(fail), tmp_path / "run", Shrink())
    assert not (tmp_path / "run").exists()


@dataclass(frozen=True)
class Shrink:
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return 0.95 * x


def test_a_model_without_gradients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="gradient"):
        measure(Head(lambda logits: logits.detach()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_channels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="failed on images of shape"):
        measure(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), *nearest_mean())
    model[1].eval()
    model[3].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = measure(model, tmp_path, PGD(steps=2))
    assert [module.training for module in model] == [True, False, True, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, True, False]
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    expected = attacked(measure(model.eval(), tmp_path / "eval", PGD(steps=2)).records)
    pd.testing.assert_frame_equal(attacked(run.records), expected)


# run folders and manifests


def test_the_manifest_says_what_was_done(model: nn.Module, tmp_path: Path) -> None:
    images = load_images("digits", "test").head(N)
    run = measure(model, tmp_path / "run", "pgd", steps="2", seed=3, batch_size=8, command="satbench eval ...")
    raw = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert raw["schema_version"] == SCHEMA_VERSION
    assert raw["data"] == {
        "name": "digits",
        "split": "test",
        "n": N,
        "digest": images.digest,
        "loader": None,
        "image_size": 8,
    }
    assert raw["model"]["digest"] == model_digest(model)
    assert raw["model"]["label"] == "Sequential"
    assert raw["threats"] == [{"norm": "Linf", "eps": EPS}]
    assert [info["id"] for info in raw["attacks"]] == [repr(PGD(steps=2))] == list(run.records["attack"].unique())
    assert raw["attacks"] == [PGD(steps=2).info.model_dump(mode="json")]
    assert (raw["seed"], raw["batch_size"], raw["device"], raw["command"]) == (3, 8, "cpu", "satbench eval ...")
    assert raw["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "satbench", "numpy"} <= set(raw["versions"])
    assert raw["seconds"] >= 0
    assert {"created", "host", "revision"} <= set(raw)
    again = read_run(tmp_path / "run")
    assert again.manifest == run.manifest
    pd.testing.assert_frame_equal(again.records, run.records)


def test_manifests_of_equal_calls_differ_only_where_the_schema_says(model: nn.Module, tmp_path: Path) -> None:
    one, two = (measure(model, tmp_path / name, PGD(steps=1)).manifest.model_dump() for name in ("one", "two"))
    for name in ("seconds", "created", "host", "seal"):
        one.pop(name), two.pop(name)
    assert one == two


def test_model_digests_follow_the_weights() -> None:
    one, two = nearest_mean(), nearest_mean()
    assert model_digest(one) == model_digest(two)
    with torch.no_grad():
        two[1].bias[0] += 1e-3  # type: ignore[index, union-attr]
    assert model_digest(one) != model_digest(two)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"eps": "8"}, "8/255"),
        ({"eps": "0.1,,0.2"}, "empty item"),
        ({"norm": "linf"}, "Linf"),
        ({"steps": "x"}, "whole numbers"),
        ({"steps": "0"}, "whole number"),
        ({"restarts": "0"}, "whole number"),
        ({"batch_size": 0}, "--batch-size"),
        ({"n": 0}, "--n 0"),
        ({"n": 2.5}, r"--n 2\.5: give a whole number"),
        ({"n": "x"}, "--n 'x': give a whole number"),
        ({"n": True}, "--n True: give a whole number"),
        ({"n": 99_999}, "450"),
        ({"dataset": None}, "--dataset"),
        ({"split": "tset"}, "test"),
        ({"device": "gpu"}, "--device gpu"),
        ({"device": "meta"}, "--device meta"),
        ({"attack": "pdg"}, "pgd"),
        ({"attack": "pgd:stepz=3"}, "steps"),
        ({"attack": "pgd:loss"}, "key=value"),
        ({"attack": "pgd:loss=marign"}, "margin"),
        ({"attack": "pgd:loss=3"}, "loss"),
        ({"attack": "pgd:step_size=big"}, "8/255"),
        ({"attack": "pgd:steps=many"}, "whole number"),
        ({"attack": "pgd:steps=²"}, "whole number"),
        ({"attack": "fgsm", "steps": "3"}, "--steps"),
        ({"attack": "autoattack:version=standrad"}, "standard"),
        ({"attack": "autoattack:version=1"}, "version"),
        ({"attack": "autoattack:version=custom,components=1"}, "component"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_is_written(
    options: dict[str, object], hint: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        measure(nearest_mean(), tmp_path / "run", **{"attack": "pgd", **options})
    assert not (tmp_path / "run").exists()


def test_foreign_folders_are_refused_before_any_work(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    called: list[int] = []
    for out in (tmp_path, tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "run"):
        with pytest.raises(BadInput, match="--out"):
            measure(model, out, progress=lambda done, total, what: called.append(done))
    assert not called
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_progress_counts_every_sample_and_attack(model: nn.Module, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    measure(
        model,
        tmp_path,
        PGD(steps=1),
        eps="0.1,0.2",
        batch_size=20,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    done = [one for one, _ in seen]
    assert done == sorted(done)
    assert {total for _, total in seen} == {60}
    assert done[-1] == 60
    assert len(done) >= 3


# callables from the current folder

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def needs_argument(classes):
    return nn.Linear(64, classes)

def number():
    return 7

def without_weights():
    raise KeyError("no such\\nweights")

def late():
    import beside_mynets
    return nn.Sequential(nn.Flatten(), nn.Linear(64, beside_mynets.CLASSES))

ready = build()
text = "no callable"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a package `mynets.linear`."""
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "__init__.py").touch()
    (tmp_path / "mynets" / "linear.py").write_text(MODULE)
    (tmp_path / "beside_mynets.py").write_text("CLASSES = 10\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("mynets", "mynets.linear", "beside_mynets"):
        sys.modules.pop(name, None)


def test_a_callable_of_the_current_folder_takes_a_checkpoint(here: Path, model: nn.Module) -> None:
    torch.save(model.state_dict(), here / "weights.pt")
    path = list(sys.path)
    options = {"dataset": "digits", "split": "test", "n": N, "eps": str(EPS)}
    run = evaluate("mynets.linear:build", here / "run", [PGD(steps=2)], checkpoint=here / "weights.pt", **options)  # type: ignore[arg-type]
    expected = measure(model, here / "expected", PGD(steps=2))
    assert run.manifest.model.digest == model_digest(model)
    assert run.manifest.model.ref == "mynets.linear:build"
    pd.testing.assert_frame_equal(run.records, expected.records)
    assert sys.path == path


def test_a_module_instance_is_taken_as_it_is(here: Path) -> None:
    run = evaluate("mynets.linear:ready", here / "run", "fgsm", eps=0.1, dataset="digits", split="test", n=5)
    assert run.manifest.model.digest == model_digest(sys.modules["mynets.linear"].ready)


def test_a_callable_may_import_from_the_current_folder_when_it_is_called(here: Path) -> None:
    assert (
        evaluate(
            "mynets.linear:late", here / "run", "fgsm", eps=0.1, dataset="digits", split="test", n=5
        ).manifest.data.n
        == 5
    )


@pytest.mark.parametrize(
    ("ref", "hint"),
    [
        ("mynets.linaer:build", "no module named 'mynets.linaer'"),
        ("nothere:build", "no module named 'nothere'"),
        ("mynets.linear:biuld", "no callable 'biuld'"),
        ("mynets.linear:text", "no callable 'text'"),
        ("mynets.linear:", "no callable"),
        (":build", "package.module:callable"),
        ("mynets.linear:number", "int.*torch.nn.Module"),
        ("mynets.linear:needs_argument", "classes"),
        ("mynets.linear:without_weights", "KeyError: .*no such"),
    ],
)
def test_unusable_callables_are_refused(ref: str, hint: str, here: Path) -> None:
    with pytest.raises(BadInput, match=hint) as refusal:
        evaluate(ref, here / "run", "pgd", dataset="digits", split="test", n=5)
    assert "\n" not in str(refusal.value)
    assert not (here / "run").exists()


# models that would spoil a number in silence


class Spoiled(nn.Module):
    """The fixture's network behind a habit that a measurement must notice or bear."""

    def __init__(self, net: nn.Module, habit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.habit = habit

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(self.habit(x))
        return out


def in_place(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.mul_(0.5)


def test_a_random_model_gives_equal_bytes_too(model: nn.Module, tmp_path: Path) -> None:
    noisy = Spoiled(model, lambda x: nn.functional.dropout(x, 0.3, training=True))
    for name in ("one", "two"):
        torch.manual_seed(len(name))
        before = torch.get_rng_state()
        measure(noisy, tmp_path / name, PGD(steps=2))
        assert torch.equal(torch.get_rng_state(), before)
    one, two = ((tmp_path / name / "records.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_model_that_changes_its_input_is_refused(norm: str, model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="changes its input in place"):
        measure(Spoiled(model, in_place), tmp_path / "run", PGD(steps=2), norm=norm)
    assert not (tmp_path / "run").exists()


def test_numbers_may_be_numbers(model: nn.Module, tmp_path: Path) -> None:
    run = evaluate(model, tmp_path, "pgd", eps=[0.05, 0.1], steps=2, dataset="digits", n=5, device="cpu")
    assert [threat.eps for threat in run.manifest.threats] == [0.05, 0.1]
    assert run.manifest.attacks[0].params["steps"] == 2
