"""Networks by name, folder, file or callable, and the cards that describe them."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
import torchvision
import yaml
from forged_weights import rewrite
from safetensors.torch import load_file, save_file
from torch import nn

from satbench import load_model
from satbench.core import strict_yaml
from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.models import ACTIVATIONS, ARCHITECTURES, Classifier, ModelSpec, build_model
from satbench.models.weights import Provenance, load_model_file, model_digest, save_model
from satbench.zoo import load
from satbench.zoo import registry as room
from satbench.zoo.card import ReleasedCard, SatbenchCard
from satbench.zoo.registry import find_card, read_aliases, read_cards, registry_path

SPEC = ModelSpec("mlp", "silu", 10, 1, 8, (0.3,), (0.4,), {"width": 4, "depth": 1})
PROVENANCE = Provenance(
    label="mlp silu",
    recipe="tiny",
    method="standard",
    dataset="digits",
    seed=3,
    threat=Threat(norm="Linf", eps=0.1),
    epoch=0,
    train_digest="sha256:0",
    config="0",
    family="0",
)


def network(seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return build_model(SPEC)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A run folder's best weights."""
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "best.safetensors"
    save_model(file, network(), PROVENANCE)
    return file


# files and folders


def test_a_weights_file_rebuilds_its_network(weights: Path) -> None:
    x = torch.rand(5, 1, 8, 8)
    for ref in (str(weights), str(weights.parent)):
        loaded = load(ref)
        assert not loaded.model.training
        assert torch.equal(loaded.model(x), network().eval()(x))
        assert (loaded.dataset, loaded.image_size) == ("digits", 8)
        info = loaded.info
        assert (info.ref, info.label, info.activation) == (ref, "mlp silu", "silu")
        assert (info.recipe, info.method, info.seed) == ("tiny", "standard", 3)
        assert info.trained_for is not None
        assert (info.trained_for.norm, info.trained_for.eps) == ("Linf", 0.1)
        assert info.digest == model_digest(network())


