"""The scripts of examples/ run, and print what they promise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAID = {  # arguments after the folder, and what the output has
    "attack_your_model": ([], ("worst case  Linf  0.10  100", "trust: ")),
    "compare_activations": (["1"], ("clean accuracy: A ", "robust accuracy at Linf 0.1 under PGD-20: A ")),
    "analyse_records": ([], ("clean", "PGD-20", "Name: fell_at")),
}


def test_every_script_is_run() -> None:
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == set(SAID)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    arguments, expected = SAID[name]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(ROOT / "examples" / f"{name}.py"), str(tmp_path / "runs"), *arguments]
    done = subprocess.run(words, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    for text in expected:
        assert text in done.stdout, done.stdout
