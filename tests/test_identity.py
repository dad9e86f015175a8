"""Results under the right name: what makes a finished run stale, and how networks, threats and threads are recorded."""

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_networks import nearest_mean
from tiny_training import tiny, write_rows
from torch import Tensor, nn
from typer.testing import CliRunner

from satbench import ThreatModel, evaluate
from satbench.attacks import PGD
from satbench.attacks.base import from_outside
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.evaluation.provenance import revision
from satbench.evaluation.sources import identified
from satbench.numerics.seeding import Randomness
from satbench.results.schema import ModelInfo
from satbench.results.store import Run, read_run
from satbench.training import train
from satbench.zoo import Loaded, load

N = 60


def measure(model: Any, out: Path, **options: Any) -> Run:
    settings = {"attack": [PGD(steps=3)], "dataset": "digits", "split": "test", "n": N, "device": "cpu", "trust": False}
    if "threat" not in options:
        settings["eps"] = "0.1"
    return evaluate(model, out, **(settings | options))


def robust(run: Run) -> int:
    return int((~run.records["broken"]).sum())


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, whose modules are imported anew at every call, as by another process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "mine_too")]:
        del sys.modules[name]


# what makes a finished run stale


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.slope = slope
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.slope, None


class Sloped(nn.Module):
    """The linear network, whose input gradient is multiplied by `slope`."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.net = nearest_mean()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(_Slope.apply(x, self.slope))
        return logits


def test_a_network_whose_backward_changed_is_measured_again(tmp_path: Path) -> None:
    """Weights, logits and source are equal; only the gradient is another."""
    misled = measure(Sloped(-1), tmp_path / "run")
    repaired = measure(Sloped(1), tmp_path / "run")
    assert robust(repaired) < robust(misled)
    pd.testing.assert_frame_equal(repaired.records, measure(Sloped(1), tmp_path / "fresh").records)


def still(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
    return x


def test_a_network_without_gradients_has_a_fingerprint_too(tmp_path: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nearest_mean()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                logits: Tensor = self.net(x)
            return logits

    one, two = (measure(Constant(), tmp_path / "run", attack="test_identity:still") for _ in range(2))
    assert two.reused
    assert one.manifest.fingerprint == two.manifest.fingerprint


ATTACK = """
def attack(model, x, y, threat, randomness):
    from .parts import helper
    return helper.craft(model, x, y, threat, randomness)
"""
CRAFT = """
from satbench.attacks import PGD

def craft(model, x, y, threat, randomness):
    return PGD(steps={steps})(model, x, y, threat, randomness)
