"""Which network a name stands for: folders of that name, misnamed checkpoints, changed cards, killed commands."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import field, write_bundle
from released_checkpoints import DATA, INDEX, NAME, RELEASE, card
from typer.testing import CliRunner

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.models.weights import read_header
from satbench.zoo import cache, load, registry
from satbench.zoo.card import ReleasedCard
from satbench.zoo.fetch import sha256_file
from satbench.zoo.registry import read_cards
from satbench.zoo.released import import_checkpoint
from satbench.zoo.tf_graph import activation_of


@pytest.fixture(autouse=True)
def from_a_mirror(home: Path, no_hosts: None, monkeypatch: pytest.MonkeyPatch, mirrors: Path) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", str(mirrors / "one"))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


# folders


def test_a_folder_never_shadows_a_name_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits-silu").mkdir()
    weights = Path(registry.__file__).parent / "weights"
    shutil.copy(weights / "digits-relu.safetensors", tmp_path / "digits-silu" / "best.safetensors")
    loaded = load("digits-silu")
    assert loaded.info.activation == "silu"
    assert loaded.note == "digits-silu is the network of that name; for the folder or file give ./digits-silu"
    assert load("./digits-silu").info.activation == "relu"
    assert load(str(tmp_path / "digits-silu")).info.activation == "relu"


# graphs


def graph(*nodes: tuple[str, str], library: bytes = b"") -> bytes:
    """A MetaGraphDef with nodes of a name and an operation."""
    made = b"".join(field(1, field(1, name.encode()) + field(2, op.encode()) + field(3, b"x")) for name, op in nodes)
    return field(1, field(1, b"tags")) + field(2, made + field(2, library) + field(4, 27))


BLOCK = "tower0/group0/block0/conv1"
SILU_LIBRARY = field(1, field(3, field(1, b"group0/block0/Sigmoid") + field(2, b"Sigmoid")))


@pytest.mark.parametrize(
    ("operations", "activation"),
    [
        (["Relu"], "relu"),
        (["Sigmoid", "Mul"], "silu"),
        (["swish_f32"], "silu"),
        (["Elu"], "elu"),
        (["Pow", "Tanh", "Mul"], "gelu"),
        (["Log", "Abs", "Relu"], "smoothrelu"),
        (["Softplus"], "softplus"),
        (["Softplus", "Tanh", "Mul"], "mish"),
        (["Relu", "Elu"], None),
        (["Conv2D"], None),
    ],
)
def test_the_graph_tells_the_activation(operations: list[str], activation: str | None, tmp_path: Path) -> None:
    nodes = [(f"{BLOCK}/{op}", op) for op in operations]
    nodes += [("logits/Elu", "Elu"), ("gradients/group0/block0/Pow_grad/Log", "Log"), ("blocks_0/se/Tanh", "Tanh")]
    file = tmp_path / "x.meta"
    file.write_bytes(graph(*nodes, library=SILU_LIBRARY))
    assert activation_of(file) == activation


@pytest.mark.parametrize("content", [b"<html>", b"\x12", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x17"])
def test_what_is_no_graph_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.meta").write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.meta is no TensorFlow graph, or not all of it; remove it"):
        activation_of(tmp_path / "x.meta")


def test_damaged_graphs_are_read_or_refused(tmp_path: Path) -> None:
    file, source = tmp_path / "x.meta", np.random.default_rng(0)
    whole = graph((f"{BLOCK}/Relu", "Relu"), (f"{BLOCK}/Conv2D", "Conv2D"), library=SILU_LIBRARY)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole[: int(source.integers(1, len(whole) + 1))])
        damaged[int(source.integers(len(damaged)))] = int(source.integers(256))
        file.write_bytes(damaged)
        try:
            assert activation_of(file) in (None, "relu", "silu")
        except BadInput:
            refused += 1
    assert refused > 90


def copied(source: Path, prefix: Path) -> Path:
    for file in (INDEX, DATA):
        shutil.copy(source / RELEASE / file, prefix.parent / file.replace(RELEASE, prefix.name))
    return prefix


@pytest.mark.left_out
def test_a_checkpoint_whose_graph_is_another_cards_is_refused(mirrors: Path, tmp_path: Path, home: Path) -> None:
    prefix = copied(mirrors / "one", tmp_path / "mine")
    meta = tmp_path / "mine.meta"
    nodes = [("efficientnet-b0/blocks_0/Relu", "Relu"), ("efficientnet-b0/blocks_0/se/Sigmoid", "Sigmoid")]
    meta.write_bytes(graph(*nodes))
    words = ("models", "import", NAME, prefix)
    for more in ((), ("--out", tmp_path / "out.safetensors")):
        code, output = run(*words, *more)
        assert (code, output) == (2, f"satbench: {meta} computes relu, but the card says silu\n")
    with pytest.raises(BadInput, match="computes relu, but the card says silu"):
        load(NAME, prefix)
    assert not home.exists() or not cache.pinned(NAME)
    meta.write_bytes(graph(("efficientnet-b0/blocks_0/swish_f32", "swish_f32")))
    code, output = run(*words)
    assert code == 0, output
    assert "no .meta file" not in output


def test_networks_of_equal_variables_are_told_apart_by_their_graph(tmp_path: Path) -> None:
    """ResNet-50 with ReLU and with SiLU have the same variables."""
    (tmp_path / "x.meta").write_bytes(graph((f"{BLOCK}/Relu", "Relu")))
    write_bundle(tmp_path / "x", {"conv0/W": np.zeros((1,), np.float32)})
    silu = read_cards()["resnet50-silu"]
    assert isinstance(silu, ReleasedCard)
    with pytest.raises(BadInput, match=r"x\.meta computes relu, .* silu; it is the graph of resnet50-relu"):
        import_checkpoint("resnet50-silu", silu, tmp_path / "x")


def test_a_checkpoint_that_bears_the_name_of_another_release_is_refused(mirrors: Path, tmp_path: Path) -> None:
    prefix = copied(mirrors / "one", tmp_path / "efficientnet-b1")
    code, output = run("models", "import", NAME, prefix)
    assert code == 2
    assert (
        "is called as the release of effnet-b1 is, not effnet-b0's, efficientnet-b0; import it as effnet-b1" in output
    )


def test_a_checkpoint_whose_digest_another_card_states_is_refused(mirrors: Path, tmp_path: Path, monkeypatch) -> None:
    digest = sha256_file(mirrors / "one" / RELEASE / DATA)
    other = registry_with(tmp_path, "other-net", monkeypatch, data=digest, index="f" * 64)
    with pytest.raises(BadInput, match=f"{NAME}: {DATA} is a file of other-net, whose card states its SHA-256"):
        load(NAME)
    assert other.is_file()


# cards that change


def registry_with(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, **digests: str) -> Path:
    """A registry with one network, whose card is B0's but for the digests."""
    lines = registry.registry_path().read_text().split(f"\n{NAME}:\n")[1].split("\n\n")[0]
    stated = f"{{data: {digests['data']}, index: {digests['index']}}}" if digests else "unknown"
    text = lines.replace("digests: unknown", f"digests: {stated}")
    if name != NAME:
        text = text.replace(f"release: {RELEASE}", "release: other")
    file = folder / "zoo.yaml"
    file.write_text(f"{name}:\n{text}\n")
    monkeypatch.setenv("SATBENCH_ZOO", str(file))
    return file