def test_equal_networks_are_equal_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        save_model(tmp_path / name, network(seed), PROVENANCE)
    one, two, other = ((tmp_path / name).read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_the_digest_covers_names_dtypes_shapes_and_values() -> None:
    model = nn.Linear(2, 1)
    expected = hashlib.sha256()
    for name, tensor in (("bias", model.bias), ("weight", model.weight)):
        expected.update(f"{name} torch.float32 {tuple(tensor.shape)}\n".encode() + tensor.detach().numpy().tobytes())
    assert model_digest(model) == f"sha256:{expected.hexdigest()}"


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the header of a weights file, and its digest."""
    rewrite(file, lambda header, tensors: change(header), seal=True)


def replace_header(file: Path, text: str) -> None:
    save_file(load_file(file), file, metadata={"satbench": text})


def change_tensors(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    rewrite(file, lambda header, tensors: change(tensors), seal=True)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:-10]), "not a whole safetensors file"),
    "empty": (lambda f: f.write_bytes(b""), "not a whole safetensors file"),
    "a pickle": (lambda f: torch.save({"a": torch.zeros(1)}, f), "not a whole safetensors file"),
    "gone": (lambda f: f.unlink(), "satbench train|no such file"),
    "no header": (lambda f: save_file(load_file(f), f), "not which network"),
    "header is no JSON": (lambda f: replace_header(f, "{"), "not which network"),
    "header is a list": (lambda f: replace_header(f, "[]"), "not which network"),
    "another schema": (lambda f: edit(f, lambda h: h.update(schema_version=3)), "schema version 3.*reads 2"),
    "no spec": (lambda f: edit(f, lambda h: h.pop("spec")), "lacks 'spec'"),
    "spec is a list": (lambda f: edit(f, lambda h: h.update(spec=[])), "model spec"),
    "unknown field": (lambda f: edit(f, lambda h: h["spec"].update(mood=1)), "mood"),
    "missing field": (lambda f: edit(f, lambda h: h["spec"].pop("mean")), "mean"),
    "size is a word": (lambda f: edit(f, lambda h: h["spec"].update(image_size="8")), "image_size"),
    "params are a list": (lambda f: edit(f, lambda h: h["spec"].update(params=[])), "model spec"),
    "mean is a number": (lambda f: edit(f, lambda h: h["spec"].update(mean=0.3)), "model spec"),
    "mean is a word": (lambda f: edit(f, lambda h: h["spec"].update(mean=["a"])), "model spec"),
    "provenance is a list": (lambda f: edit(f, lambda h: h.update(provenance=[])), "provenance|damaged"),
    "threat lacks eps": (
        lambda f: edit(f, lambda h: h["provenance"].update(threat={"norm": "Linf"})),
        "threat|provenance",
    ),
    "unknown architecture": (lambda f: edit(f, lambda h: h["spec"].update(architecture="mpl")), "mlp"),
    "unknown activation": (lambda f: edit(f, lambda h: h["spec"].update(activation="sulu")), "silu"),
    "other width": (lambda f: edit(f, lambda h: h["spec"]["params"].update(width=5)), "has shape"),
    "missing tensor": (lambda f: change_tensors(f, lambda t: t.pop("mean")), "lacks 'mean'"),
    "additional tensor": (lambda f: change_tensors(f, lambda t: t.update(extra=torch.zeros(1))), "'extra'"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_weights_are_refused(case: str, weights: Path) -> None:
    damage, hint = DAMAGE[case]
    damage(weights)
    for ref in (weights, weights.parent):
        with pytest.raises(BadInput, match=hint):
            load(str(ref))


def test_a_folder_without_best_weights_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="satbench train"):
        load(str(tmp_path))


def test_a_checkpoint_beside_a_satbench_file_is_refused(weights: Path) -> None:
    with pytest.raises(BadInput, match="brings its own weights; leave out --checkpoint"):
        load(str(weights), checkpoint=weights)


@pytest.mark.parametrize("name", ["a/b", "run/other.onnx"])
def test_paths_that_hold_no_network_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "other.onnx").touch()
    with pytest.raises(BadInput, match="no run folder"):
        load(name)


# pickles


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "sprung")


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(new_format: bool, wrapped: bool, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    file = tmp_path / "weights.pth"
    content = {"net.weight": torch.zeros(1), "x": trap} if wrapped else trap
    torch.save(content, file, _use_new_zipfile_serialization=new_format)
    for ref, checkpoint in ((str(file), None), ("torch.nn:Identity", file)):
        with pytest.raises(BadInput, match=r"more than plain weights.*state_dict"):
            load(ref, checkpoint)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(BadInput, match="plain weights"):
        load_model("torch.nn:Identity", file)
    torch.load(file, weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap of this test does not work"


def whole_model(file: Path) -> None:
    torch.save(nn.Linear(2, 2), file)


def list_of_tensors(file: Path) -> None:
    torch.save([torch.zeros(1)], file)


def nested(file: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "epoch": 3}, file)


def truncated(file: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, file)
    file.write_bytes(file.read_bytes()[:-500])


def truncated_old_format(file: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[:-500])


def text(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")


def empty(file: Path) -> None:
    file.touch()


def noise(file: Path) -> None:
    file.write_bytes(hashlib.sha256(b"noise").digest() * 40)


def missing(file: Path) -> None:
    assert not file.exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin"])
@pytest.mark.parametrize(
    "make",
    [whole_model, list_of_tensors, nested, truncated, truncated_old_format, text, empty, noise, missing],
)
def test_files_without_plain_weights_are_refused_by_name(
    make: Callable[[Path], None], suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{suffix}"
    make(file)
    for ref, checkpoint in ((str(file), None), ("torch.nn:Identity", file)):
        with pytest.raises(BadInput, match=f"weights{suffix}"):
            load(ref, checkpoint)


def test_plain_weights_alone_ask_for_their_network(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(BadInput, match=r"package\.module:callable --checkpoint"):
        load(str(tmp_path / "weights.pt"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(BadInput, match="'weight', which the network lacks"):
        load("torch.nn:Identity", tmp_path / "weights.pt")


# cards

CARD: dict[str, Any] = {
    "summary": "A toy.",
    "format": "safetensors",
    "architecture": "mlp",
    "activation": "silu",
    "dataset": "digits",
    "recipe": "tiny",
    "method": "standard",
    "seed": 3,
    "trained_for": {"norm": "Linf", "eps": "8/255"},
    "parameters": 310,
    "weights": "toy.safetensors",
    "sha256": "0" * 64,
    "licence": "MIT",
}


def registry(path: Path, **entries: Any) -> Path:
    path.write_text(yaml.safe_dump(entries))
    return path


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder whose registry knows one network, `toy`; returns its weights file."""
    monkeypatch.setattr(room, "PACKAGE", tmp_path)
    monkeypatch.setattr(strict_yaml, "PACKAGE", tmp_path)
    file = tmp_path / "toy.safetensors"
    save_model(file, network(), PROVENANCE)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    registry(tmp_path / "model_zoo.yaml", toy={**CARD, "sha256": digest})
    return file


def test_a_card_leads_to_its_network(toy: Path) -> None:
    x = torch.rand(2, 1, 8, 8)
    model = load_model("toy")
    assert torch.equal(model(x), network().eval()(x))
    assert load("toy").info.ref == "toy"
    assert sum(parameter.numel() for parameter in model.parameters()) == find_card("toy")[1].parameters


def test_weights_with_another_digest_are_refused(toy: Path) -> None:
    save_model(toy, network(seed=1), PROVENANCE)
    with pytest.raises(BadInput, match=r"toy\.safetensors has SHA-256 [0-9a-f]{64}, its card says"):
        load("toy")


def test_missing_weights_of_a_card_are_named(toy: Path) -> None:
    toy.unlink()
    with pytest.raises(BadInput, match=r"toy\.safetensors are missing"):
        load("toy")


@pytest.mark.parametrize("name", ["toi", "Toy", "toyy"])
def test_an_unknown_name_suggests_the_nearest(name: str, toy: Path) -> None:
    with pytest.raises(BadInput, match=f"unknown model '{name}'; did you mean toy"):
        load(name)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_has_to_be_trained_first(name: str) -> None:
    with pytest.raises(BadInput, match=f"satbench train --model {name}"):
        load(name)


def test_a_misspelled_architecture_is_recognised() -> None:
    with pytest.raises(BadInput, match="cnn-small"):
        load("cnn-smal")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mood", "good"),
        ("seed", "three"),
        ("parameters", 0),
        ("parameters", "many"),
        ("sha256", "abc"),
        ("sha256", "A" * 64),
        ("summary", 3),
        ("trained_for", "Linf"),
        ("trained_for.eps", None),
        ("trained_for.eps", 4),  # in Linf
        ("trained_for.eps", True),
        ("trained_for.norm", "linf"),
        ("trained_for.mood", "good"),
        ("architecture", "mpl"),
        ("activation", "slu"),
        ("format", "pickle"),
        *((field, None) for field in CARD),
    ],
)
def test_a_wrong_card_names_file_entry_and_field(field: str, value: object, tmp_path: Path) -> None:
    outer, _, inner = field.partition(".")
    entry = {**CARD, outer: {**CARD[outer], inner: value} if inner else value}
    path = registry(tmp_path / "zoo.yaml", good=CARD, bad=entry)
    with pytest.raises(BadInput, match=rf"zoo\.yaml: entry 'bad', field '{field}'"):
        read_cards(path)


