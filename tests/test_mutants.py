"""Some damaged and forged files of every kind; `fuzz/run.py` reads them by the thousand."""

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from fuzz.mutants import KINDS, expected, mutate, outcome

EACH = 40


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each way to write right files."""
    root = tmp_path_factory.mktemp("right")
    for write in {kind.write for kind in KINDS.values()}:
        (root / write.__name__).mkdir()
        write(root / write.__name__)
    return root


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_refused_in_one_line_or_changes_nothing(
    name: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[name]
    for variable in ("TORCH_HOME", "SATBENCH_HOME"):  # which a kind sets; put back afterwards
        monkeypatch.setenv(variable, str(tmp_path))
    right = written / kind.write.__name__
    wanted = expected(kind, right)
    found: Counter[str] = Counter()
    for number in range(EACH):
        place = shutil.copytree(right, tmp_path / f"{number}")
        mutate(kind, place, random.Random(f"test {name} {number}"))
        begun = time.monotonic()
        found[outcome(kind, place, wanted)] += 1
        assert time.monotonic() - begun < 5
    assert set(found) <= {"refused", "right", *(("forged",) if kind.forged else ())}, found
    assert found["refused"] > EACH // 3
