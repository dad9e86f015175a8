"""One seed gives every number; a sample's numbers depend on nothing but seed, purpose and its id."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from satbench.numerics.seeding import PerSample, derive, generator, integer, normal, rows, uniform

IDS = ("a", "b", "c", "d")
LIKE = torch.empty(4, 3, 2, 2)
DRAWS = [pytest.param(uniform, id="uniform"), pytest.param(normal, id="normal")]


def test_same_purpose_gives_the_same_numbers() -> None:
    assert torch.equal(uniform(LIKE, generator(1, "attack", 5)), uniform(LIKE, generator(1, "attack", 5)))


@pytest.mark.parametrize("other", [(2, "attack", 5), (1, "order", 5), (1, "attack", 6), (1, "attack"), (1, "attack5")])
def test_another_seed_or_purpose_gives_other_numbers(other: tuple[int, ...]) -> None:
    assert not torch.equal(uniform(LIKE, generator(1, "attack", 5)), uniform(LIKE, generator(*other)))


def test_parts_of_a_purpose_do_not_run_together() -> None:
    assert len({derive(1, "ab", "c"), derive(1, "a", "bc"), derive(1, "abc"), derive(1, "a, b", "c")}) == 4


@settings(deadline=None, derandomize=True)
@given(st.integers(-(2**70), 2**70), st.text("ab 0,'\""))
def test_derived_seeds_fit_torch(seed: int, purpose: str) -> None:
    assert 0 <= derive(seed, purpose) < 2**63


@pytest.mark.left_out
def test_derived_seeds_do_not_depend_on_the_process() -> None:
    code = "from satbench.numerics.seeding import derive; print(derive(7, 'attack', 3))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(out.stdout) == derive(7, "attack", 3)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_samples_numbers_do_not_depend_on_batch_or_order(draw) -> None:
    whole = draw(LIKE, PerSample.of(3, IDS, "attack"))
    turned = draw(LIKE, PerSample.of(3, IDS[::-1], "attack"))
    alone = [draw(LIKE[:1], PerSample.of(3, [name], "attack")) for name in IDS]
    assert torch.equal(whole, turned.flip(0))
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.parametrize("draw", DRAWS)
def test_samples_seeds_and_purposes_differ(draw) -> None:
    whole = draw(LIKE, PerSample.of(3, IDS, "attack"))
    assert len({tuple(row.flatten().tolist()) for row in whole}) == len(IDS)
    assert not torch.equal(whole, draw(LIKE, PerSample.of(4, IDS, "attack")))
    assert not torch.equal(whole, draw(LIKE, PerSample.of(3, IDS, "other")))


def test_rows_keep_the_streams_of_their_samples() -> None:
    index = torch.tensor([2, 0])
    picked = uniform(LIKE[:2], rows(PerSample.of(3, IDS), index))
    assert torch.equal(picked, uniform(LIKE, PerSample.of(3, IDS))[index])


def test_a_stream_moves_on_with_every_draw() -> None:
    streams = PerSample.of(3, IDS)
    assert not torch.equal(uniform(LIKE, streams), uniform(LIKE, streams))


def test_rows_of_a_shared_generator_are_that_generator() -> None:
    shared = generator(0)
    assert rows(shared, torch.tensor([1])) is shared


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_have_shape_and_dtype_of_their_model(draw, dtype: torch.dtype) -> None:
    for randomness in (generator(0), PerSample.of(0, IDS)):
        drawn = draw(LIKE.to(dtype), randomness)
        assert drawn.shape == LIKE.shape
        assert drawn.dtype == dtype


@pytest.mark.parametrize("draw", DRAWS)
def test_an_empty_batch_draws_nothing(draw) -> None:
    assert draw(LIKE[:0], PerSample.of(0, [])).shape == (0, 3, 2, 2)


def test_moments_of_the_draws() -> None:
    many = torch.empty(20, 1, 40, 40, dtype=torch.float64)
    streams = [str(i) for i in range(20)]
    flat, bell = uniform(many, PerSample.of(0, streams)), normal(many, PerSample.of(0, streams))
    assert flat.min() >= 0
    assert flat.max() < 1
    assert flat.mean().item() == pytest.approx(1 / 2, abs=0.01)
    assert flat.var().item() == pytest.approx(1 / 12, abs=0.005)
    assert bell.mean().item() == pytest.approx(0, abs=0.03)
    assert bell.var().item() == pytest.approx(1, abs=0.03)


def test_integers_are_31_bit_and_repeatable() -> None:
    for make in (lambda: generator(5), lambda: PerSample.of(5, IDS)):
        first, again = integer(make()), integer(make())
        assert first == again
        assert 0 <= first < 2**31


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    uniform(LIKE, PerSample.of(0, IDS))
    normal(LIKE, generator(0))
    integer(generator(0))
    assert torch.equal(before, torch.get_rng_state())