@pytest.mark.parametrize("field", CARD)
def test_a_card_without_a_field_names_it(field: str, tmp_path: Path) -> None:
    path = registry(tmp_path / "zoo.yaml", bad={key: value for key, value in CARD.items() if key != field})
    with pytest.raises(BadInput, match=rf"zoo\.yaml: entry 'bad', field '{field}': Field required"):
        read_cards(path)


def test_an_entry_that_is_no_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"zoo\.yaml: entry 'bad'"):
        read_cards(registry(tmp_path / "zoo.yaml", bad=[1, 2]))


@pytest.mark.parametrize("content", ["a: [", "- a", "words", "\x00"])
def test_a_malformed_registry_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "zoo.yaml").write_text(content)
    with pytest.raises(BadInput, match=r"zoo\.yaml"):
        read_cards(tmp_path / "zoo.yaml")
    with pytest.raises(BadInput, match=r"nowhere\.yaml"):
        read_cards(tmp_path / "nowhere.yaml")


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    once = yaml.safe_dump({"toy": CARD})
    (tmp_path / "zoo.yaml").write_text(once + once.replace("A toy.", "Another toy."))
    with pytest.raises(BadInput, match="toy"):
        read_cards(tmp_path / "zoo.yaml")


def test_every_card_of_the_registry_is_true() -> None:
    entries = yaml.safe_load(registry_path().read_text(encoding="utf-8"))
    known = read_cards()
    assert [*known, *read_aliases()] == list(entries)
    for name, card in known.items():
        if not isinstance(card, SatbenchCard):
            continue  # tests/test_released_networks.py
        loaded = load(name)
        assert sum(parameter.numel() for parameter in loaded.model.parameters()) == card.parameters, name
        assert isinstance(loaded.model, Classifier)
        assert (loaded.model.spec.architecture, loaded.model.spec.activation) == (card.architecture, card.activation)
        assert card.activation in ACTIVATIONS
        assert (loaded.info.method, loaded.info.recipe, loaded.info.seed) == (card.method, card.recipe, card.seed)
        assert loaded.dataset == card.dataset
        assert loaded.info.trained_for is not None
        assert loaded.info.trained_for.norm == card.trained_for.norm
        assert Path(card.weights).stat().st_size < 3e6
        if card.dataset == "digits":  # tests/test_registry_networks.py has the others
            images = load_images(card.dataset, "test").head(100)
            assert (loaded.model(images.x).argmax(1) == images.y).float().mean() > 0.5, name