"""


def test_a_helper_module_of_an_attack_is_part_of_it(here: Path) -> None:
    package = here / "mine"
    (package / "parts").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "main.py").write_text(ATTACK)
    reused = []
    for steps in (1, 1, 20):
        (package / "parts" / "helper.py").write_text(CRAFT.format(steps=steps))
        forget()
        reused.append(measure("digits-relu", here / "run", attack="mine.main:attack", eps=0.2).reused)
    assert reused == [False, True, False]
    forget()
    fresh = measure("digits-relu", here / "fresh", attack="mine.main:attack", eps=0.2)
    pd.testing.assert_frame_equal(read_run(here / "run").records, fresh.records)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("loose", [True, False], ids=["beside", "package"])
def test_a_helper_module_of_a_network_is_part_of_it(loose: bool, here: Path) -> None:
    """A change that no probe image shows."""
    folder = here if loose else here / "mine"
    folder.mkdir(exist_ok=True)
    source = "from torch import nn\nfrom satbench import load_model\n"
    source += "import mine_too\n" if loose else "from . import mine_too\n"
    source += "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    source += "        self.net = load_model('digits-relu')\n"
    source += "    def forward(self, x):\n        return self.net(mine_too.prepare(x))\n"
    (folder / ("mine.py" if loose else "nets.py")).write_text(source)
    reused = []
    for rare in (7.0, 7.0, 8.0):
        (folder / "mine_too.py").write_text(f"def prepare(x):\n    return x.clamp(-{rare}, {rare})\n")
        forget()
        reused.append(measure("mine:Net" if loose else "mine.nets:Net", here / "run").reused)
    assert reused == [False, True, False]


def test_the_same_code_in_another_folder_is_the_same(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for place in (here / "a", here / "b"):
        place.mkdir()
        (place / "mine.py").write_text(CRAFT.format(steps=1).replace("craft", "attack"))
        monkeypatch.chdir(place)
        forget()
        found.add(measure("digits-relu", place / "run", attack="mine:attack").manifest.fingerprint)
    assert len(found) == 1


@dataclass(frozen=True)
class Wraps:
    """An attack of the user's own that holds one of satbench's."""

    attack: PGD

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return self.attack(model, x, y, threat, randomness)


def test_an_attack_that_wraps_one_of_ours_is_not_ours() -> None:
    assert from_outside(Wraps(PGD())) is Wraps
    assert from_outside(PGD()) is None


def git(top: Path, *words: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(top), *identity, *words], check=True, capture_output=True)


def test_every_uncommitted_edit_of_the_package_is_another_revision(tmp_path: Path) -> None:
    code = tmp_path / "satbench" / "attack.py"
    code.parent.mkdir()
    code.write_text("steps = 1\n")
    seen = [revision(tmp_path)]
    assert seen[0].startswith("files:")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    seen.append(revision(tmp_path))
    for text in ("steps = 2\n", "steps = 3\n"):
        code.write_text(text)
        seen.append(revision(tmp_path))
    (tmp_path / "satbench" / "new.py").touch()
    seen.append(revision(tmp_path))
    assert len(set(seen)) == len(seen)
    assert all(one.startswith(f"{seen[1]}+changes:") for one in seen[2:])
    (tmp_path / "README.md").write_text("words")
    assert revision(tmp_path) == seen[-1]
    (tmp_path / "satbench" / "new.py").unlink()
    code.write_text("steps = 1\n")
    assert revision(tmp_path) == seen[1]


def test_another_revision_is_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reused = []
    for found in ("0f+changes:1a", "0f+changes:1a", "0f+changes:2b"):
        monkeypatch.setattr("satbench.evaluation.setting.revision", lambda found=found: found)
        reused.append(measure(nearest_mean(), tmp_path / "run").reused)
    assert reused == [False, True, False]
    folders = [one for one in (tmp_path / "run" / "parts").iterdir() if one.is_dir()]
    assert len(folders) == 2 * 2, "for each revision, the images as they are and under attack"


def test_the_command_says_that_it_only_read(here: Path) -> None:
    words = ["eval", "--model", "digits-relu", "--attack", "fgsm", "--n", "20", "--no-trust", "--out", "run"]
    first, second = (CliRunner().invoke(app, words) for _ in range(2))
    assert first.exit_code == second.exit_code == 0, second.output
    created = read_run(here / "run").manifest.created
    line = f"read from run, measured on {created}; nothing was computed\n"
    assert second.stdout == line + first.stdout


# threads


def test_threads_are_recorded_and_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    one, two = (measure(nearest_mean(), tmp_path / "run", threads=threads) for threads in (1, 2))
    assert (one.manifest.threads, two.manifest.threads) == (1, 2)
    assert not two.reused
    assert one.manifest.numerics
    assert torch.get_num_threads() == before
    with pytest.raises(BadInput, match="--threads 0"):
        measure(nearest_mean(), tmp_path / "run", threads=0)


def test_a_small_network_gets_one_thread_and_a_large_one_all(tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Conv2d(1, 9000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9000, 10))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        small = measure(nearest_mean(), tmp_path / "small", n=5, attack="fgsm")
        large = measure(wide, tmp_path / "large", n=5, attack="fgsm")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert (small.manifest.threads, large.manifest.threads) == (1, 2)


# threats and names


def test_the_radius_defaults_to_the_trained_one(tmp_path: Path) -> None:
    run = evaluate("digits-relu", tmp_path / "run", "fgsm", n=20, trust=False)
    trained = load("digits-relu").info.trained_for
    assert run.manifest.threats == [trained]
    for options in ({}, {"norm": "Linf"}):
        with pytest.raises(BadInput, match="which Linf radius it was trained for; give --eps"):
            evaluate(nearest_mean(), tmp_path / "none", "fgsm", dataset="digits", **options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="which L2 radius it was trained for"):
        evaluate("digits-relu", tmp_path / "none", "fgsm", norm="Linf,L2")
    assert not (tmp_path / "none").exists()


def test_one_run_holds_several_threats(here: Path) -> None:
    stated = ["Linf:8/255", "L2:0.5", "L2:1"]
    run = measure(nearest_mean(), here / "run", threat=[*stated[:2], ThreatModel("L2", 1.0), "Linf:8/255"])
    expected = [("Linf", 8 / 255), ("L2", 0.5), ("L2", 1.0)]
    assert [(one.norm, one.eps) for one in run.manifest.threats] == expected
    assert list(run.records[["norm", "eps"]].drop_duplicates().itertuples(index=False, name=None)) == expected
    words = ["eval", "--model", "digits-relu", "--attack", "fgsm", "--n", "20", "--no-trust", "--out", "command"]
    result = CliRunner().invoke(app, [*words, *(word for one in stated for word in ("--threat", one))])
    assert result.exit_code == 0, result.output
    assert [(one.norm, one.eps) for one in read_run(here / "command").manifest.threats] == expected


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"threat": "Linf:8/255", "eps": "0.1"}, "together with --norm or --eps"),
        ({"threat": "Linf:8/255", "norm": "Linf"}, "together with --norm or --eps"),
        ({"threat": "8/255"}, "as Linf:8/255"),
        ({"threat": "Lin:8/255"}, "Linf"),
        ({"threat": "Linf:8"}, "did you mean 8/255"),
        ({"name": " "}, "--name is empty"),
        ({"group": ""}, "--group is empty"),
    ],
    ids=str,
)
def test_bad_threats_and_names_are_refused(options: dict[str, Any], hint: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=hint):
        measure(nearest_mean(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_name_and_a_group_are_the_users(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(nearest_mean(), here / "run")
    monkeypatch.setattr(PGD, "__call__", lambda *given: given[2])  # an attack would now break nothing
    run = measure(nearest_mean(), here / "run", name="prototype", group="means")
    assert (run.manifest.model.label, run.manifest.model.group) == ("prototype", "means")
    assert robust(run) < int((run.records["clean_prediction"] == run.records["label"]).sum())
    other = nearest_mean()
    with torch.no_grad():
        other[1].bias[0] += 1  # type: ignore[index, union-attr]
    with pytest.raises(BadInput, match="holds a run of model prototype"):
        measure(other, here / "run", name="prototype", group="means")
    words = ["eval", "--model", "digits-relu", "--attack", "fgsm", "--n", "20", "--no-trust", "--out", "command"]
    assert CliRunner().invoke(app, [*words, "--name", "mine", "--group", "ours"]).exit_code == 0
    info = read_run(here / "command").manifest.model
    assert (info.label, info.group) == ("mine", "ours")


def test_trainings_that_differ_in_the_seed_alone_share_a_config(here: Path) -> None:
    dataset = write_rows(here / "rows.npz")
    for name, changes in (("a", {"seed": 1}), ("b", {"seed": 2}), ("c", {"optimizer.lr": 0.01})):
        config = tiny(dataset, epochs=1, **changes)
        train(config, here / name, device="cpu")
    one, two, other = (load(str(here / name)).info for name in "abc")
    assert one.recipe == two.recipe == other.recipe
    assert one.config == two.config != other.config
    cards = [load(name).info.config for name in ("digits-relu", "digits-silu", "digits-smoothrelu")]
    assert len({one.config, *cards}) == 4
    assert None not in cards


def test_two_networks_of_one_name_have_their_own_trust_page(here: Path) -> None:
    (here / "mine.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    for seed in (0, 1):
        torch.manual_seed(seed)
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), f"{seed}.pt")
        words = ["trust", "mine:build", "--checkpoint", f"{seed}.pt", "--dataset", "digits", "--eps", "0.1", "--n", "8"]
        result = CliRunner().invoke(app, [*words, "--threads", "1"])
        assert result.exit_code in (0, 1), result.output
    pages = sorted((here / "reports" / "trust").iterdir())
    digests = {identified(load("mine:build", here / f"{seed}.pt")).info.short for seed in (0, 1)}
    assert {page.name for page in pages} == {f"build-{digest}" for digest in digests}


# networks and attacks of other kinds


class Counts(nn.Module):
    """The linear network, with a buffer that counts its passes."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.net = nearest_mean()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(x)
        return logits


