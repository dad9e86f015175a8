"""Registries of one's own: how they are found and merged, cards for one's own checkpoints, and weights at URLs."""

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import own_code
import pytest
import torch
import yaml
from click import Command
from typer.main import get_command
from typer.testing import CliRunner

import satbench
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.plugins import PLUGINS
from satbench.models import Classifier, ModelSpec, build_model, empty_model
from satbench.zoo import load, remote
from satbench.zoo.new_card import architecture_of
from satbench.zoo.registry import entries, find_card, read_cards, registry_path

pytestmark = pytest.mark.usefixtures("home")

SPEC = ModelSpec("preact-resnet18", "silu", 10, 1, 16, (0.5,), (0.25,), {"width": 2})
DIGITS = Path(satbench.__file__).parent / "zoo/weights/digits-silu.safetensors"
FIELDS = ["activation=silu", "image_size=16", "mean=[0.5]", "std=[0.25]", "params={width: 2}", "licence=MIT"]


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def network() -> Classifier:
    torch.manual_seed(0)
    return build_model(SPEC).eval()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A registry with one network, `mine`, in a plain state dict beside it."""
    (tmp_path / "mine").mkdir()
    torch.save(network().net.state_dict(), tmp_path / "mine" / "weights.pt")
    return add_card(tmp_path / "mine" / "zoo.yaml", tmp_path / "mine" / "weights.pt", "mine")


def add_card(registry: Path, weights: Path, name: str, *more: str) -> Path:
    fields = [word for field in (*FIELDS, *more) for word in ("--set", field)]
    code, output = run("models", "init-card", weights, "--name", name, "--out", registry, *fields)
    assert code == 0, output
    return registry


def edited(registry: Path, **changes: object) -> Path:
    content = yaml.safe_load(registry.read_text())
    content["mine"] |= changes
    registry.write_text(yaml.safe_dump(content))
    return registry


# cards


def test_a_card_for_a_state_dict_says_what_its_file_tells_and_loads(mine: Path, monkeypatch) -> None:
    entry = yaml.safe_load(mine.read_text())["mine"]
    weights = mine.parent / "weights.pt"
    assert entry["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert entry["size"] == weights.stat().st_size
    assert (entry["architecture"], entry["num_classes"], entry["channels"]) == ("preact-resnet18", 10, 1)
    assert entry["parameters"] == sum(parameter.numel() for parameter in network().parameters())
    assert entry["weights"] == "weights.pt"
    monkeypatch.setenv("SATBENCH_ZOO", str(mine))
    loaded = load("mine")
    assert (loaded.info.ref, loaded.info.label, loaded.info.activation) == ("mine", "mine", "silu")
    x = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), network()(x))


def test_a_card_for_a_file_that_satbench_wrote_needs_the_licence_alone(tmp_path: Path, monkeypatch) -> None:
    code, output = run("models", "init-card", DIGITS, "--name", "theirs")
    assert code == 2
    assert f"{DIGITS} does not tell licence; give what is true of it, such as --set licence=MIT" in output
    registry = tmp_path / "zoo.yaml"
    assert run("models", "init-card", DIGITS, "--name", "theirs", "--set", "licence=MIT", "--out", registry)[0] == 0
    monkeypatch.setenv("SATBENCH_ZOO", str(registry))
    assert load("theirs").info.digest == load("digits-silu").info.digest
    card = find_card("theirs")[1]
    known = read_cards()["digits-silu"]
    same = {"summary", "weights", "size"}
    assert card.model_dump(exclude=same) == known.model_dump(exclude=same)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "activation"), "expected FIELD=VALUE"),
        (("--set", "mean=["), "the value is no YAML"),
        ((), r"does not tell activation, image_size, mean, std, licence; .* --set 'mean=\[0\.5\]' .*licence=MIT"),
        (("--set", "activation=silu"), r"does not tell image_size, mean, std, licence; .*--set image_size=32"),
        (("--set", "activation=sillu"), "field 'activation': unknown activation 'sillu'; did you mean silu"),
        (("--set", "mean=[0.5, 0.5, 0.5]"), "mean has 3 numbers for 1 channels"),
        ([w for f in FIELDS if "params" not in f for w in ("--set", f)], "no architecture of satbench .* 107 tensors"),
        ([w for f in (*FIELDS, "mood=1") for w in ("--set", f)], "field 'mood': unknown field"),
        ([w for f in (*FIELDS, "architecture=resnet50") for w in ("--set", f)], "unknown parameter 'width'|lacks"),
    ],
)
def test_what_a_card_lacks_is_said_in_one_line(words: list[str], message: str, mine: Path) -> None:
    code, output = run("models", "init-card", mine.parent / "weights.pt", "--name", "other", *words)
    assert code == 2, output
    assert output.count("\n") == 1
    with pytest.raises(BadInput, match=message):
        raise BadInput(output)


@pytest.mark.left_out
def test_a_name_is_taken_once_and_becomes_no_path(mine: Path) -> None:
    weights = mine.parent / "weights.pt"
    before = mine.read_text()
    fields = [word for field in FIELDS for word in ("--set", field)]
    for name, message in (
        ("mine", "has a network 'mine' already"),
        ("../x", "--name '../x' is not a name"),
    ):
        code, output = run("models", "init-card", weights, "--name", name, "--out", mine, *fields)
        assert (code, message in output) == (2, True), output
    assert mine.read_text() == before
    add_card(mine, weights, "second")
    assert set(read_cards(mine)) == {"mine", "second"}
    mine.write_text(before.replace("mine:", "../mine:"))
    with pytest.raises(BadInput, match=r"entry '\.\./mine' is not a name"):
        read_cards(mine)


@pytest.mark.left_out
def test_weights_of_a_resnet_may_be_the_releases_or_timms() -> None:
    fields = {"activation": "relu", "channels": 3, "num_classes": 10, "image_size": 32, "mean": [0.5] * 3}
    fields["std"] = fields["mean"]
    spec = ModelSpec("resnet50", "relu", 10, 3, 32, (0.5,) * 3, (0.5,) * 3)
    tensors = empty_model(spec).net.state_dict()
    with pytest.raises(BadInput, match="fits resnet50, as the SAT release pads it, and timm:resnet50"):
        architecture_of(Path("w.pt"), tensors, fields)


@pytest.mark.slow
def test_the_releases_resnet_and_timms_differ_with_equal_weights() -> None:
    """Which is why a person has to say which one it is."""
    spec = ModelSpec("resnet50", "relu", 10, 3, 32, (0.5,) * 3, (0.5,) * 3)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    release, twin = (
        build_model(spec).eval(),
        build_model(dataclasses.replace(spec, architecture="timm:resnet50")).eval(),
    )
    twin.load_state_dict(release.state_dict())
    with torch.no_grad():
        assert not torch.allclose(release(x), twin(x), atol=1e-3)


def test_a_card_may_name_code_of_ones_own_which_loads_where_it_is_allowed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(PLUGINS, "")
    torch.manual_seed(0)
    net = own_code.net(torch.nn.SiLU, channels=1, image_size=8, num_classes=3, width=2).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    fields = ["architecture=own_code:net", "params={width: 2}", *FIELDS[:4], "image_size=8", "licence=MIT"]
    words = [word for field in fields for word in ("--set", field)]
    registry = tmp_path / "zoo.yaml"
    code, output = run("models", "init-card", tmp_path / "weights.pt", "--name", "own", "--out", registry, *words)
    assert code == 0, output
    monkeypatch.setenv("SATBENCH_ZOO", str(registry))
    monkeypatch.setenv(PLUGINS, "")
    with pytest.raises(BadInput, match="names the code own_code:net, which is not satbench's"):
        load("own")
    monkeypatch.setenv(PLUGINS, "own_code")
    loaded = load("own")
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), net((x - 0.5) / 0.25))
    assert loaded.module == "own_code"
    assert "architecture: own_code:net" in run("models", "show", "own")[1]


@pytest.mark.parametrize("field", ["architecture", "activation"])
def test_a_card_imports_nothing_that_was_not_allowed(field: str, mine: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(PLUGINS, "")
    monkeypatch.chdir(tmp_path)
    Path("trap.py").write_text("open('sprung', 'w').close()\n")
    monkeypatch.setenv("SATBENCH_ZOO", str(edited(mine, **{field: "trap:build"})))
    with pytest.raises(BadInput, match="names the code trap:build"):
        load("mine")
    assert not Path("sprung").exists()


def test_a_card_of_the_release_names_no_code(tmp_path: Path) -> None:
    name = "resnet50-relu"
    released = {**yaml.safe_load(registry_path().read_text())[name], "activation": "trap:build"}
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump({name: released}))
    with pytest.raises(BadInput, match="'trap:build' is no part of the SAT release"):
        read_cards(tmp_path / "zoo.yaml")


# precedence


def test_the_users_own_registry_wins_and_a_package_never_replaces(mine: Path, tmp_path: Path, monkeypatch) -> None:
    content = yaml.safe_load(mine.read_text())
    (tmp_path / "other.yaml").write_text(
        yaml.safe_dump({"mine": {**content["mine"], "summary": "other", "weights": str(mine.parent / "weights.pt")}})
    )
    mine.write_text(yaml.safe_dump({**content, "digits-relu": content["mine"]}))
    monkeypatch.setenv("SATBENCH_ZOO", f"{mine};{tmp_path / 'other.yaml'}")
    assert find_card("mine")[1].summary == "preact-resnet18 with silu"
    assert entries()["digits-relu"].registry == str(mine)
    assert entries()["digits-silu"].registry.endswith("model_zoo.yaml")
    code, output = run("models", "show", "mine", "--zoo", tmp_path / "other.yaml")
    assert code == 0
    assert "summary: other" in output
    assert f"registry: {tmp_path / 'other.yaml'}" in output
    assert find_card("mine")[1].summary == "preact-resnet18 with silu"  # the option holds for its command alone


@pytest.fixture
def package(tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that brings the networks of `mine`; its code must not run."""
    site = tmp_path / "site"
    (site / "their_nets" / "zoo").mkdir(parents=True)
    (site / "their_nets" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / "their_nets-1.dist-info").mkdir()
    (site / "their_nets-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: their-nets\nVersion: 1\n")
    (site / "their_nets-1.dist-info" / "entry_points.txt").write_text("[satbench.zoo]\ntheirs = their_nets.zoo\n")
    for file, target in ((mine, "model_zoo.yaml"), (mine.parent / "weights.pt", "weights.pt")):
        (site / "their_nets" / "zoo" / target).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(str(site))
    return site / "their_nets" / "zoo" / "model_zoo.yaml"


