"""`pytest --satbench STUDY.yaml` in a project of its own."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from satbench.cli import app

pytest_plugins = "pytester"
SUITE = """
models: {{model: "gate_networks:build:kind={kind}", name: {name}}}
evaluations: [{{dataset: digits, attacks: "pgd:steps=5", threats: [Linf:0.05, Linf:0.1], n: 100}}]
gate: {{drop: 10}}
"""
ITEMS = [f"mine.yaml::mine, PGD-5: {one}" for one in ("PGD-5 at Linf 0.05", "PGD-5 at Linf 0.1", "clean", "trust")]
OWN = "test_own.py::test_own"


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("approved") / "mine.yaml"
    file.write_text(SUITE.format(kind="plain", name="mine"))
    done = CliRunner().invoke(app, ["check", str(file), "--approve", "first"])
    assert done.exit_code == 0, done.output
    return file.with_suffix(".baseline.json").read_bytes()


@pytest.fixture
def project(pytester: pytest.Pytester, baseline: bytes) -> pytest.Pytester:
    pytester.makepyfile(test_own="def test_own(): pass")
    change(pytester, "plain")
    (pytester.path / "mine.baseline.json").write_bytes(baseline)
    return pytester


def change(project: pytest.Pytester, kind: str) -> None:
    (project.path / "mine.yaml").write_text(SUITE.format(kind=kind, name="mine"))


def run(project: pytest.Pytester, *words: str) -> pytest.RunResult:
    plugin = ("-p", "no:satbench", "-p", "satbench.pytest_plugin")  # also where the installed package has none yet
    return project.runpytest_inprocess(*plugin, *words)


def ids(done: pytest.RunResult) -> list[str]:
    return [line for line in done.outlines if "::" in line]


def test_every_figure_and_the_trust_are_items_beside_the_other_tests(project: pytest.Pytester) -> None:
    published = SUITE.format(kind="plain", name="other").replace("n: 100", "published: {clean: {rate: 90, n: 1000}}")
    (project.path / "other.yaml").write_text(published)
    both = ("--satbench", "mine.yaml", "--satbench", "other.yaml", "--strict-markers")
    first, again = (ids(run(project, "--collect-only", "-q", *both)) for _ in range(2))
    assert first == again
    assert sorted(first) == [*ITEMS, "other.yaml::other, PGD-5: clean", OWN]
    assert ids(run(project, "--collect-only", "-q", *both, "-m", "not satbench")) == [OWN]
    assert sorted(ids(run(project, "--collect-only", "-q", *both[:2], "mine.yaml", "."))) == [*ITEMS, OWN]
    assert ids(run(project, "--collect-only", "-q")) == [OWN]


@pytest.mark.left_out
def test_an_unchanged_network_passes_and_its_figures_are_in_the_report(project: pytest.Pytester) -> None:
    done = run(project, "--satbench", "mine.yaml", "-v", "--junitxml", "report.xml")
    done.assert_outcomes(passed=5)
    assert any(line.startswith(f"{ITEMS[0]} PASSED") for line in done.outlines)
    assert "PGD-5 at Linf 0.1: " in (project.path / "report.xml").read_text()


@pytest.mark.left_out
def test_a_broken_network_fails_with_the_message_of_the_gate(project: pytest.Pytester) -> None:
    change(project, "slip")
    done = run(project, "--satbench", "mine.yaml")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.fnmatch_lines(["changed: mine, PGD-5: clean: *% before, *% * now, on * of 100 images; lost *"])
    assert not any("Traceback" in line or "pytest_plugin.py" in line for line in done.outlines)


@pytest.mark.left_out
def test_a_masked_network_fails_by_its_trust(project: pytest.Pytester) -> None:
    change(project, "masked")
    done = run(project, "--satbench", "mine.yaml", "-k", "trust")
    done.assert_outcomes(failed=1, deselected=4)
    done.stdout.fnmatch_lines(["changed: mine, PGD-5: trust not checked before, fail now; *"])


def test_a_network_that_cannot_be_loaded_fails_in_one_line(project: pytest.Pytester) -> None:
    change(project, "plain,other=1")
    done = run(project, "--satbench", "mine.yaml", "-k", "clean")
    done.assert_outcomes(failed=1, deselected=4)
    done.stdout.fnmatch_lines(["*unknown parameter 'other'*"])


def test_a_bad_study_is_one_usage_error(project: pytest.Pytester) -> None:
    held = project.path / "mine.baseline.json"
    for words, wrong in (
        (("none.yaml",), "no such file: none.yaml; "),
        (("mine.yaml", "--satbench", "none.yaml"), "no such file: none.yaml; "),
        (("mine.yaml", "-n", "2"), "measures a suite in one process; with xdist, give --dist loadfile"),
    ):
        refused(run(project, "--satbench", *words), wrong)
    held.write_text(held.read_text().replace('"right": ', '"right": 1'))
    refused(run(project, "--satbench", "mine.yaml"), "bits are 1, not 1")
    held.unlink()
    refused(run(project, "--satbench", "mine.yaml"), "there is no baseline mine.baseline.json")
    change(project, 'plain"')
    refused(run(project, "--satbench", "mine.yaml"), "mine.yaml cannot be read as YAML")


def refused(done: pytest.RunResult, wrong: str) -> None:
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in [*done.outlines, *done.errlines] if line.startswith("ERROR: "))
    assert "--satbench" in line
    assert wrong in line
    assert not any("passed" in line or "collected" in line for line in done.outlines)


@pytest.mark.left_out
def test_without_the_option_nothing_heavy_is_imported(project: pytest.Pytester) -> None:
    heavy = ["torch", "numpy", "pydantic", "typer", "satbench.core.errors"]
    project.makepyfile(test_own=f"import sys\ndef test_own(): assert not {{*{heavy}}} & {{*sys.modules}}")
    done = project.run(sys.executable, "-m", "pytest", "-p", "no:satbench", "-p", "satbench.pytest_plugin")
    done.assert_outcomes(passed=1)


@pytest.mark.slow
def test_with_xdist_one_worker_measures_a_suite(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[1]}")
    done = project.runpytest_subprocess(
        "-p", "no:satbench", "-p", "satbench.pytest_plugin", "--satbench", "mine.yaml", "-n", "2", "--dist", "loadfile"
    )
    done.assert_outcomes(passed=5)