def own(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
    return PGD(steps=3)(model, x, y, threat, randomness)


def spoils(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
    model.get_buffer("calls").fill_(0)
    next(model.parameters()).add_(1e-3)
    return x


@pytest.mark.one_in(2)
@pytest.mark.parametrize("search", ["plain", "folded"])
def test_a_network_that_counts_its_passes_is_measured(search: str, tmp_path: Path) -> None:
    model = Counts()
    run = measure(model, tmp_path / "run", attack="test_identity:own", search=search, batch_size=16)
    assert int(model.calls) == 0
    assert any("change buffers of the network (calls)" in note for note in run.manifest.notes)
    expected = measure(model.net, tmp_path / "expected", attack="test_identity:own", batch_size=16)
    columns = [name for name in run.records if name != "margin"]
    pd.testing.assert_frame_equal(run.records[columns], expected.records[columns])
    with pytest.raises(BadInput, match="changed the weights or buffers"):
        measure(model, tmp_path / "spoilt", attack="test_identity:spoils", search=search)


def test_a_network_in_bfloat16_is_measured(tmp_path: Path) -> None:
    model = nearest_mean().bfloat16()
    run = measure(model, tmp_path / "run")
    assert any("weights of the network are bfloat16" in note for note in run.manifest.notes)
    images = load_images("digits", "test").head(N)
    with torch.no_grad():
        expected = model(images.x.bfloat16()).argmax(1)
    assert run.records["clean_prediction"].tolist() == expected.tolist()
    assert 0 < robust(run) < int((expected == images.y).sum())


def lazy() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))