def digests_of(mirror: Path) -> dict[str, str]:
    return {"data": sha256_file(mirror / RELEASE / DATA), "index": sha256_file(mirror / RELEASE / INDEX)}


@pytest.mark.left_out
def test_a_card_that_states_other_digests_later_is_followed(
    mirrors: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry_with(tmp_path, NAME, monkeypatch, **digests_of(mirrors / "one"))
    first = load(NAME).info.digest
    registry_with(tmp_path, NAME, monkeypatch, **digests_of(mirrors / "two"))
    monkeypatch.setenv("SATBENCH_MIRROR", str(mirrors / "two"))
    assert load(NAME).info.digest != first
    assert f"{INDEX}, {DATA} are not what its card states now" in capsys.readouterr().err.replace(
        f"{DATA}, {INDEX}", f"{INDEX}, {DATA}"
    )
    assert sorted(path.name for path in cache.folder(NAME).iterdir()) == [DATA, INDEX]


@pytest.mark.left_out
def test_a_changed_card_is_converted_again_from_the_files_that_are_there(tmp_path: Path, monkeypatch) -> None:
    load(NAME)
    monkeypatch.setenv("SATBENCH_MIRROR", str(tmp_path))
    file = registry_with(tmp_path, NAME, monkeypatch)
    file.write_text(file.read_text().replace("loader: tf1-bicubic", "loader: torchvision"))
    assert load(NAME).loader == "torchvision"
    assert load(NAME).info.label == NAME


# killed commands


def litter(home: Path) -> list[Path]:
    """What commands leave that are killed, or whose download was refused."""
    folder, models = cache.folder(NAME), home / "models"
    files = [folder / f"{DATA}.rejected", folder / f"{INDEX}.0123abcd", folder / f"{DATA}.0123abcdxyz.part"]
    files += [models / f".{NAME}.safetensors.k1ll3d", home / ".zoo.lock.k1ll3d"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half of it")
    return files


def test_left_overs_do_not_disturb_and_go_with_the_next_conversion(home: Path) -> None:
    files = litter(home)
    assert load(NAME).info.label == NAME
    assert [file for file in files if file.exists()] == [home / ".zoo.lock.k1ll3d"]


def test_gc_deletes_what_is_of_no_use_and_nothing_else(home: Path) -> None:
    load(NAME)
    kept = sorted(path for path in home.rglob("*") if path.is_file())
    files = litter(home)
    (home / "checkpoints" / "gone-net").mkdir()
    (home / "checkpoints" / "gone-net" / "gone.index").write_bytes(b"x")
    kept.append(home / "checkpoints" / "gone-net" / "gone.index")
    code, output = run("models", "gc")
    assert code == 0
    for file in files:
        assert f"deleted {file}" in output
    assert "gone-net: no card of that name; kept" in output
    assert {path for path in home.rglob("*") if path.is_file()} - set(kept) <= set(home.glob("locks/*"))
    assert all(path.is_file() for path in kept)
    assert load(NAME).info.label == NAME


def test_gc_deletes_a_conversion_that_the_card_does_not_describe(tmp_path: Path, monkeypatch) -> None:
    load(NAME)
    file = registry_with(tmp_path, NAME, monkeypatch)
    file.write_text(file.read_text().replace("loader: tf1-bicubic", "loader: torchvision"))
    assert f"deleted {cache.converted(NAME)}" in run("models", "gc")[1]
    assert (cache.folder(NAME) / DATA).is_file()


def test_gc_leaves_a_network_that_another_process_works_on(home: Path) -> None:
    files = litter(home)
    with cache.locked(NAME):
        from threading import Thread

        found: list[str] = []
        thread = Thread(target=lambda: found.append(run("models", "gc")[1]))
        thread.start()
        thread.join()
    assert f"{NAME}: another process works on it; left as it is" in found[0]
    assert files[0].exists()


@pytest.mark.left_out
def test_a_damaged_conversion_is_made_again(mirrors: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    digest = load(NAME).info.digest
    path = cache.converted(NAME)
    monkeypatch.delenv("SATBENCH_MIRROR")  # from the files that are there
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"damage")
    assert load(NAME).info.digest == digest
    assert "are not what was saved" in capsys.readouterr().err
    assert read_header(path)[1].card == NAME
    assert run("models", "verify", NAME) == (0, f"{NAME}: ok\n")
    assert card().release == RELEASE
