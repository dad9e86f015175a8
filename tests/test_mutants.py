"""Some damaged and forged files of every kind; `fuzz/run.py` reads them by the thousand."""

import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.kind import expected, mutate, outcome, watch
from fuzz.run import GOOD, KINDS
from fuzz.saved import SAVED

EACH = 40


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable[[Path], object], Path]:
    """One folder for each way to write right files."""
    watch()
    folders = {kind.write: tmp_path_factory.mktemp("right") for kind in KINDS.values()}
    for write, folder in folders.items():
        write(folder)
    return folders


@pytest.mark.one_in(9)
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", KINDS)
def test_damage_is_refused_in_one_line_or_changes_nothing_that_is_covered(
    name: str, written: dict[Callable[[Path], object], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KINDS[name]
    for variable in ("TORCH_HOME", "SATBENCH_HOME"):  # which a kind sets; put back afterwards
        monkeypatch.setenv(variable, str(tmp_path))
    right = written[kind.write]
    wanted = expected(kind, right)
    found: Counter[str] = Counter()
    for number in range(EACH):
        folder = shutil.copytree(right, tmp_path / f"{number}")
        mutate(kind, folder, random.Random(f"test {name} {number}"))
        result, said, _ = outcome(kind, folder, wanted)
        assert result in GOOD, (number, result, said)
        found[result] += 1
    if name in SAVED:
        assert found["refused"] > EACH // 3
    elif name != "BMP image":  # which is but a header and pixels
        assert found["refused"]
