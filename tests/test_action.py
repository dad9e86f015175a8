"""The GitHub action: its structure, and what its scripts run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from satbench.cli import app

ROOT = Path(__file__).resolve().parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = ACTION["runs"]["steps"]
EXAMPLE = ROOT / "examples/gate-your-model/.github/workflows/robustness.yml"
WORKFLOWS = [ROOT / ".github/workflows/robustness.yml", EXAMPLE]
HOSTILE = ['a"; touch owned; ".yaml', "$(touch owned).yaml", "`touch owned`.yaml", "two words.yaml", "--approve"]


def uses(workflow: Path) -> list[dict[str, Any]]:
    """The steps of a workflow that use the action."""
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    steps = [step for job in jobs for step in job["steps"] if not step.get("uses", "").startswith("actions/")]
    assert all(re.fullmatch(r"\./|OWNER/satbench@main", step["uses"]) for step in steps)
    return steps


def step(name: str) -> dict[str, Any]:
    (found,) = (one for one in STEPS if one.get("name") == name)
    return found


def test_every_input_is_described_used_and_kept_out_of_scripts() -> None:
    assert ACTION["runs"]["using"] == "composite"
    for one in STEPS:
        assert ("run" in one) != ("uses" in one)
        assert "${{" not in one.get("run", "")
        if "run" in one:
            assert one["shell"] in ("bash", "python")
    used = set(re.findall(r"inputs\.([a-z-]+)", json.dumps(STEPS)))
    assert used == set(ACTION["inputs"])
    for one in ACTION["inputs"].values():
        assert set(one) == {"description", "default"}
        assert isinstance(one["default"], str)


def test_every_action_of_others_is_pinned_to_a_major_version() -> None:
    jobs = [yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"] for file in WORKFLOWS]
    named = re.findall(r'"uses": "(actions/[^"]*)"', json.dumps([STEPS, jobs]))
    assert len(named) == 7
    for one in named:
        assert re.fullmatch(r"actions/[a-z-]+@v[0-9]+", one)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=["here", "example"])
def test_workflows_give_inputs_that_exist_and_run_without_rights(workflow: Path) -> None:
    said = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert said["permissions"] == {"contents": "read"}
    assert set(said[True]) == {"pull_request", "push"}  # YAML 1.1 reads `on` as true
    assert uses(workflow)
    for one in uses(workflow):
        assert set(one.get("with", {})) <= set(ACTION["inputs"])
        folder = workflow.parents[2] / one.get("with", {}).get("working-directory", ".")
        for study in one.get("with", {}).get("studies", "").split():
            assert (folder / study).with_suffix(".baseline.json").is_file()


def test_what_the_action_caches_and_uploads_is_what_the_check_writes() -> None:
    check = step("Check")
    home = check["env"]["SATBENCH_HOME"]
    assert home in step("Keep weights and data")["with"]["path"].splitlines()
    kept = step("Keep what was measured")["with"]["path"].splitlines()
    assert kept == [f"{check['env']['FOLDER']}/kept/*/{name}" for name in ("checked", "study.json")]
    assert STEPS[-1]["with"]["path"] == f"{check['env']['FOLDER']}/report"
    assert STEPS[-1]["if"] == "${{ !cancelled() }}"


def test_inputs_reach_the_command_as_words(tmp_path: Path) -> None:
    """A stand-in for `satbench` writes down its words; the scripts are run as GitHub runs them."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/satbench"
    tool.write_text(
        f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('words.json', 'w'))\nexit(1)\n"
    )
    tool.chmod(0o755)
    (tmp_path / "two words.yaml").write_text("a suite")
    studies = "\n".join(["", *HOSTILE, "  last.yaml  "])
    given = {"STUDIES": studies, "ARGS": "--data-dir 'my photos' $(touch owned);", "FOLDER": str(tmp_path / "made")}
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    environment = {**os.environ, **given, "PATH": path, "GITHUB_OUTPUT": str(tmp_path / "output")}
    for name, code in (("Name the suites", 0), ("Check", 1)):
        script = [sys.executable, "-c", step(name)["run"]]
        assert subprocess.run(script, cwd=tmp_path, env=environment, check=False).returncode == code
    words = json.loads((tmp_path / "words.json").read_text())
    at = words.index("--")
    assert words[at + 1 :] == [*HOSTILE, "last.yaml"]
    assert words[at - 4 : at] == ["--data-dir", "my photos", "$(touch", "owned);"]
    assert re.fullmatch("digest=[0-9a-f]{16}\n", (tmp_path / "output").read_text())
    assert not (tmp_path / "owned").exists()


def test_the_command_has_the_options_that_the_action_gives() -> None:
    options = {name for one in get_command(app).commands["check"].params for name in one.opts}
    assert set(re.findall(r'"(--[a-z]+)"', step("Check")["run"])) <= options


def test_pip_gets_one_word(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (tmp_path / "python").chmod(0o755)
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step("Install satbench")["run"]]
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    for given, last in (("a==1; touch owned", "a==1; touch owned"), ("", "/the checkout")):
        environment = {"PATH": path, "REQUIREMENT": given, "GITHUB_ACTION_PATH": "/the checkout"}
        done = subprocess.run(bash, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-2:] == ["--", last]
    assert not (tmp_path / "owned").exists()
