"""Wheel, source distribution and container context: what is released works outside the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import satbench

ROOT = Path(__file__).resolve().parents[1]


def run(words: list[str], folder: Path, site: Path | None = None) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built wheel and source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run(["-m", "uv", "build", "--quiet", "--offline", "--no-build-isolation", "--out-dir", str(folder)], ROOT)
    return folder


def install(file: Path, site: Path) -> None:
    words = ["-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    run([*words, "--python", sys.executable, "--target", str(site), str(file)], file.parent)


@pytest.mark.slow
def test_an_installed_wheel_lists_trains_and_measures(dist: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (wheel,) = dist.glob("*.whl")
    install(wheel, site)
    place = run(["-c", "import satbench; print(satbench.__file__)"], elsewhere, site)
    assert Path(place.strip()).is_relative_to(site)

    modules = {file.relative_to(ROOT) for file in (ROOT / "satbench").rglob("*.py")}
    assert {file.relative_to(site) for file in (site / "satbench").rglob("*.py")} == modules
    assert len(modules) > 40

    studies = {file.relative_to(ROOT) for file in (ROOT / "satbench/studies").glob("*.yaml")}
    assert {file.relative_to(site) for file in (site / "satbench/studies").glob("*.yaml")} == studies != set()

    listing = run(["-m", "satbench", "models"], elsewhere, site)
    for name in ("cnn-small", "smoothrelu", *yaml.safe_load((ROOT / "model_zoo.yaml").read_text(encoding="utf-8"))):
        assert name in listing.split()

    train = [
        "--epochs",
        "1",
        "--set",
        "model.width=4",
        "--set",
        "method.steps=1",
        "--set",
        "measure.evaluators=clean+fgsm+pgd:steps=1",
    ]
    run(["-m", "satbench", "train", *train, "--out", "run"], elsewhere, site)
    measure = ["--attack", "pgd", "--steps", "1", "--n", "20", "--out", "eval"]
    run(["-m", "satbench", "eval", "--model", "run", *measure], elsewhere, site)
    run(["-m", "satbench", "report", "eval", "--out", "page"], elsewhere, site)
    assert (elsewhere / "page" / "index.html").stat().st_size > 1000
    manifest = json.loads((elsewhere / "eval" / "manifest.json").read_text())
    assert manifest["revision"].startswith("files:")
    assert manifest["data"]["n"] == 20
    assert sorted(file.name for file in elsewhere.iterdir()) == ["eval", "page", "run"]


@pytest.mark.slow
def test_an_installed_source_distribution_measures(dist: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (source,) = dist.glob("*.tar.gz")
    install(source, site)
    assert run(["-m", "satbench", "--version"], elsewhere, site) == f"satbench {satbench.__version__}\n"
    measure = ["--attack", "pgd", "--steps", "1", "--n", "20", "--out", "eval"]
    run(["-m", "satbench", "eval", "--model", "digits-silu", *measure], elsewhere, site)
    assert json.loads((elsewhere / "eval" / "manifest.json").read_text())["data"]["n"] == 20


@pytest.mark.slow
def test_the_files_of_the_container_build_the_wheel(tmp_path: Path) -> None:
    """The Dockerfile copies all that the build reads; the container itself is not built here."""
    source, site = tmp_path / "source", tmp_path / "site"
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if copied := re.match(r"COPY (.*) /source/?(\S*)$", line):
            for name in copied[1].split():
                to = source / copied[2] if copied[2] == name else source / copied[2] / Path(name).name
                to.parent.mkdir(parents=True, exist_ok=True)
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, to)
    install(source, site)
    assert run(["-m", "satbench", "--version"], tmp_path, site) == f"satbench {satbench.__version__}\n"
    assert lines.index("USER satbench") < lines.index('ENTRYPOINT ["satbench"]')


def test_the_citation_names_this_version_and_licence() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["title"], cited["version"], cited["license"]) == ("satbench", satbench.__version__, "MIT")


def test_ci_runs_the_commands_of_the_makefile() -> None:
    """On the systems and versions that are supported; actions are pinned by their major version."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert set(jobs["test"]["strategy"]["matrix"]["os"]) == {"ubuntu-latest", "macos-latest"}
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    targets = {step["run"].split()[1] for step in steps if "run" in step}
    assert {"check", "test"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step)