def test_a_package_adds_networks_without_being_imported(package: Path) -> None:
    assert entries()["mine"].registry == str(package)
    assert load("mine").info.label == "mine"


def test_a_package_that_takes_a_name_of_satbench_is_named(package: Path) -> None:
    package.write_text(package.read_text().replace("mine:", "digits-relu:"))
    with pytest.raises(BadInput, match=r"the package their-nets names a network 'digits-relu', which .*model_zoo"):
        read_cards()


def test_a_package_without_its_registry_is_named(package: Path) -> None:
    package.unlink()
    with pytest.raises(BadInput, match="the package their-nets has an entry point 'theirs'"):
        read_cards()


@pytest.mark.parametrize("option", [True, False])
def test_eval_uses_a_registry_of_ones_own(option: bool, tmp_path: Path, monkeypatch) -> None:
    registry = tmp_path / "zoo.yaml"
    run("models", "init-card", DIGITS, "--name", "theirs", "--set", "licence=MIT", "--out", registry)
    words = ["eval", "--model", "theirs", "--attack", "fgsm", "--n", 4, "--no-trust", "--out", tmp_path / "run"]
    if option:
        words += ["--zoo", registry]
    else:
        monkeypatch.setenv("SATBENCH_ZOO", str(registry))
    code, output = run(*words)
    assert code == 0, output


