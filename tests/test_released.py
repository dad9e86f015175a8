"""From a name to the converted network: fetching, pins, cache and commands, on checkpoints written here."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from refusals import refusal
from released_checkpoints import DATA, INDEX, NAME, RELEASE, card
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import satbench
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.models.classifier import Classifier
from satbench.models.weights import read_header
from satbench.zoo import cache, load
from satbench.zoo.card import ReleasedCard, SatbenchCard
from satbench.zoo.fetch import sha256_file
from satbench.zoo.registry import find_card, read_cards
from satbench.zoo.released import import_checkpoint, is_current, obtain
from satbench.zoo.tf_bundle import Bundle


@pytest.fixture(autouse=True)
def from_a_mirror(home: Path, no_hosts: None, monkeypatch: pytest.MonkeyPatch, mirrors: Path) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", str(mirrors / "one"))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_name_is_fetched_pinned_converted_and_kept(home: Path, mirrors: Path) -> None:
    loaded = load(NAME)
    assert (loaded.dataset, loaded.image_size, loaded.loader) == ("imagenet", 224, "tf1-bicubic")
    info = loaded.info
    assert (info.ref, info.label, info.activation, info.method) == (NAME, NAME, "silu", "sat")
    assert (info.trained_for.norm, info.trained_for.eps) == ("Linf", 4 / 255)
    source = mirrors / "one" / RELEASE
    assert cache.pinned(NAME) == {file: sha256_file(source / file) for file in (INDEX, DATA)}
    shutil.rmtree(home / "checkpoints")
    before = cache.converted(NAME).stat().st_mtime_ns
    with torch.no_grad():
        assert torch.equal(satbench.load_model(NAME)(images()), loaded.model(images()))
    assert cache.converted(NAME).stat().st_mtime_ns == before


def test_other_bytes_under_a_pinned_name_are_refused(home: Path, mirrors: Path, monkeypatch) -> None:
    load(NAME)
    shutil.rmtree(home / "checkpoints")
    cache.converted(NAME).unlink()
    monkeypatch.setenv("SATBENCH_MIRROR", str(mirrors / "two"))
    with pytest.raises(BadInput, match=f"{NAME}: {RELEASE}.* has SHA-256 .* pinned"):
        load(NAME)
    assert not cache.converted(NAME).exists()


def test_a_damaged_source_is_refused_and_leaves_nothing(mirrors: Path) -> None:
    folder = cache.folder(NAME)
    folder.mkdir(parents=True)
    for file in (INDEX, DATA):
        shutil.copy(mirrors / "one" / RELEASE / file, folder)
    with (folder / DATA).open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(BadInput, match="data-00000-of-00001"):
        load(NAME)
    assert not cache.converted(NAME).exists()
    assert cache.pinned(NAME) == {}
    assert sorted(file.name for file in folder.iterdir()) == [f"{DATA}.rejected", f"{INDEX}.rejected"]
    assert load(NAME).info.label == NAME  # from the mirror, which is whole


def flipped(data: bytearray, name: str, mirrors: Path) -> None:
    with Bundle(mirrors / "one" / RELEASE / RELEASE) as bundle:
        data[bundle.entries[name].offset] ^= 1


DAMAGES: dict[str, Callable[[bytearray, Path], object]] = {
    "flipped bit of a weight": lambda data, root: flipped(data, f"{RELEASE}/head/dense/kernel", root),
    "flipped bit of a tensor that is no weight": lambda data, root: flipped(data, "global_step", root),
    "one byte more": lambda data, root: data.append(0),
    "a download that went on with another file": lambda data, root: data.__setitem__(
        slice(len(data) // 2), (root / "two" / RELEASE / DATA).read_bytes()[: len(data) // 2]
    ),
}


@pytest.mark.one_in(4)
@pytest.mark.parametrize("case", DAMAGES)
def test_bytes_that_are_not_the_authors_are_not_pinned_at_the_first_use(case: str, mirrors: Path) -> None:
    folder = cache.folder(NAME)
    folder.mkdir(parents=True)
    shutil.copy(mirrors / "one" / RELEASE / INDEX, folder)
    data = bytearray((mirrors / "one" / RELEASE / DATA).read_bytes())
    DAMAGES[case](data, mirrors)
    (folder / DATA).write_bytes(data)
    with pytest.raises(BadInput, match=rf"{DATA} (is damaged|has \d+ bytes)"):
        load(NAME)
    assert cache.pinned(NAME) == {}
    assert not cache.converted(NAME).exists()
    assert load(NAME).info.label == NAME
    assert cache.pinned(NAME)[DATA] == sha256_file(mirrors / "one" / RELEASE / DATA)


def test_another_networks_checkpoint_is_refused_and_pins_nothing(mirrors: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "misnamed"
    for file in (INDEX, DATA):
        shutil.copy(mirrors / "one" / RELEASE / file, tmp_path / file.replace(RELEASE, "misnamed"))
    with pytest.raises(BadInput, match="belongs to another network"):
        import_checkpoint("effnet-b1", other_card("effnet-b1"), prefix)
    assert cache.pinned("effnet-b1") == {}
    load(NAME)
    with pytest.raises(BadInput, match=f"effnet-b1: .* has the SHA-256 that is pinned for {NAME}"):
        import_checkpoint("effnet-b1", other_card("effnet-b1"), prefix)


def test_neither_a_damaged_lock_file_nor_a_wrong_card_costs_the_fetched_files(mirrors: Path, home: Path) -> None:
    load(NAME)
    cache.converted(NAME).unlink()
    kept = sorted(file.name for file in cache.folder(NAME).iterdir())
    with pytest.raises(BadInput, match="correct the card"):
        obtain(NAME, other_card(NAME, parameters=1))
    (home / "zoo.lock").write_text("{")
    with pytest.raises(BadInput, match=r"zoo\.lock: .*restore the SHA-256 of each file"):
        load(NAME)
    assert sorted(file.name for file in cache.folder(NAME).iterdir()) == kept


def test_a_fetch_that_pins_says_so() -> None:
    assert "digests were unknown and are pinned now" in run("models", "pull", NAME)[1]
    cache.converted(NAME).unlink()
    assert "pinned" not in run("models", "pull", NAME)[1]


def other_card(name: str, **changes: object) -> ReleasedCard:
    found = find_card(name)[1]
    assert isinstance(found, ReleasedCard)
    return found.model_copy(update=changes)


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu"},
        {"image_size": 240},
        {"channel_order": "bgr"},
        {"loader": "torchvision"},
        {"dataset": "imagenet-sample"},
        {"variables": "averaged"},
    ],
    ids=str,
)
def test_a_conversion_for_another_card_is_not_current(changes: dict[str, object]) -> None:
    load(NAME)
    assert is_current(NAME, card(), cache.converted(NAME))
    assert not is_current(NAME, other_card(NAME, **changes), cache.converted(NAME))


def test_a_card_with_a_wrong_count_of_parameters_converts_nothing(mirrors: Path) -> None:
    prefix, wrong = mirrors / "one" / RELEASE / RELEASE, other_card(NAME, parameters=5_288_549)
    with pytest.raises(BadInput, match="says 5288549 parameters, but a efficientnet-b0 has 5288548"):
        import_checkpoint(NAME, wrong, prefix)


def rewritten(path: Path, change: Callable[[dict[str, torch.Tensor], dict], None]) -> None:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["satbench"])
    change(tensors, header)
    save_file(tensors, path, metadata={"satbench": json.dumps(header)})


def flip_weight(tensors: dict[str, torch.Tensor], header: dict) -> None:
    tensors["net.head.conv.weight"][3, 5] += 1e-3


def other_activation(tensors: dict[str, torch.Tensor], header: dict) -> None:
    header["spec"]["activation"] = "gelu"


def other_logits(tensors: dict[str, torch.Tensor], header: dict) -> None:
    tensors["probe.logits"] *= 1.01


def no_probe(tensors: dict[str, torch.Tensor], header: dict) -> None:
    del tensors["probe.logits"]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip_weight, "are not what was saved"),
        (other_activation, "are not what was saved"),
        (other_logits, "other logits on the probe batch"),
        (no_probe, "lacks its probe batch"),
    ],
)
def test_a_changed_conversion_is_noticed_at_the_next_load(change: Callable, message: str) -> None:
    load(NAME)
    rewritten(cache.converted(NAME), change)
    with pytest.raises(BadInput, match=message):
        load(str(cache.converted(NAME)))
    code, output = run("models", "verify", NAME)
    assert code == 1
    assert message in output or "is not what the card describes" in output
    assert run("models", "pull", NAME)[0] == 0
    assert run("models", "verify", NAME) == (0, f"{NAME}: ok\n")


def test_a_conversion_by_another_satbench_is_made_again(home: Path) -> None:
    load(NAME)
    rewritten(cache.converted(NAME), lambda tensors, header: header["conversion"].update(converter=0))
    load(NAME)
    assert read_header(cache.converted(NAME))[1].converter > 0


def test_equal_checkpoints_give_equal_files(mirrors: Path, tmp_path: Path) -> None:
    prefix = mirrors / "one" / RELEASE / RELEASE
    for name in ("a", "b"):
        assert run("models", "import", NAME, prefix, "--out", tmp_path / f"{name}.safetensors")[0] == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_files_found_by_hand_are_imported_and_then_known_by_name(
    mirrors: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SATBENCH_MIRROR")
    with pytest.raises(BadInput, match="satbench models import") as caught:
        load(NAME)
    command = str(caught.value).partition("`satbench ")[2].partition("`")[0].split()
    for file in (INDEX, DATA):
        shutil.copy(mirrors / "one" / RELEASE / file, command[-1].removesuffix(RELEASE))
    code, output = run(*command)
    assert code == 0, output
    assert "311 variables; took the raw variables (the file has 0 averages)" in output
    assert "ignored 1 others: global_step" in output
    assert "digests were unknown and are pinned now" in output
    assert load(NAME).info.label == NAME


@pytest.mark.left_out
def test_import_beside_the_cache_keeps_the_cache_as_it_is(mirrors: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "net.safetensors"
    code, output = run("models", "import", NAME, mirrors / "one" / RELEASE / RELEASE, "--out", out)
    assert code == 0, output
    assert not cache.converted(NAME).exists()
    assert cache.pinned(NAME) == {}  # nor does it decide which bytes are the release's
    loaded = load(str(out))
    assert loaded.info.label == f"{NAME} [net.safetensors]"
    assert load(NAME).info.digest == load(NAME, out).info.digest == loaded.info.digest
    assert load(str(out)).info.label == NAME


@pytest.mark.parametrize("name", ["notes.safetensors", "folder.safetensors"])
def test_import_overwrites_nothing_that_satbench_did_not_write(name: str, mirrors: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    if name.startswith("folder"):
        out.mkdir()
    else:
        save_file({"weight": torch.zeros(2)}, out)
    code, output = run("models", "import", NAME, mirrors / "one" / RELEASE / RELEASE, "--out", out)
    assert code == 2
    assert "satbench did not write it" in output
    assert out.is_dir() or load_file(out).keys() == {"weight"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", NAME, "nowhere/net"), r"nowhere/net\.index"),
        (("import", "digits-silu", "x"), "digits-silu is a weights file already"),
        (("import", "effnet-b00", "x"), "unknown model 'effnet-b00'; did you mean effnet-b0"),
        (("import", NAME, "PREFIX", "--ema", "on"), "makes another network than effnet-b0.*add --out"),
        (("import", NAME, "PREFIX", "--ema", "maybe"), "unknown ema 'maybe'"),
        (("import", NAME, "PREFIX", "--out", "x.pt"), "ends in .safetensors"),
        (("import", "effnet-b1", "PREFIX"), "is called as the release of effnet-b0 is, not effnet-b1's"),
        (("rm", "digits-silu"), "digits-silu was not downloaded"),
        (("pull", "resnet51-*"), "no model fits 'resnet51-\\*'"),
        (("pull", "effnet-b0", "nobody"), "unknown model 'nobody'"),
        (("show", "nobody"), "unknown model 'nobody'"),
        (("verify", "nobody"), "unknown model 'nobody'"),
    ],
)
def test_what_a_command_cannot_use_is_said_in_one_line(
    words: tuple[str, ...], message: str, mirrors: Path, home: Path
) -> None:
    prefix = str(mirrors / "one" / RELEASE / RELEASE)
    code, output = run("models", *(prefix if word == "PREFIX" else word for word in words))
    assert code == 2
    assert output.count("\n") == 1
    assert re.search(message, output), output
    assert not (home / "models").exists()


def test_the_table_names_every_card_with_what_was_published() -> None:
    code, output = run("models")
    assert code == 0
    lines = {line.split()[0]: line for line in output.splitlines() if line.startswith("  ")}
    assert set(read_cards()) < set(lines)
    assert "25,557,032" in lines["resnet50-silu"]
    assert "69.7 (readme)" in lines["resnet50-silu"]
    assert "42.3 (PGD-200, figure)" in lines["resnet50-silu"]
    assert "58.6 (PGD-200, abstract)" in lines["effnet-l1-enhanced"]
    assert lines["resnet50-mish"].split()[2:] == ["-", "-", "no"]
    assert "effnet-l1-enhanced: the paper's headline network" in lines["effnet-l1"]


@pytest.mark.left_out
def test_fetch_show_and_verify_tell_what_is_there() -> None:
    assert "unknown; the first download or import pins them" in run("models", "show", NAME)[1]
    assert run("models", "verify", NAME) == (1, f"{NAME}: not fetched; run `satbench models pull {NAME}`\n")
    assert run("models", "pull", NAME)[0] == 0
    shown = run("models", "show", NAME)[1]
    assert "pinned at the first use on this machine" in shown
    for digest in cache.pinned(NAME).values():
        assert digest in shown
    for piece in ("5,288,548", "tf1-bicubic", "1NVEtGO0l15r2Dc5FBzOKlWr2lqJ11WQD", "clean 65.2 (README", "Linf 4/255"):
        assert piece in shown
    assert run("models", "verify", NAME) == (0, f"{NAME}: ok\n")
    code, output = run("models", "verify")
    assert code == 0
    own = [name for name, card in read_cards().items() if isinstance(card, SatbenchCard)]
    assert output.splitlines() == [f"{name}: ok" for name in (*own, NAME)]
    with (cache.folder(NAME) / INDEX).open("ab") as stream:
        stream.write(b"x")
    code, output = run("models", "verify", NAME)
    assert code == 1
    assert f"{INDEX} has not the SHA-256" in output


def test_the_alias_says_which_network_it_is() -> None:
    assert find_card("effnet-l1")[0] == "effnet-l1-enhanced"
    assert run("models", "show", "effnet-l1")[1].startswith("effnet-l1 is effnet-l1-enhanced: the paper's headline")


def test_a_checkpoint_of_ones_own_is_another_network(mirrors: Path, tmp_path: Path) -> None:
    load(NAME)
    same = load(NAME, mirrors / "one" / RELEASE / RELEASE)
    other = load(NAME, mirrors / "two" / RELEASE / RELEASE)
    assert same.info.label == NAME
    assert other.info.label == f"{NAME} [{RELEASE}]"
    assert other.info.trained_for is None
    assert other.info.digest != same.info.digest == load(NAME).info.digest


def test_a_checkpoint_must_hold_the_named_network(tmp_path: Path, mirrors: Path) -> None:
    digits = Path(satbench.__file__).parent / "zoo/weights/digits-silu.safetensors"
    with pytest.raises(BadInput, match="holds a cnn-small with silu, but effnet-b0 is a efficientnet-b0 with silu"):
        load(NAME, digits)
    assert isinstance(load("digits-silu", digits).model, Classifier)
    with pytest.raises(BadInput, match="TensorFlow checkpoint; name its network"):
        load(str(mirrors / "one" / RELEASE / RELEASE))
    with pytest.raises(BadInput, match="file, which is what digits-silu can take"):
        load("digits-silu", mirrors / "one" / RELEASE / RELEASE)


@pytest.mark.left_out
def test_eval_prints_the_published_figure_beside_the_measured_one(tmp_path: Path) -> None:
    """On other images than the published ones, so it is no test and says why."""
    words = ("eval", "--model", NAME, "--attack", "pgd", "--steps", 1, "--dataset", "imagenet-sample", "--n", 2)
    code, output = run(*words, "--out", tmp_path / "own")
    assert code == 0, output
    claim = next(line for line in output.splitlines() if "65.2" in line)
    cells = claim.strip("| ").split(" | ")
    assert cells[:3] == ["clean", "65.2", "readme"]
    assert cells[4] == "2"
    assert cells[5].startswith("no test: other images (imagenet-sample all, published on imagenet val)")
    data = json.loads((tmp_path / "own" / "manifest.json").read_text())["data"]
    assert (data["loader"], data["image_size"]) == ("tf1-bicubic", 224)
    code, output = run(*words, "--out", tmp_path / "other", "--loader", "opencv-cubic", "--image-size", 64)
    assert code == 0, output
    assert (
        "other size (64 pixels, published with 224); other loader (opencv-cubic, published with tf1-bicubic)" in output
    )
    data = json.loads((tmp_path / "other" / "manifest.json").read_text())["data"]
    assert (data["loader"], data["image_size"]) == ("opencv-cubic", 64)


def test_without_imagenet_the_error_says_how_to_point_to_it(tmp_path: Path) -> None:
    code, output = run("eval", "--model", NAME, "--attack", "pgd", "--data-dir", tmp_path, "--out", tmp_path / "run")
    assert code == 2
    output = refusal(output)
    for piece in ("--data-dir", "SATBENCH_DATA", "imagenet-sample"):
        assert piece in output
    assert not cache.folder(NAME).exists()  # nothing was fetched for images that are not there