def frozen() -> nn.Module:
    return torch.jit.freeze(torch.jit.script(nearest_mean().eval()))  # type: ignore[no-any-return]


def exported() -> nn.Module:
    return torch.export.export(nearest_mean(), (torch.rand(4, 1, 8, 8),)).module()


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nearest_mean().eval(), {nn.Linear})  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore")  # torch's, of what it deprecates
@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (lazy, "some weights are not initialised; run the model on one batch"),
        (frozen, "the mode of this RecursiveScriptModule cannot be set"),
        (exported, "the mode of this GraphModule cannot be set"),
        (quantized, r"is no plain tensor, as after quantization; give the torch\.nn\.Module that it was made from"),
    ],
)
def test_a_form_of_a_network_that_cannot_be_measured_is_refused_in_one_line(
    build: Callable[[], nn.Module], hint: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        measure(build(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [lambda x: x.flatten(1), Counts], ids=["function", "class"])
def test_a_function_as_a_network_is_refused_in_one_line(given: object, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the model is a .*; give a torch\.nn\.Module whose forward"):
        measure(given, tmp_path / "run")


def test_a_named_function_as_a_network_is_refused_in_one_line(here: Path) -> None:
    (here / "mine.py").write_text("def predict(x):\n    return x.flatten(1)\n")
    with pytest.raises(BadInput, match=r"--model mine:predict needs x, .*give a torch\.nn\.Module") as refusal:
        measure("mine:predict", here / "run")
    assert "\n" not in str(refusal.value)


class Nameless:
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return x


@dataclass(frozen=True)
class Holds:
    """A dataclass, but with a part whose repr is an address."""

    part: Callable[[], int] = lambda: 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return x


@pytest.mark.parametrize("attack", [Nameless(), Holds(), own], ids=["object", "field", "function"])
def test_an_attack_that_an_address_names_is_refused(attack: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="memory address"):
        measure(nearest_mean(), tmp_path / "run", attack=attack)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_network_is_measured(tmp_path: Path) -> None:
    """It takes no hooks, and gives its buffers only as attributes."""
    scripted = torch.jit.script(nn.Sequential(nn.BatchNorm2d(1), *nearest_mean()).eval())
    run, expected = measure(scripted, tmp_path / "run"), measure(nearest_mean(), tmp_path / "expected")
    assert run.records["clean_prediction"].tolist() == expected.records["clean_prediction"].tolist()
    assert not run.manifest.notes


def test_a_change_in_the_module_that_builds_an_attack_is_measured_again(here: Path) -> None:
    """The attack itself is satbench's own; who built it is not."""
    shares = []
    for steps in (20, 1):
        (here / "factory.py").write_text(
            f"from satbench.attacks import PGD\n\n\ndef make():\n    return PGD(steps={steps})\n"
        )
        sys.modules.pop("factory", None)
        importlib.invalidate_caches()
        run = evaluate("digits-silu", here / "run", "factory:make", eps=0.2, n=40, trust=False, device="cpu")
        assert not run.reused
        shares.append(run.records["broken"].mean())
    assert shares[0] > shares[1]


@dataclass(frozen=True, repr=False)
class Reticent:
    """Its repr does not show how many steps it takes."""

    steps: int

    def __repr__(self) -> str:
        return "Reticent()"

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return PGD(steps=self.steps)(model, x, y, threat, randomness)


def test_a_parameter_that_an_attacks_repr_does_not_show_is_part_of_it(tmp_path: Path) -> None:
    def run(steps: int) -> Run:
        settings: dict[str, Any] = {"eps": 0.2, "n": 40, "trust": False, "device": "cpu"}
        return evaluate("digits-silu", tmp_path / "run", Reticent(steps), **settings)

    weak, again, strong = run(1), run(1), run(20)
    assert (weak.reused, again.reused, strong.reused) == (False, True, False)
    assert weak.records["broken"].mean() < strong.records["broken"].mean()


class Shifted(nn.Module):
    """Digits behind a shift of all pixels, which is no weight."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.inner, self.by = load("digits-silu").model, by

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + self.by)


def test_networks_of_equal_weights_and_other_structure_are_different_networks(here: Path) -> None:
    networks = [Shifted(0.0), Shifted(0.5), nn.Sequential(Shifted(0.0), nn.Identity())]
    infos = [identified(Loaded(one, ModelInfo(ref="n", digest="sha256:0", label="n"))).info for one in networks]
    assert len({one.short for one in infos}) == len({one.code for one in infos}) == 3
    assert identified(Loaded(Shifted(0.5), infos[0])).info == infos[1]
    assert identified(load("digits-silu")).info.code is None