def test_a_card_that_does_not_fit_its_file_is_refused(tmp_path: Path, monkeypatch) -> None:
    registry = tmp_path / "zoo.yaml"
    run("models", "init-card", DIGITS, "--name", "mine", "--set", "licence=MIT", "--out", registry)
    monkeypatch.setenv("SATBENCH_ZOO", str(edited(registry, activation="gelu")))
    with pytest.raises(BadInput, match="its activation is silu, but the card of mine says gelu"):
        load("mine")


def test_changed_weights_of_a_card_are_refused(mine: Path, monkeypatch) -> None:
    monkeypatch.setenv("SATBENCH_ZOO", str(mine))
    with (mine.parent / "weights.pt").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BadInput, match=r"weights\.pt has SHA-256 .* its card says .*restore it"):
        load("mine")


@pytest.mark.parametrize("source", ["nowhere.yaml", "~nobody-here/zoo.yaml"])
def test_a_registry_that_is_not_there_is_named(source: str) -> None:
    code, output = run("models", "list", "--zoo", source)
    assert (code, output.count("\n")) == (2, 1)
    assert f"--zoo {source}: no such file" in output


# URLs


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A server of the folder `web`, whose requests are in `asked`."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if not self.path.startswith("/moved/"):
                super().do_GET()
                return
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/{self.path[7:]}")
            self.end_headers()

    (tmp_path / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def web(tmp_path: Path, site: str, mine: Path) -> str:
    """The URL of a registry whose weights lie beside it."""
    for file in mine.parent.iterdir():
        (tmp_path / "web" / file.name).write_bytes(file.read_bytes())
    return f"{site}/zoo.yaml"


def test_a_redirection_to_plain_http_needs_a_digest(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 stands for another machine."""
    moved = web.replace("127.0.0.1", "localhost").replace("/zoo.yaml", "/moved/zoo.yaml")
    monkeypatch.setenv("SATBENCH_ZOO", moved)
    assert "mine" in entries()
    monkeypatch.setattr(remote, "_is_here", lambda host: host == "localhost")
    with pytest.raises(BadInput, match=r"127\.0\.0\.1: plain HTTP is used only .* leads there; give its digest"):
        entries()


def test_a_registry_at_a_url_brings_its_weights(web: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("SATBENCH_ZOO", web)
    digest = load("mine").info.digest
    size = (tmp_path / "web" / "weights.pt").stat().st_size
    assert size < 1e6
    assert f"mine: downloading {size / 1e3:,.1f} kB; licence: MIT" in capsys.readouterr().err
    (tmp_path / "web" / "weights.pt").unlink()
    assert load("mine").info.digest == digest  # from the cache
    monkeypatch.setenv("SATBENCH_OFFLINE", "1")
    (tmp_path / "web" / "zoo.yaml").unlink()
    assert load("mine").info.digest == digest
    assert run("models", "rm", "mine")[0] == 0
    capsys.readouterr()
    with pytest.raises(BadInput, match="is not asked while offline; leave out --offline, or save the file as"):
        load("mine")
    assert "downloading" not in capsys.readouterr().err


def test_weights_at_a_url_with_another_digest_are_thrown_away(
    web: str, tmp_path: Path, home: Path, monkeypatch
) -> None:
    monkeypatch.setenv("SATBENCH_ZOO", web)
    weights = tmp_path / "web" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # of the size on the card
    with pytest.raises(BadInput, match=r"weights\.pt has SHA-256 .*, its card says"):
        load("mine")
    assert not list((home / "checkpoints").rglob("*weights*"))


def test_a_registry_with_a_digest_is_checked_and_then_read_from_the_cache(web: str, tmp_path: Path) -> None:
    file = tmp_path / "web" / "zoo.yaml"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    code, output = run("models", "list", "mine", "--zoo", f"{web}#sha256={'0' * 64}")
    assert code == 2
    assert f"has SHA-256 {digest}, not {'0' * 64}" in output
    assert run("models", "list", "mine", "--zoo", f"{web}#sha256={digest}")[0] == 0
    file.unlink()
    assert run("models", "list", "mine", "--zoo", f"{web}#sha256={digest}")[0] == 0
    assert "cannot be read (HTTPError)" in run("models", "list", "mine", "--zoo", web)[1]


def test_plain_http_from_another_machine_needs_a_digest(monkeypatch) -> None:
    code, output = run("models", "list", "--zoo", "http://zoo.example/zoo.yaml")
    assert code == 2
    assert "http://zoo.example: plain HTTP is used only for files of known SHA-256; use https" in output


@pytest.mark.parametrize("words", ["", "list", "show mine", "pull mine", "import mine x", "verify", "rm mine", "gc"])
def test_offline_a_registry_that_was_never_read_is_missing(words: str) -> None:
    code, output = run("models", *words.split(), "--offline", "--zoo", "https://zoo.example/zoo.yaml")
    assert code == 2
    assert "offline, and the registry https://zoo.example/zoo.yaml is not on this machine" in output


def test_every_command_that_takes_a_registry_has_offline() -> None:
    options_of = {path: {one.name for one in command.params} for path, command in commands(get_command(app))}
    with_registry = {path: names for path, names in options_of.items() if "zoo" in names}
    assert len(with_registry) == 19
    assert not {path for path, names in with_registry.items() if "offline" not in names}


def commands(group: Command, path: str = "satbench") -> Iterator[tuple[str, Command]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path} {name}")