RELEASED: dict[str, Any] = {
    "summary": "A toy.",
    "format": "tensorflow-v2",
    "architecture": "resnet50",
    "activation": "silu",
    "image_size": 224,
    "loader": "opencv-cubic",
    "channel_order": "bgr",
    "variables": "raw",
    "dataset": "imagenet",
    "recipe": "tiny",
    "method": "sat",
    "trained_for": {"norm": "Linf", "eps": "4/255"},
    "parameters": 310,
    "release": "Toy",
    "sources": {"meta": "m" * 33, "data": "d" * 33, "index": "i" * 33},
    "digests": {"data": "0" * 64, "index": "1" * 64},
    "licence": "MIT",
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", "224"),
        ("loader", "opencv"),
        ("channel_order", "rbg"),
        ("variables", "ema"),
        ("sources.data", "short"),
        ("sources.graph", "g" * 33),
        ("digests.index", "abc"),
        ("digests", "later"),
        ("seed", 1),
        *((field, None) for field in RELEASED if field != "digests"),
    ],
)
def test_a_wrong_released_card_names_file_entry_and_field(field: str, value: object, tmp_path: Path) -> None:
    outer, _, inner = field.partition(".")
    entry = {**RELEASED, outer: {**RELEASED[outer], inner: value} if inner else value}
    path = registry(tmp_path / "zoo.yaml", good=RELEASED, bad=entry)
    with pytest.raises(BadInput, match=rf"zoo\.yaml: entry 'bad', field '{field}'"):
        read_cards(path)


@pytest.mark.parametrize("field", RELEASED)
def test_a_released_card_without_a_field_names_it(field: str, tmp_path: Path) -> None:
    path = registry(tmp_path / "zoo.yaml", bad={key: value for key, value in RELEASED.items() if key != field})
    with pytest.raises(BadInput, match=r"zoo\.yaml: entry 'bad', field '"):
        read_cards(path)


def test_stated_digests_belong_to_the_files_of_the_release(tmp_path: Path) -> None:
    path = registry(tmp_path / "zoo.yaml", known=RELEASED, unknown={**RELEASED, "digests": "unknown"})
    known, unknown = read_cards(path).values()
    assert isinstance(known, ReleasedCard)
    assert isinstance(unknown, ReleasedCard)
    assert known.stated_digests == {"Toy.index": "1" * 64, "Toy.data-00000-of-00001": "0" * 64}
    assert known.files == {"Toy.index": "i" * 33, "Toy.data-00000-of-00001": "d" * 33}
    assert unknown.stated_digests is None


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        ({"alias": "nobody", "because": "x"}, "field 'alias': 'nobody' is no card"),
        ({"alias": "good"}, "field 'because': Field required"),
        ({"alias": "good", "because": "x", "since": 1}, "field 'since'"),
    ],
)
def test_a_wrong_alias_names_file_entry_and_field(alias: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"zoo\.yaml: entry 'short', {message}"):
        read_cards(registry(tmp_path / "zoo.yaml", good=CARD, short=alias))


def test_a_file_that_does_not_fit_its_spec_is_no_network(weights: Path) -> None:
    model, provenance = load_model_file(weights)
    assert provenance == PROVENANCE
    assert model.spec == SPEC


# other collections


@pytest.fixture
def no_network(no_hosts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # it would try again for most of a minute


@pytest.mark.parametrize(
    ("ref", "build", "side"),
    [
        ("timm:test_resnet", lambda: timm.create_model("test_resnet"), 160),
        ("torchvision:squeezenet1_1", lambda: torchvision.models.squeezenet1_1(), 224),
    ],
)
def test_a_network_of_another_collection_normalises_inside(
    ref: str, build: Callable[[], nn.Module], side: int, tmp_path: Path
) -> None:
    net = build().eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    loaded = load(ref, tmp_path / "w.safetensors")
    assert (loaded.dataset, loaded.image_size, loaded.loader) == ("imagenet", side, "torchvision")
    assert loaded.info.label == f"{ref} [w.safetensors]"
    x = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    if ref.startswith("timm"):
        mean = std = torch.full((1, 3, 1, 1), 0.5)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), net((x - mean) / std))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("timm:resnet5O", "timm has no model 'resnet5O'; did you mean resnet50"),
        ("torchvision:resnet5", "torchvision has no classifier 'resnet5'; did you mean resnet50"),
        ("timm:", "timm has no model ''"),
        ("timm:test_resnet", "--model timm:test_resnet: its weights cannot be fetched"),
        ("torchvision:squeezenet1_1", "--model torchvision:squeezenet1_1: its weights cannot be fetched"),
    ],
)
def test_what_another_collection_cannot_give_is_said_in_one_line(ref: str, message: str, no_network: None) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        load(ref)
    assert "\n" not in str(caught.value)


def test_a_collection_that_is_not_installed_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"needs the package timm; run pip install 'satbench\[timm\]'"):
        load("timm:resnet50")
