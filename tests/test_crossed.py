"""Intervals over images and seeds together, against other implementations and by their coverage."""

import itertools

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm, t, ttest_1samp

from satbench.results.crossed import crossed_difference, crossed_rate, holm, two_level_bootstrap
from satbench.results.metrics import wilson


def outcomes(seeds: int, n: int, spread: float = 0.05, gap: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Networks with an accuracy of their own on images whose difficulty also depends on the group."""
    generator = np.random.default_rng(seed)
    hard = generator.random(n) + 0.2 * generator.standard_normal((2, 1, n))
    level = 0.5 + spread * generator.standard_normal((2, seeds, 1)) + np.array([gap, 0.0])[:, None, None]
    ours, theirs = hard + 0.2 * generator.standard_normal((2, seeds, n)) < level
    return ours, theirs


def test_with_equal_seeds_it_is_the_t_test_over_images_and_with_equal_images_that_over_seeds() -> None:
    ours, theirs = (np.repeat(one[:1], 5, axis=0) for one in outcomes(2, 40))
    by_image = ttest_1samp((ours.astype(float) - theirs)[0], 0)
    assert crossed_difference(ours, theirs).p_value == pytest.approx(by_image.pvalue)
    generator = np.random.default_rng(1)
    ours, theirs = (np.repeat(generator.random((6, 1)) < 0.6, 30, axis=1) for _ in range(2))
    by_seed = ttest_1samp((ours.astype(float) - theirs)[:, 0], 0)
    found = crossed_difference(ours, theirs)
    assert found.p_value == pytest.approx(by_seed.pvalue)
    assert found.freedom == pytest.approx(5)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
def test_intervals_hold_the_truth_as_often_as_they_say(spread: float) -> None:
    """In 400 studies of no difference: 95% -+ 3.3%, three standard errors, or a little more."""
    found = [crossed_difference(*outcomes(5, 200, spread, seed=seed)) for seed in range(400)]
    held = sum(one.low <= 0 <= one.high for one in found)
    assert 0.917 <= held / 400 <= 0.9925
    assert sum(one.p_value < 0.05 for one in found) == 400 - held


def test_a_difference_is_found_and_groups_that_are_equal_differ_by_nothing() -> None:
    found = crossed_difference(*outcomes(5, 2000, 0.01, gap=0.1))
    assert 0 < found.low < found.difference < found.high
    ours, _ = outcomes(3, 10)
    same, z = crossed_difference(ours, ours), norm.ppf(0.975)
    assert (same.difference, same.p_value, same.freedom) == (0.0, 1.0, np.inf)
    assert (same.low, same.high) == pytest.approx((-(z**2) / (10 + z**2), z**2 / (10 + z**2)))  # Tango's, no pair apart
    assert crossed_difference(~np.zeros((2, 3), bool), np.zeros((2, 3), bool)).p_value == pytest.approx(2 / 2**3)


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
def test_the_interval_of_a_rate_holds_the_truth_at_least_as_often_as_it_says(spread: float) -> None:
    """The expected rate of `outcomes` is 1/2, by symmetry. In 400 studies: 95% - 3.3%, three standard errors."""
    found = [crossed_rate(outcomes(3, 200, spread, seed=seed)[0]) for seed in range(400)]
    assert sum(one.low <= 0.5 <= one.high for one in found) / 400 >= 0.917


def test_a_rate_is_wilsons_where_seeds_agree_and_wider_where_they_do_not() -> None:
    alone = outcomes(1, 50)[0]
    found = crossed_rate(alone)
    assert (found.low, found.high) == wilson(int(alone.sum()), 50)
    same = np.repeat(alone, 3, axis=0)
    equal, fewer = crossed_rate(same), 49 * (norm.ppf(0.975) / t.ppf(0.975, 49)) ** 2  # the t-test's images
    assert (equal.low, equal.high) == pytest.approx(wilson(found.mean * fewer, fewer))
    never = crossed_rate(np.zeros((3, 50), bool))
    assert (never.mean, never.low, never.high) == (0.0, *wilson(0, 50))
    near, apart = (
        crossed_rate(np.array([np.arange(10) < count for count in counts])) for counts in ([3] * 3, [0, 3, 6])
    )
    assert (near.seeds, near.n, near.mean) == (apart.seeds, apart.n, apart.mean) == (3, 10, pytest.approx(0.3))
    assert apart.low < near.low < near.high < apart.high
    turns = np.array([[(image + seed) % 3 == 0 or image == 0 for image in range(30)] for seed in range(3)])
    balanced = crossed_rate(turns)  # images of which each is right for one seed tell no more than others
    assert (balanced.low, balanced.high) == wilson(balanced.mean * 30, 30)
    with pytest.raises(ValueError, match="at least 1 of each"):
        crossed_rate(np.zeros((0, 5), bool))


def test_the_bootstrap_is_that_of_all_possible_draws() -> None:
    """With 2 seeds and 3 images all 4 x 27 draws can be listed; mean and quantiles of the means follow."""
    ours = np.array([[True, True, False], [True, False, True]])
    theirs = np.array([[False, True, True], [False, False, False]])
    gaps = ours.astype(float) - theirs
    every = [
        gaps[np.ix_(rows, columns)].mean()
        for rows in itertools.product(range(2), repeat=2)
        for columns in itertools.product(range(3), repeat=3)
    ]
    assert two_level_bootstrap(ours, theirs) == pytest.approx(np.quantile(every, [0.025, 0.975]), abs=1e-9)
    ours, theirs = outcomes(5, 300)
    assert two_level_bootstrap(ours, theirs) == two_level_bootstrap(ours, theirs)


def test_holm_rejects_as_the_procedure_says() -> None:
    values = [0.04, 0.001, 0.03, 0.5, 0.012]
    adjusted = holm(values)
    assert adjusted == pytest.approx([0.09, 0.005, 0.09, 0.5, 0.048])
    ordered = sorted(values)
    rejected = set()
    for rank, value in enumerate(ordered):
        if value > 0.05 / (len(values) - rank):
            break
        rejected.add(value)
    assert {value for value, one in zip(values, adjusted, strict=True) if one <= 0.05} == rejected
    assert all(one >= other for one, other in zip(adjusted, false_discovery_control(values), strict=True))
    assert holm([]) == []


@pytest.mark.parametrize("shapes", [((2, 3), (3, 2)), ((1, 5), (1, 5)), ((4, 1), (4, 1)), ((4,), (4,))])
def test_shapes_that_cannot_be_compared_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="at least 2 of each"):
        crossed_difference(*(np.zeros(shape, bool) for shape in shapes))
