"""The wheel works outside the checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


@pytest.mark.slow
def test_an_installed_wheel_lists_trains_and_measures(tmp_path: Path) -> None:
    dist, site, elsewhere = (tmp_path / name for name in ("dist", "site", "elsewhere"))
    elsewhere.mkdir()
    run(["-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)], ROOT)
    (wheel,) = dist.glob("*.whl")
    run(["-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], elsewhere)
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
