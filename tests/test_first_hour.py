"""What a new user asks first: which version, what is missing, which names there are, what a run says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import satbench
from satbench.cli import app
from satbench.cli.app import COMMANDS

RUNNER = CliRunner()


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    said = RUNNER.invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"satbench {satbench.__version__}\n")
    assert satbench.__version__ == version("satbench")


def test_public_names_are_listed_and_resolve() -> None:
    names = dir(satbench)
    assert {"evaluate", "train", "load_model", "load_run", "compare", "verify", "__version__"} <= set(names)
    assert all(getattr(satbench, name) is not None for name in names)


def test_importing_satbench_imports_no_library() -> None:
    heavy = "import sys, satbench; print([name for name in ('torch', 'pandas', 'typer') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [name for name, *_ in COMMANDS])
def test_help_of_a_command_ends_with_an_example_of_it(name: str) -> None:
    said = RUNNER.invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    example = said.output.strip().splitlines()[-1].strip()
    assert said.exit_code == 0
    assert example.startswith(f"Example: satbench {name}")


def test_doctor_finds_everything_here() -> None:
    said = RUNNER.invoke(app, ["doctor", "--json"])
    lines = {one["name"]: one for one in json.loads(said.output)}
    assert said.exit_code == 0, said.output
    assert lines["torch"]["value"].split("+")[0] == __import__("torch").__version__.split("+")[0]
    assert not any(one["advice"] and one["needed"] for one in lines.values())


def test_doctor_names_what_is_to_be_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("SATBENCH_DATA", str(tmp_path / "nowhere"))
    said = RUNNER.invoke(app, ["doctor"])
    assert said.exit_code == 1
    last = said.output.splitlines()[-1]
    assert last.startswith(
        "2 to repair: cache: cannot be written; set SATBENCH_HOME to another folder; SATBENCH_DATA: "
    )


def test_doctor_sees_a_package_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "3.0" if name == "foolbox" else version(name))
    said = RUNNER.invoke(app, ["doctor"])
    assert said.exit_code == 1
    assert "foolbox: pip install 'foolbox<4,>=3.3.4'" in said.output.splitlines()[-1]
