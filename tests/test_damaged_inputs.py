"""Some of the mutants of `fuzz/inputs.py`, of every kind of file."""

import random
from pathlib import Path

import pytest
from fuzz.inputs import FAULTS, KINDS, mutate, outcome

EACH = 25


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    content = kind.content()
    (tmp_path / kind.file).write_bytes(content)
    whole = kind.read(tmp_path / kind.file)
    found = []
    for seed in range(EACH):
        mutant = mutate(content, random.Random(f"{name} {seed}"), kind.is_text)
        found.append(outcome(kind, mutant, whole, tmp_path, []))
    assert [one for one in found if one[0] in FAULTS] == []
    assert any(one[0] == "refused" for one in found) or name == "image, BMP"
