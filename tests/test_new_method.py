"""A correct method that is added as CONTRIBUTING.md says passes the tests as they are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = ("test_methods.py", "test_training.py", "test_every_training.py")


@pytest.mark.slow
def test_a_method_added_as_the_guide_says_passes_the_tests_untouched() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "new_method"]
    words += [
        "-m",
        "not slow or left_out",
        "-k",
        "late or under_contract or every_method",
        *(str(HERE / file) for file in FILES),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout
    passed = int(done.stdout.split(" passed")[0].split()[-1])
    assert passed >= 15, done.stdout
