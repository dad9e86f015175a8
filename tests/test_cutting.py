"""Batches depend on the plan alone, and shrink towards the end of a large run."""

import numpy as np
import pytest

from satbench.evaluation.cutting import LARGE, SMALLEST, batch_size_at, cut


def standing(images: int, share: float) -> list[int]:
    return np.flatnonzero(np.random.default_rng(0).random(images) < share).tolist()


@pytest.mark.parametrize("images", [1, 256, 257, 1000, LARGE, 50_000])
def test_every_image_is_in_one_batch_in_order(images: int) -> None:
    rows = standing(images, 0.7)
    batches = cut(rows, images, 256)
    assert [row for batch in batches for row in batch] == rows
    assert all(1 <= len(batch) <= 256 for batch in batches)


@pytest.mark.parametrize("images", [100, 5000, 10_000, LARGE])
def test_batches_of_a_run_up_to_the_limit_are_full_but_the_last(images: int) -> None:
    batches = cut(range(images), images, 256)
    assert [len(batch) for batch in batches[:-1]] == [256] * ((images - 1) // 256)


def test_batches_of_a_large_run_shrink_to_the_smallest() -> None:
    sizes = [len(batch) for batch in cut(range(50_000), 50_000, 256)]
    assert sizes[0] == 256
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert sizes[-2] == SMALLEST


def test_a_batch_size_below_the_smallest_stays() -> None:
    assert {batch_size_at(row, 50_000, 8) for row in range(0, 50_000, 500)} == {8}


def test_batches_of_what_is_known_so_far_are_those_of_the_whole() -> None:
    """A worker may start a batch before the step before it has ended."""
    rows = standing(50_000, 0.5)
    whole = cut(rows, 50_000, 256)
    for known in (0, 1, 255, 256, 10_000, len(rows) - 1, len(rows)):
        begun = cut(rows[:known], 50_000, 256, ended=False)
        assert begun == whole[: len(begun)]
        missing = known - sum(map(len, begun))
        assert 0 <= missing <= 256
