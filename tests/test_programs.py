"""Networks of `torch.export` and TorchScript files, measured as they are."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from satbench import evaluate
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.zoo import load

DYNAMIC = ({0: torch.export.Dim.DYNAMIC},)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach().flatten(1)[:, :10]


def digits() -> nn.Module:
    return load("digits-silu").model


def exported(file: Path, dynamic: tuple[dict[int, object], ...] | None = DYNAMIC) -> Path:
    torch.export.save(torch.export.export(digits(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=dynamic), file)
    return file


def traced(file: Path, network: nn.Module | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated, and that a network checks its images' shape
        torch.jit.trace(network or digits(), torch.rand(2, 1, 8, 8)).save(str(file))
    return file


def frozen(file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.trace(digits(), torch.rand(2, 1, 8, 8)).eval()).save(str(file))
    return file


@pytest.fixture(scope="module", params=[exported, traced, frozen], ids=["exported", "traced", "frozen"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("program") / ("net.pt2" if request.param is exported else "net.pt"))


def test_a_program_gives_the_networks_logits_and_gradients(program: Path) -> None:
    loaded, network = load(str(program)), digits()
    assert not loaded.model.training
    assert loaded.info.label == program.name
    assert "is a program, which runs as it is" in (loaded.note or "")
    for n in (1, 5):
        x = torch.rand(n, 1, 8, 8, requires_grad=True)
        logits = loaded.model(x)
        torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-5)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
        (wanted,) = torch.autograd.grad(network(x).square().sum(), x)
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.one_in(3)
def test_a_program_is_measured_as_the_network_is(program: Path, tmp_path: Path) -> None:
    words = ["--dataset", "digits", "--attack", "pgd", "--steps", "2", "--eps", "0.1", "--n", "20", "--no-trust"]
    result = CliRunner().invoke(app, ["eval", "--model", str(program), *words, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "is a program, which runs as it is" in result.output
    settings = {"dataset": "digits", "attack": "pgd", "steps": 2, "eps": 0.1, "n": 20, "trust": False}
    ours = evaluate("digits-silu", out=tmp_path / "own", **settings)
    theirs = evaluate(str(program), out=tmp_path / "run", **settings)
    columns = ["sample_id", "clean_prediction", "broken", "prediction"]
    assert theirs.records[columns].equals(ours.records[columns])


def test_programs_of_equal_weights_are_different_networks(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self, by: float) -> None:
            super().__init__()
            self.network, self.by = digits(), by

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) * self.by

    one, two = (load(str(traced(tmp_path / f"{by}.pt", Scaled(by)))) for by in (1.0, 2.0))
    assert [*one.model.state_dict()] == [*two.model.state_dict()]
    assert one.info.digest != two.info.digest


def test_an_exported_network_of_a_fixed_batch_says_how_to_export_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"exported for 2 images at a time; export it with a dynamic first dimension"):
        load(str(exported(tmp_path / "net.pt2", None)))


@pytest.mark.left_out
def test_a_program_without_gradients_is_told_to_a_gradient_attack(tmp_path: Path) -> None:
    file = traced(tmp_path / "net.pt", Detached())
    words = ["eval", "--model", str(file), "--dataset", "digits", "--eps", "0.1", "--n", "4", "--no-trust"]
    result = CliRunner().invoke(app, [*words, "--attack", "pgd", "--steps", "2", "--out", str(tmp_path / "pgd")])
    assert result.exit_code == 2
    assert "gradient" in result.output
    result = CliRunner().invoke(app, [*words, "--attack", "square", "--out", str(tmp_path / "square")])
    assert result.exit_code == 0, result.output


class Trap:
    """Writes a file when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.file, "sprung")


def rewritten(file: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))
        for name, content in more.items():
            archive.writestr(f"{root}/{name}", content)


def pickled(trap: Path) -> bytes:
    torch.save(Trap(trap), buffer := io.BytesIO())
    return buffer.getvalue()


def with_pickle(name: str, content: bytes, trap: Path) -> bytes:
    """The first weight as a pickle that runs code."""
    if name.endswith("weights/weight_0"):
        return pickled(trap)
    if name.endswith("model_weights_config.json"):
        config = json.loads(content)
        first = next(entry for entry in config["config"].values() if entry["path_name"] == "weight_0")
        first["use_pickle"] = True
        return json.dumps(config).encode()
    return content


@pytest.mark.parametrize("where", ["weight", "sample", "opaque", "library"])
def test_code_inside_an_exported_network_is_not_run(where: str, tmp_path: Path) -> None:
    file, trap = exported(tmp_path / "net.pt2"), tmp_path / "sprung"
    if where == "weight":
        rewritten(file, lambda name, content: with_pickle(name, content, trap))
    elif where == "sample":
        rewritten(file, lambda name, content: pickled(trap) if "sample_inputs" in name else content)
    elif where == "opaque":
        rewritten(file, lambda name, content: content, **{"data/constants/opaque_obj_0": pickle.dumps(Trap(trap))})
    else:
        rewritten(file, lambda name, content: content, **{"data/aotinductor/model/a.so": b"\x7fELF"})
    with pytest.raises(BadInput, match=r"net\.pt2 (holds|cannot be loaded)"):
        load(str(file))
    assert not trap.exists()


@pytest.mark.parametrize("name", ["net.pt2", "net.ts"])
@pytest.mark.parametrize("content", [b"", b"words", b"half"])
def test_what_is_no_program_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    if content == b"half":
        whole = (exported if name.endswith("2") else traced)(file).read_bytes()
        content = whole[: len(whole) // 2]
    file.write_bytes(content)
    with pytest.raises(BadInput, match=name) as caught:
        load(str(file))
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_program_is_refused(program: Path, tmp_path: Path) -> None:
    file, content = tmp_path / program.name, bytearray(program.read_bytes())
    with zipfile.ZipFile(program) as archive:
        weight = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
    content[content.index(weight[:64]) + 7] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match=r"is damaged: '.*' does not have its CRC-32"):
        load(str(file))


def test_what_torch_logs_of_an_exported_network_is_the_reason_of_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = exported(tmp_path / "net.pt2")
    rewritten(file, lambda name, content: content.replace(b'"major": ', b'"major": 9'))
    with pytest.raises(BadInput, match=r"SerializeError: Serialized schema version .* does not match"):
        load(str(file))
    assert capfd.readouterr() == ("", "")
